"""Where everything lies: results/<sweep>/<model>/<target>/<variant>/<stage>, artifacts under results/artifacts/."""

from pathlib import PurePosixPath

RESULTS = "results"
ARTIFACTS = f"{RESULTS}/artifacts"

ONNX_MANIFEST = ARTIFACTS + "/{model}/onnx/manifest.json"
MANIFEST = ARTIFACTS + "/{model}/{artifact}/manifest.json"
RECEIPT = RESULTS + "/envs/{environment}-{digest}.txt"

SWEEP = RESULTS + "/{sweep}"
CELL = SWEEP + "/{model}/{target}/{variant}"
REPLICATE = CELL + "/replicate-{replicate}"


def parse_cell(path: str) -> dict[str, str]:
    """The names in a path below results/. Raises ValueError when it does not follow the grammar."""
    parts = PurePosixPath(path).parts
    if len(parts) < 6 or parts[0] != RESULTS or parts[1] == "artifacts":
        raise ValueError(f"{path}: not results/<sweep>/<model>/<target>/<variant>/<stage>")
    return dict(zip(("sweep", "model", "target", "variant"), parts[1:5], strict=True))
