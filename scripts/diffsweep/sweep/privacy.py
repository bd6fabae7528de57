"""What a result must not say: where its maker's home is, what the checkout is called, a token."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from diffsweep.sweep.environments import PROJECT

# A path begins where nothing of a longer word, path or base64 text stands before it.
_BEGIN = rb"(?<![A-Za-z0-9+/=._~-])"
_END = rb"(?![A-Za-z0-9._-])"
HOMES = _BEGIN + rb"(?:/home/|/Users/|[A-Z]:\\Users\\)[A-Za-z0-9._-]+|" + _BEGIN + rb"/roo[t]/"
TOKENS = rb"|".join(
    (
        rb"\bhf_[A-Za-z0-9]{20,}",  # Hugging Face
        rb"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{40,}|\bglpat-[A-Za-z0-9_-]{20,}",  # GitHub, GitLab
        rb"\bsk-[A-Za-z0-9_-]{30,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abps]-[A-Za-z0-9-]{10,}",  # OpenAI, AWS, Slack
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        rb"://[^/\s:@\"']+:[^/\s:@\"']+@",  # a password in an address
    )
)
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", re.IGNORECASE)
SECRET_LENGTH = 8  # a shorter value would be found by chance
NAME_LENGTH = 5  # and so would a shorter account name; "root" is a word of its own


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    return tuple((name, re.compile(pattern)) for name, pattern in _sources())


def _sources() -> Iterator[tuple[str, bytes]]:
    yield "a token or password", TOKENS
    values = {v for k, v in os.environ.items() if SECRET_NAME.search(k) and len(v) >= SECRET_LENGTH}
    if values:
        yield "the value of a secret environment variable", b"|".join(re.escape(v.encode()) for v in sorted(values))
    for name, folder in (("the folder of this checkout", PROJECT), ("your home folder", Path.home())):
        if len(folder.parts) > 1:
            yield name, _BEGIN + re.escape(str(folder).encode()) + _END
    yield "somebody's home folder", HOMES
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    if len(user) >= NAME_LENGTH:
        yield "your account's name", rb"\b" + re.escape(user.encode()) + rb"\b"


def find_private(content: bytes) -> str | None:
    """What `content` says that it must not, in words; None when there is nothing. The find itself is not repeated."""
    return next((name for name, pattern in _patterns() if pattern.search(content)), None)


def impersonal(text: str) -> str:
    """`text` with paths inside the checkout made relative, home folders as ~, and tokens blotted out."""
    for folder, short in ((PROJECT, "."), (Path.home(), "~")):
        if len(folder.parts) > 1:
            text = text.replace(f"{folder}/", "" if short == "." else f"{short}/").replace(str(folder), short)
    return re.sub(TOKENS.decode(), "***", text)
