"""What an artifact really runs: dtypes of weights and of executed operators, providers, graph breaks.

"Executed operators" are the ones that carry the work of a denoiser: convolutions, matrix products (linear layers
included) and fused attention, counted in one call by the dtype that they compute in.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

CLAIMED_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}

# More than this share of the compute operators must run in what an artifact claims; in fp32 all of them. Engines
# quantise what they have kernels for: of the reference model's operators torchao 0.55 (linear layers only), ONNX
# Runtime 0.72, OpenVINO 0.87.
SHARE = {"bf16": 1 / 2, "fp16": 1 / 2, "int8": 1 / 3}

# How engines spell dtypes -> the words used here. Signed and unsigned 8 bits run on the same units, so both are int8.
DTYPE_NAMES = {
    **{name: "float32" for name in ("float", "f32", "fp32", "float32")},
    **{name: "bfloat16" for name in ("bf16", "bfloat16")},
    **{name: "float16" for name in ("half", "f16", "fp16", "float16")},
    **{name: "int8" for name in ("i8", "u8", "int8", "uint8")},
}


@dataclass(frozen=True)
class Census:
    """weights: number of parameters by dtype; operators: executed compute operators of one denoiser call by dtype;
    providers: what executed them; graph_breaks: None unless compiled; engaged: whether all this bears out what the
    artifact claims; detail: one sentence that says so, or what is wrong."""

    weights: dict[str, int]
    operators: dict[str, int]
    providers: tuple[str, ...]
    graph_breaks: int | None
    engaged: bool
    detail: str

    def as_dict(self) -> dict:
        return {**asdict(self), "providers": list(self.providers)}


def dtype_name(engine_name: str) -> str:
    """The common name of a dtype (`u8` -> `int8`, `torch.float16` -> `float16`); unknown ones stay as they are."""
    name = engine_name.removeprefix("torch.").lower()
    return DTYPE_NAMES.get(name, name)


def count_dtypes(names: Iterable[str]) -> dict[str, int]:
    """How often each dtype occurs, by its common name."""
    return dict(Counter(dtype_name(name) for name in names).most_common())


def missing_precision(precision: str, operators: dict[str, int]) -> str | None:
    """Why `operators` do not bear out `precision`; None when enough of them compute in it."""
    total = sum(operators.values())
    claimed = operators.get(CLAIMED_DTYPE[precision], 0)
    if total == 0:
        return "no compute operator was seen"
    enough = claimed == total if precision == "fp32" else claimed > SHARE[precision] * total
    return None if enough else f"only {claimed} of {total} compute operators run in {CLAIMED_DTYPE[precision]}"


def judge(
    artifact: dict,
    *,
    weights: dict[str, int],
    operators: dict[str, int],
    providers: Iterable[str],
    expected_provider: str,
    graph_breaks: int | None = None,
    compiled_calls: int | None = None,
    problems: Iterable[str] = (),
) -> Census:
    """The census of `artifact`, engaged or not.

    `expected_provider` must be among `providers`. `compiled_calls`: how many compiled graphs ran, for an artifact that
    claims to be compiled. `problems`: what else belies the artifact's claims, found by its engine.
    """
    providers = tuple(providers)
    wrong = [missing_precision(artifact["precision"], operators), *problems]
    if expected_provider not in providers:
        wrong.append(f"{expected_provider} is not among the providers that ran ({', '.join(providers) or 'none'})")
    if artifact.get("compile") and not compiled_calls:
        wrong.append("no compiled code ran")
    reasons = [reason for reason in wrong if reason]
    detail = "; ".join(reasons) or describe(artifact, operators, graph_breaks, compiled_calls)
    return Census(weights, operators, providers, graph_breaks, not reasons, detail)


def describe(artifact: dict, operators: dict[str, int], graph_breaks: int | None, compiled_calls: int | None) -> str:
    """One sentence on what runs."""
    claimed = CLAIMED_DTYPE[artifact["precision"]]
    text = f"{operators[claimed]} of {sum(operators.values())} compute operators run in {claimed}"
    if compiled_calls:
        text += f"; {compiled_calls} compiled graph(s), {graph_breaks} graph break(s)"
    return text
