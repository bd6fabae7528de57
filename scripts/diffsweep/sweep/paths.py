"""Where everything lies: results/<sweep>/<model>/<target>/<variant>/<stage>, artifacts under results/artifacts/."""

RESULTS = "results"
ARTIFACTS = f"{RESULTS}/artifacts"

ONNX_MANIFEST = ARTIFACTS + "/{model}/onnx/manifest.json"
MANIFEST = ARTIFACTS + "/{model}/{artifact}/manifest.json"
RECEIPT = RESULTS + "/envs/{environment}-{digest}.txt"
