"""The body of `POST /v1/images/generations` -> what is to be generated, or one clear sentence about what is wrong.

Every field is checked here, before anything is queued: a request that a pipeline would choke on, or silently read as
something else, never reaches it. Unknown fields are refused, since a mistyped `num_inference_step` would otherwise
measure something else than was asked for.
"""

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What openai's client may send and what cannot change the image here: accepted and left aside.
IGNORED = frozenset({"user", "quality", "style", "background", "moderation", "output_compression"})
KNOWN = IGNORED | {
    *("model", "prompt", "negative_prompt", "n", "size", "response_format", "output_format", "stream"),
    *("seed", "num_inference_steps", "guidance_scale", "scheduler"),
}
LARGEST_SEED = 2**63 - 1

# A header says that a request is warm-up, not a field of the body: it must not change what is generated, and it is
# known even of a request whose body is refused.
WARMUP_HEADER = "Diffsweep-Warmup"


class BadRequest(Exception):
    """A request that is refused. `message`: one sentence; `param`: the field; `code`: a word for programs."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str = "invalid_value"):
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


@dataclass(frozen=True)
class Limits:
    """What a server accepts. `queue`: requests waiting for the pipeline, beyond which the answer is 429."""

    prompt_characters: int = 4000
    steps: int = 1000
    guidance: float = 50.0
    n: int = 8
    queue: int = 64
    body_bytes: int = 1_000_000


@dataclass(frozen=True)
class Service:
    """What one server answers for: a model, the size it was converted for, and a variant's settings as defaults.

    variant, artifact: their names, for whoever watches the server.
    """

    model: str
    width: int
    height: int
    scheduler: str
    steps: int
    guidance: float
    schedulers: tuple[str, ...]
    limits: Limits = Limits()
    variant: str = ""
    artifact: str = ""

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Wanted:
    """A valid request: one image per seed, all else equal."""

    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    scheduler: str
    steps: int
    guidance: float
    width: int
    height: int

    @property
    def settings(self) -> tuple:
        """What requests must share to be made in one call (engines.pipelines.SETTINGS)."""
        return (self.scheduler, self.steps, self.guidance, self.width, self.height)


def parse_request(body: bytes, service: Service) -> Wanted:
    """What `body` asks `service` for. Raises BadRequest."""
    fields = _fields(body)
    _check_constants(fields, service)
    limits = service.limits
    n = _whole(fields, "n", 1, limits.n, default=1)
    seed = _whole(fields, "seed", 0, LARGEST_SEED - limits.n, default=secrets.randbelow(2**31))
    return Wanted(
        prompt=_text(fields, "prompt", limits),
        negative_prompt=_text(fields, "negative_prompt", limits, default=""),
        seeds=tuple(range(seed, seed + n)),
        scheduler=_one_of(fields, "scheduler", service.schedulers, default=service.scheduler),
        steps=_whole(fields, "num_inference_steps", 1, limits.steps, default=service.steps),
        guidance=_number(fields, "guidance_scale", 0, limits.guidance, default=service.guidance),
        width=service.width,
        height=service.height,
    )


def read_warmup(headers: Mapping[str, str]) -> bool:
    """Whether a request says that it is warm-up, which /metrics counts apart. Raises BadRequest."""
    word = headers.get(WARMUP_HEADER, "false")
    if word not in ("true", "false"):
        raise BadRequest(f"The header {WARMUP_HEADER} must be 'true' or 'false'; got {_short(word)}.")
    return word == "true"


def _fields(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object; null counts as absent, as in openai's interface."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8 (byte {error.start}).", code="invalid_encoding") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number with thousands of digits
        raise BadRequest(f"The body is not valid JSON: {_short(error)}.", code="invalid_json") from None
    if not isinstance(document, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    unknown = sorted(document.keys() - KNOWN)
    if unknown:
        raise BadRequest(f"Unknown field {_short(unknown[0])}.", _plain(unknown[0]), code="unknown_parameter")
    return {key: value for key, value in document.items() if value is not None}


def _check_constants(fields: Mapping, service: Service) -> None:
    model = fields.get("model", service.model)
    if model != service.model:
        message = f"There is no model {_short(model)} here; this server runs {service.model!r}."
        raise BadRequest(message, "model", 404, "model_not_found")
    if fields.get("size", "auto") not in ("auto", service.size):
        raise BadRequest(f"size must be {service.size!r}; got {_short(fields['size'])}.", "size")
    _one_of(fields, "response_format", ("b64_json",), default="b64_json")
    _one_of(fields, "output_format", ("png",), default="png")
    if fields.get("stream", False) is not False:
        raise BadRequest("stream must be false: images are sent whole.", "stream")


def _text(fields: Mapping, name: str, limits: Limits, default: str | None = None) -> str:
    text = fields.get(name, default)
    if text is None:
        raise BadRequest(f"{name} is missing; send a string (an empty one is valid).", name, code="missing_field")
    if not isinstance(text, str):
        raise BadRequest(f"{name} must be a string; got {_short(text)}.", name)
    if len(text) > limits.prompt_characters:
        message = f"{name} has {len(text)} characters; at most {limits.prompt_characters} are accepted."
        raise BadRequest(message, name, code="too_long")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # "\\ud800" is valid JSON, and no character
        message = f"{name} is not valid Unicode (half a surrogate pair at character {error.start})."
        raise BadRequest(message, name, code="invalid_encoding") from None
    return text


def _whole(fields: Mapping, name: str, low: int, high: int, default: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}; got {_short(value)}.", name)
    return value


def _number(fields: Mapping, name: str, low: float, high: float, default: float) -> float:
    value = fields.get(name, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise BadRequest(f"{name} must be a number from {low:g} to {high:g}; got {_short(value)}.", name)
    return float(value)


def _one_of(fields: Mapping, name: str, allowed: tuple[str, ...], default: str) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in allowed:
        choice = " or ".join(repr(word) for word in allowed)
        raise BadRequest(f"{name} must be {choice}; got {_short(value)}.", name)
    return value


def _short(value: Any) -> str:
    """A value for a message: one line of at most 60 printable characters."""
    text = str(value) if isinstance(value, Exception) else ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(name: str) -> str:
    return name.encode("ascii", "replace").decode()[:60]
