"""`snakemake --lint`, but for the one message that does not apply here. Arguments are Snakemake's (a profile).

Snakemake wants a conda or container directive in every rule that runs a program. It has no support for locked uv
environments; the programs run inside theirs through scripts/in_env.
"""

import re
import subprocess
import sys

EXPECTED = "Specify a conda environment or container for each rule."


def main() -> None:
    command = [sys.executable, "-m", "snakemake", "--lint", *sys.argv[1:]]
    done = subprocess.run(command, text=True, capture_output=True)
    report = done.stdout + done.stderr
    messages = re.findall(r"^    \* (.+?):?$", report, re.MULTILINE)
    if not messages:
        sys.exit(f"snakemake --lint did not say even what it always says:\n{report}")
    unexpected = [message for message in messages if not message.startswith(EXPECTED)]
    print(f"snakemake --lint: {len(messages)} messages, {len(unexpected)} unexpected")
    if unexpected:
        sys.exit("\n".join(unexpected))


if __name__ == "__main__":
    main()
