"""Pictures inside a page: an SVG that follows the page's colours, an image as a data URI. Nothing is fetched."""

import base64
import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffsweep.show.palette import THEMED

_COLOUR = re.compile("|".join(map(re.escape, THEMED)), re.IGNORECASE)
# Coordinates, written by matplotlib with six decimals: a hundredth of a point is finer than any screen.
_ROUNDED = re.compile(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)')
_NUMBER = re.compile(r"-?\d+\.\d+")
# A letter's outline, as matplotlib defines it in each SVG that uses it.
_GLYPH = re.compile(r'<path id="(DejaVuSans[^"]*)" (d="[^"]*" )?transform="(scale\([^)]*\))"/>\s*')
_FIXED = re.compile(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"')


def themed(svg: str) -> str:
    """An SVG whose known colours became CSS variables, with the colour itself as what to fall back on."""
    return _COLOUR.sub(lambda m: f"var(--{THEMED[m.group().lower()]},{m.group()})", svg)


def inline_svgs(svgs: Sequence[str]) -> tuple[str, list[str]]:
    """matplotlib's SVG files as elements for one page: the letters that all of them share, and the pictures.

    What an HTML parser has no use for goes: the prolog, the name spaces, metadata and comments, the fixed size. The ids
    of each picture are kept apart from the others' by a prefix.
    """
    glyphs: dict[str, str] = {}
    pictures = []
    for number, svg in enumerate(svgs):
        svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        svg = svg.replace("xlink:href", "href")
        for name, outline, scale in _GLYPH.findall(svg):
            glyphs.setdefault(name, f'<path id="g{len(glyphs)}" {_joined(outline)}transform="{scale}"/>')
        short = {name: f"g{index}" for index, name in enumerate(glyphs)}
        svg = re.sub(r"<defs>\s*</defs>", "", _GLYPH.sub("", svg))
        svg = _prefix(svg, f"p{number}-")
        svg = re.sub(rf'href="#p{number}-(DejaVuSans[^"]*)"', lambda m, s=short: f'href="#{s[m.group(1)]}"', svg)
        head, rest = svg.split(">", 1)
        svg = f'{_FIXED.sub("", head)} aria-hidden="true" focusable="false">{_ROUNDED.sub(_round, rest)}'
        pictures.append(themed(_joined(svg).strip()))
    letters = f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{"".join(glyphs.values())}'
    return f"{letters}</defs></svg>", pictures


def _joined(svg: str) -> str:
    return re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")


def _prefix(svg: str, prefix: str) -> str:
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    return re.sub(r"url\(#", f"url(#{prefix}", svg)


def _round(attribute: re.Match) -> str:
    return _NUMBER.sub(lambda n: f"{float(n.group()):.2f}".rstrip("0").rstrip("."), attribute.group())


def data_uri(image: np.ndarray) -> str:
    """An image (H, W, 3) uint8 as a PNG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=9)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
