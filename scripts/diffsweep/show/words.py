"""Numbers and verdicts as words: the same everywhere, in pictures, in the report and in the terminal.

A number is shown with as many digits as it deserves; what was not measured is "n/a". Standard library only, so that
the terminal's table is there at once.
"""

import math
import re
from collections.abc import Callable

NOT_MEASURED = "n/a"
_UNIT = re.compile(r"(?: [A-Za-z%]+|×)?$")  # behind a number: " ms", " %", "×"

VERDICTS = ("improved", "regressed", "within noise", "cannot tell")
VERDICT_SIGNS = {"improved": "▲", "regressed": "▼", "within noise": "≈", "cannot tell": "?"}


def missing(value) -> bool:
    """Was this not measured? (None, NaN, infinite, an empty field)"""
    if value is None or value == "":
        return True
    return isinstance(value, float | int) and not math.isfinite(value)


def number(value, digits: int = 3) -> str:
    """`digits` significant digits, thousands separated, never in exponent form: 0.0123, 1.52, 24.1, 12,340."""
    if missing(value):
        return NOT_MEASURED
    value = float(value)
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    rounded = round(value, decimals)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded)))) if rounded else decimals
    return f"{rounded:,.{decimals}f}"


def fixed(decimals: int) -> Callable[[float], str]:
    """A format with a fixed number of decimals, for columns that must line up."""
    return lambda value: NOT_MEASURED if missing(value) else f"{float(value):,.{decimals}f}"


def psnr(value) -> str:
    """A PSNR in dB, which images that agree to rounding have no meaningful one of: those are capped at 100."""
    return NOT_MEASURED if missing(value) else "≥ 100" if value >= 100 else f"{value:.1f}"


def seconds(value) -> str:
    """A time with the unit that suits it: 41.2 ms, 1.24 s, 12 min 5 s, 1 h 4 min."""
    if missing(value):
        return NOT_MEASURED
    if abs(value) < 0.9995:
        return f"{number(value * 1e3)} ms"
    if abs(value) < 120:
        return f"{number(value)} s"
    minutes = round(value / 60)
    return f"{value // 60:.0f} min {value % 60:.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def money(value) -> str:
    """US dollars: $0.0123, $1.52."""
    return NOT_MEASURED if missing(value) else f"${number(value)}"


def size(value) -> str:
    """A number of bytes: 20.7 MB, 1.35 GB (powers of ten, as disks are sold)."""
    if missing(value):
        return NOT_MEASURED
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{value:.0f} bytes"


def percent(value) -> str:
    """A share as per cent, with one decimal below 10 %: 4.2 %, 37 %."""
    if missing(value):
        return NOT_MEASURED
    return f"{value * 100:.1f} %" if abs(value) < 0.0995 else f"{value * 100:.0f} %"


def factor(value) -> str:
    """A ratio: 1.52×, 0.983×, 12.4×."""
    return NOT_MEASURED if missing(value) else f"{number(value)}×"


def interval(low, high, show: Callable[[float], str] = number, beside: str = "") -> str:
    """ "a to b", or "" where there is no interval. A unit that both share is said once ("414 to 422 ms"), and not at
    all when the value it stands `beside` has said it."""
    if missing(low) or missing(high):
        return ""
    first, last = show(low), show(high)
    unit = _unit(last)
    if unit and _unit(first) == unit:
        first = first.removesuffix(unit)
        last = last.removesuffix(unit) if _unit(beside) == unit else last
    if beside.startswith("$"):
        first, last = first.removeprefix("$"), last.removeprefix("$")
    return f"{first} to {last}"


def _unit(text: str) -> str:
    return _UNIT.search(text).group()


def with_interval(value, low, high, show: Callable[[float], str] = number) -> str:
    """ "418 ms (414 to 422)", or the value alone where there is no interval."""
    text = show(value)
    between = "" if missing(value) else interval(low, high, show, text)
    return f"{text} ({between})" if between else text


def listing(names: list[str], most: int = 4) -> str:
    """ "a, b and c"; beyond `most` names "a, b, c and 5 more"."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def change(text) -> str:
    """What a variant changes, as the plan says it ("precision: fp32 -> int8"), with a proper arrow."""
    return "" if missing(text) else str(text).replace("->", "→")


def count(n: int, noun: str) -> str:
    """ "1 variant", "3 variants"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def verdict_words(verdict, status: str = "ok") -> str:
    """The verdict as printed: one of METHOD.md's four words, or how the variant ended where it was not measured."""
    if status != "ok":
        return status
    return NOT_MEASURED if missing(verdict) else str(verdict)


def shorten(text: str, most: int) -> str:
    """`text` on one line, cut with an ellipsis at `most` characters."""
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
