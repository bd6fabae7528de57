"""Where a model lies, and how its FP32 original is loaded: safetensors only, no remote code, nothing made up."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffsweep.engines.imports import import_diffusers
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import read_json
from diffsweep.sweep.models import WEIGHTED, refusal
from diffsweep.sweep.outcomes import Failed, Unsupported

# What is fetched of a hub model; a second, half-precision copy of the weights is left out.
HUB_FILES = ("model_index.json", "scheduler/*.json", "tokenizer/*", *(f"{name}/*.json" for name in WEIGHTED))
HUB_WEIGHTS = tuple(f"{name}/*.safetensors" for name in WEIGHTED)


def source_of(model: dict) -> Path:
    """The folder of a model of the config: {"path"}, relative to the project, or {"hub", "revision"}, fetched once.

    Raises Failed when it cannot be had or must not be loaded, Unsupported when it is not a Stable Diffusion pipeline.
    """
    folder = PROJECT / model["path"] if "path" in model else _fetch(model["hub"], model["revision"])
    index = folder / "model_index.json"
    if not index.is_file():
        raise Failed(f"model {model['name']}: {folder} has no model_index.json")
    refused = refusal(folder)
    if refused:
        raise Failed(f"model {model['name']}: {refused}")
    kind = read_json(index)["_class_name"]
    if kind != "StableDiffusionPipeline":
        raise Unsupported(f"model {model['name']} is a {kind}; only StableDiffusionPipeline can be run so far")
    return folder


def _fetch(hub: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                hub, revision=revision, allow_patterns=[*HUB_FILES, *HUB_WEIGHTS], ignore_patterns=["*.fp16.*"]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise Failed(f"model {hub} at {revision[:12]} could not be fetched from the hub: {reason}") from error


def load_original(source: Path, dtype: str = "float32"):
    """The StableDiffusionPipeline in the folder `source`, in eager PyTorch, its weights cast to `dtype`.

    Raises Failed when a component holds weights that are in none of its files: libraries initialise what they do not
    find at random, and say so in a warning at most.
    """
    import torch

    pipeline = import_diffusers().StableDiffusionPipeline.from_pretrained(
        source,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        local_files_only=True,
        safety_checker=None,
        requires_safety_checker=False,
    )
    refuse_invented(pipeline, source)
    return pipeline


def refuse_invented(pipeline, source: Path) -> None:
    """Raise Failed when a component of `pipeline` holds weights that are in none of its files below `source`."""
    for name in WEIGHTED:
        invented = invented_weights(getattr(pipeline, name), sorted((source / name).glob("*.safetensors")))
        if invented:
            raise Failed(
                f"{name}: {len(invented)} weights are in none of the model's files and were made up, such as "
                f"{invented[0]}; was it saved by another version of its library?"
            )


def invented_weights(module, files: Iterable[Path]) -> list[str]:
    """Names of the parameters of `module` whose values are in none of the safetensors `files`.

    Values are compared, not names, which libraries change when they load.
    """
    parameters = dict(module.named_parameters())
    dtypes = {parameter.dtype for parameter in parameters.values()}
    stored = {_digest(tensor.to(dtype)) for tensor in _tensors(files) for dtype in dtypes}
    return [name for name, parameter in parameters.items() if _digest(parameter) not in stored]


def _tensors(files: Iterable[Path]) -> Iterator:
    from safetensors import safe_open

    for path in files:
        with safe_open(path, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118  not a dict
                yield handle.get_tensor(name)


def _digest(tensor) -> bytes:
    """Of the values alone: a 1x1 convolution may have been loaded as a linear layer."""
    import torch

    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(data.numpy(), digest_size=16).digest()
