"""Is a model's folder safe to load? Weights as safetensors, no code of its own, nothing that lies outside of it."""

import json
import os
from pathlib import Path

WEIGHTED = ("text_encoder", "unet", "vae")  # the components that have weights
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")  # loading one can run any code
# "stable_diffusion" is a module of diffusers, where the safety checker is.
KNOWN_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")


def refusal(folder: Path) -> str | None:
    """Why the diffusers pipeline in `folder` must not be loaded, and the mend, in one line; None when it may be."""
    return _pickled(folder) or _own_code(folder) or None


def link_out_of(folder: Path) -> str | None:
    """The first symbolic link below `folder` that leads out of it, as a path inside it.

    Not asked of what the hub's client fetched: it keeps files in a store of its own and links them.
    """
    inside = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                return path.relative_to(folder).as_posix()
    return None


def _pickled(folder: Path) -> str | None:
    for component in (name for name in WEIGHTED if (folder / name).is_dir()):
        names = sorted(path.name for path in (folder / component).iterdir())
        if any(name.endswith(".safetensors") for name in names):
            continue
        pickled = [name for name in names if name.endswith(PICKLED)]
        said = f"are pickled ({pickled[0]}), and loading a pickle can run any code" if pickled else "are not there"
        return f"the weights of {component} {said}; save the model with safe_serialization=True (safetensors)"
    return None


def _own_code(folder: Path) -> str | None:
    """model_index.json names a library for each component; another name is a Python file beside the weights."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its model_index.json cannot be read as JSON; save the model again with save_pretrained"
    if not isinstance(index, dict):
        return "its model_index.json is no JSON object; save the model again with save_pretrained"
    for name, value in index.items():
        library = value[0] if isinstance(value, list) and value else None  # null: the component is left out
        if isinstance(library, str) and library not in KNOWN_LIBRARIES:
            return f"{name} comes with code of its own ({library!r}), and code that comes with a model is never run"
    return None
