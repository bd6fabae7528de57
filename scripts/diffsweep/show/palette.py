"""The colours, in one place: the pictures use them as they are, the report as CSS variables of the same names.

Colour means the engine, in every picture. The colours are told apart under the common colour-vision deficiencies
(tests/test_show.py simulates them) and have at least 3:1 contrast on white.
"""

INK = "#1b2733"  # text, the front
MUTED = "#566370"  # second-rank text
FAINT = "#b4bec8"  # leader lines, bands, dominated points
GRID = "#e4e9ee"
BAND = "#eef1f4"
PAPER = "#ffffff"
ALARM = "#b3261e"

ENGINE_COLOURS = {
    "torch": "#d5641c",
    "onnxruntime": "#1a66c2",
    "openvino": "#0aa07f",
    "tensorrt": "#a23f97",
}
OTHER_ENGINE = "#5a5f68"
ENGINE_NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}

# The parts of a request in the order in which they happen: blues for the model's own work, the steps the strongest.
PART_COLOURS = {
    "queue": "#8d99a6",
    "prompt": "#123f73",
    "setup": "#6b5fa8",
    "steps": "#3f7fbf",
    "decode": "#8fbbe3",
    "encode": "#cfe0f0",
    "transfer": "#c4a35a",
}

# What the report turns into CSS variables, so that its pictures follow the reader's light or dark setting.
# Each name is a variable of show/report.css.
THEMED = {
    INK: "ink",
    MUTED: "muted",
    FAINT: "faint",
    GRID: "grid",
    BAND: "band",
    PAPER: "paper",
    ALARM: "alarm",
    OTHER_ENGINE: "engine-other",
    **{colour: f"engine-{engine}" for engine, colour in ENGINE_COLOURS.items()},
    **{colour: f"part-{part}" for part, colour in PART_COLOURS.items()},
}
