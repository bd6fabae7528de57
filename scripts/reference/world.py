"""The world the reference model is trained on: drawn scenes, their captions, and the split of both.

A scene is one object, or two side by side, on a plain background. Everything is drawn in numpy from signed
distances, so a batch of images costs a few array operations and looks the same on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product

import numpy as np

SIDE = 64  # pixels
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (214, 40, 40),
    "yellow": (246, 222, 48),
    "green": (40, 160, 64),
    "cyan": (64, 206, 220),
    "blue": (36, 66, 208),
    "purple": (172, 46, 168),
    "white": (242, 242, 242),
    "black": (22, 22, 22),
}
SIZES = ("large", "small")
TEXTURES = ("plain", "striped")
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "above": "below"}

RADIUS = {"large": (20.0, 24.0), "small": (12.0, 14.0), "pair": (12.5, 14.5)}  # pixels
WANDER = {"large": 4.0, "small": 9.0, "pair": 1.5}  # how far a centre strays from its place, pixels
STRIPE_PERIOD = 9.0  # pixels; the latent grid has a pitch of 4, so finer stripes would be lost
TILT = np.deg2rad(10.0)
PAIR_OFFSET = 15.5  # distance of each of two objects from the middle, pixels
SINGLE_SHARE = 0.85


@dataclass(frozen=True)
class Thing:
    """One object; `size` is None where two share the picture, as both are then of one middling size."""

    shape: str
    colour: str
    texture: str
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """`things` are in the order the caption names them; `relation` says where the first is from the second."""

    background: str
    things: tuple[Thing, ...]
    relation: str | None = None


# ---- which scenes exist, and which are held out of training --------------------------------------------------


def single_scenes() -> list[Scene]:
    """Every scene with one object: 6 shapes x 8 colours x 7 backgrounds x 2 sizes x 2 textures = 1,344."""
    return [
        Scene(background, (Thing(shape, colour, texture, size),))
        for shape, colour, background, size, texture in product(SHAPES, COLOURS, COLOURS, SIZES, TEXTURES)
        if colour != background
    ]


def _digest(scene: Scene) -> int:
    """A stable number for a scene, the same in every process and Python version."""
    return int.from_bytes(hashlib.sha256(caption(scene).encode()).digest()[:8], "big")


def is_held_out(scene: Scene) -> bool:
    """True for the one combination in six (single objects) or in eight (two) that training never sees."""
    modulus = 6 if len(scene.things) == 1 else 8
    return _digest(canonical(scene)) % modulus == 0


def canonical(scene: Scene) -> Scene:
    """The same picture with its left or upper object named first, so both wordings fall on one side of the split."""
    if scene.relation in OPPOSITE.values():
        turned = next(first for first, second in OPPOSITE.items() if second == scene.relation)
        return Scene(scene.background, scene.things[::-1], turned)
    return scene


def sample_pair(rng: np.random.Generator) -> Scene:
    """Two objects of different colour and shape, neither in the colour of the background."""
    background, first, second = (str(name) for name in rng.permutation(list(COLOURS))[:3])
    shapes = rng.permutation(SHAPES)[:2]
    textures = rng.choice(TEXTURES, 2)
    things = tuple(
        Thing(str(shape), colour, str(texture))
        for shape, colour, texture in zip(shapes, (first, second), textures, strict=True)
    )
    return Scene(background, things, str(rng.choice(RELATIONS)))


def sample_scenes(
    count: int, rng: np.random.Generator, held_out: bool = False, single_share: float = SINGLE_SHARE
) -> list[Scene]:
    """`count` random scenes from the training side of the split, or from the held-out side."""
    singles = [scene for scene in single_scenes() if is_held_out(scene) == held_out]
    scenes = []
    while len(scenes) < count:
        if rng.random() < single_share:
            scenes.append(singles[rng.integers(len(singles))])
        else:
            pair = sample_pair(rng)
            if is_held_out(pair) == held_out:
                scenes.append(pair)
    return scenes


# ---- captions ------------------------------------------------------------------------------------------------


def _phrase(thing: Thing) -> str:
    words = (thing.size, thing.texture, thing.colour, thing.shape)
    return " ".join(word for word in words if word)


def caption(scene: Scene, wording: int = 0) -> str:
    """The scene in words; `wording` 0 is the plain form, 1 and 2 say the same a little differently."""
    link = f" {scene.relation} of a " if scene.relation in ("left", "right") else f" {scene.relation} a "
    body = link.join(_phrase(thing) for thing in scene.things)
    return (
        f"a {body} on a {scene.background} background",
        f"a {body} on {scene.background}",
        f"a picture of a {body} , {scene.background} background",
    )[wording]


def sample_caption(scene: Scene, rng: np.random.Generator) -> str:
    """The plain wording two times in three, one of the others else."""
    return caption(scene, int(rng.choice(3, p=(0.66, 0.17, 0.17))))


# ---- drawing -------------------------------------------------------------------------------------------------


def _polar_fold(x: np.ndarray, y: np.ndarray, sectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Folds the plane onto half a sector of a shape with `sectors` points, one of which looks up."""
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    width = 2 * np.pi / sectors
    folded = np.abs((angle + width / 2) % width - width / 2)
    return radius * np.cos(folded), radius * np.sin(folded)


