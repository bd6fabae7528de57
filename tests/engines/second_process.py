"""Load a compiled artifact and make images in several batch sizes; Dynamo's and Inductor's counters on stdout, and the
largest difference of any pixel to the same images made one by one.

scripts/in_env torch python tests/engines/second_process.py MODEL_FOLDER ARTIFACT_FOLDER ARTIFACT_JSON
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import numpy as np  # noqa: E402

from diffsweep.engines.pipelines import ImageRequest, generate  # noqa: E402
from diffsweep.engines.pytorch import load  # noqa: E402


def main(source: Path, folder: Path, artifact: dict) -> None:
    pipeline = load(source, folder, artifact)
    requests = [ImageRequest("a", "", seed, "ddim", 2, 3.0, 16, 16) for seed in range(4)]
    batches = [generate(pipeline, requests[:images])[0] for images in (1, 2, 3, 4)]
    alone = np.concatenate([generate(pipeline, [request])[0] for request in requests])
    batch = max(int(np.abs(made.astype(int) - alone[: len(made)].astype(int)).max()) for made in batches)

    from torch._dynamo.utils import counters

    print(json.dumps({"stats": counters["stats"], "inductor": counters["inductor"], "batch": batch}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
