"""What every manifest says about its artifact besides parity and census: files, versions, memory."""

import importlib.metadata
import platform
from pathlib import Path

from diffsweep.sweep.files import digest_file, list_files, read_json, write_json

# The packages whose version can change what an artifact computes, or how fast; those not installed are left out.
PACKAGES = (
    "torch",
    "torchao",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
)


def describe_files(folder: Path) -> list[dict]:
    """Path, size and digest of every file below `folder`, but for the manifest itself."""
    return [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest_file(path)}
        for path in list_files(folder)
        if path.name != "manifest.json"
    ]


def versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not part of this environment
    return installed


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far (VmHWM of /proc, which counts in KiB)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget_origin(folder: Path) -> None:
    """Take the path that a model was loaded from out of every config below `folder`; the libraries write it there."""
    for path in folder.rglob("*.json"):
        content = read_json(path)
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_json(path, content)
