"""`snakemake --lint`, but for the one message that does not apply here.

Snakemake wants a conda or container directive in every rule that runs a program. It has no support for locked uv
environments; the programs run inside theirs through scripts/in_env.
"""

import json
import subprocess
import sys

EXPECTED = {"Specify a conda environment or container for each rule."}


def main() -> None:
    command = [sys.executable, "-m", "snakemake", "--lint", "json"]
    done = subprocess.run(command, text=True, capture_output=True)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"snakemake --lint did not run:\n{done.stdout}{done.stderr}")
    lints = [(rule["for"], lint) for part in report.values() for rule in part for lint in rule["lints"]]
    unexpected = [f"{where}: {lint['title']}" for where, lint in lints if lint["title"] not in EXPECTED]
    print(f"snakemake --lint: {len(lints)} messages, {len(unexpected)} unexpected")
    if unexpected:
        sys.exit("\n".join(unexpected))


if __name__ == "__main__":
    main()