def _signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline in units of the radius, negative inside; x to the right and y down."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.74) - 0.25
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.84
    if shape == "cross":
        arm, width = 0.98, 0.33
        upright = np.maximum(np.abs(x) - width, np.abs(y) - arm)
        return np.minimum(upright, np.maximum(np.abs(x) - arm, np.abs(y) - width))
    if shape == "triangle":
        along, _ = _polar_fold(x, -y, 3)  # the folded axis meets the middle of a side
        return -_down_triangle_margin(along)
    tip, notch = np.array((1.1, 0.0)), 0.5 * np.array((np.cos(np.pi / 5), np.sin(np.pi / 5)))
    along, across = _polar_fold(x, y, 5)
    edge = notch - tip
    normal = np.array((-edge[1], edge[0])) / np.hypot(*edge)
    return -((along - tip[0]) * normal[0] + (across - tip[1]) * normal[1]) * np.sign(-normal @ tip)


def _down_triangle_margin(along: np.ndarray) -> np.ndarray:
    return 0.58 - along


def _cover(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """How much of each pixel the shape covers, 0 to 1: a one-pixel ramp across the outline."""
    return np.clip(0.5 - _signed_distance(shape, x / radius, y / radius) * radius, 0.0, 1.0)


def _stripe_colour(colour: np.ndarray) -> np.ndarray:
    """Light colours get dark stripes and dark colours light ones."""
    light = colour @ np.array((0.3, 0.59, 0.11)) > 140
    return colour * 0.42 if light else colour + (255 - colour) * 0.62


def _jitter(name: str, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.array(COLOURS[name], dtype=np.float32) + rng.uniform(-10, 10, 3), 0, 255)


_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5


def _place(scene: Scene, index: int) -> tuple[float, float]:
    """Centre (x, y) in pixels of an object before it strays."""
    middle = SIDE / 2
    if scene.relation is None:
        return middle, middle
    first_is_before = scene.relation in OPPOSITE
    offset = -PAIR_OFFSET if (index == 0) == first_is_before else PAIR_OFFSET
    return (middle + offset, middle) if scene.relation in ("left", "right") else (middle, middle + offset)


def _paint(image: np.ndarray, thing: Thing, centre: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    kind = thing.size or "pair"
    radius = rng.uniform(*RADIUS[kind])
    centre_x, centre_y = np.array(centre) + rng.uniform(-1, 1, 2) * WANDER[kind]
    x, y = _COLUMNS - centre_x, _ROWS - centre_y
    tilt = rng.uniform(-TILT, TILT)
    turned_x, turned_y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    colour = _jitter(thing.colour, rng)
    fill = np.broadcast_to(colour, image.shape)
    if thing.texture == "striped":
        wave = np.sin(2 * np.pi * (turned_y / STRIPE_PERIOD + rng.random()))
        share = np.clip(0.5 + 2.0 * wave, 0, 1)[..., None]
        fill = fill * (1 - share) + _stripe_colour(colour) * share
    cover = _cover(thing.shape, turned_x, turned_y, radius)[..., None]
    return image * (1 - cover) + fill * cover


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One picture of the scene, (64, 64, 3) uint8; place, radius, tilt, colour and light vary with `rng`."""
    slope = rng.uniform(-9, 9, 2)
    light = slope[0] * (_COLUMNS / SIDE - 0.5) + slope[1] * (_ROWS / SIDE - 0.5)
    image = _jitter(scene.background, rng) + light[..., None]
    for index, thing in enumerate(scene.things):
        image = _paint(image, thing, _place(scene, index), rng)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def draw_batch(scenes: list[Scene], rng: np.random.Generator) -> np.ndarray:
    """(N, 3, 64, 64) uint8."""
    return np.stack([draw(scene, rng) for scene in scenes]).transpose(0, 3, 1, 2)


# ---- attributes ----------------------------------------------------------------------------------------------

LAYOUTS = ("single", "horizontal", "vertical")
HEADS = {  # what the classifier, the extractor and CLIP's helper heads tell apart, and the words for it
    "layout": LAYOUTS,
    "background": tuple(COLOURS),
    "size": SIZES,
    **{f"{slot}_shape": SHAPES for slot in ("first", "second")},
    **{f"{slot}_colour": tuple(COLOURS) for slot in ("first", "second")},
    **{f"{slot}_texture": TEXTURES for slot in ("first", "second")},
}
NOT_THERE = -1  # the label of an attribute that the scene does not have


def labels(scene: Scene) -> dict[str, int]:
    """Class index per head; the first object is the left or upper one, whatever the caption's order."""
    scene = canonical(scene)
    layout = {None: "single", "left": "horizontal", "above": "vertical"}[scene.relation]
    words = {"layout": layout, "background": scene.background, "size": scene.things[0].size}
    for slot, thing in zip(("first", "second"), scene.things, strict=False):
        words |= {f"{slot}_shape": thing.shape, f"{slot}_colour": thing.colour, f"{slot}_texture": thing.texture}
    return {head: names.index(words[head]) if words.get(head) else NOT_THERE for head, names in HEADS.items()}


def label_array(scenes: list[Scene]) -> np.ndarray:
    """(N, heads) int64, columns in the order of HEADS."""
    return np.array([list(labels(scene).values()) for scene in scenes], dtype=np.int64)
