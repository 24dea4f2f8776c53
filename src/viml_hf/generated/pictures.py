"""Moving pictures for a `PictureStyle`.

* genre: `PALETTES`, four colours, and `SHAPES`, a family of moving shapes;
* mood: `GRADES`, brightness, contrast, saturation, and a texture that lies over the picture;
* tempo: a cut to a new composition every bar of four beats, and the speed of all motion.

A frame is a field of numbers, the shapes, which a table of palette and grade turns into colours.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viml_hf.errors import ViMLError
from viml_hf.generated.styles import PictureStyle

Field = NDArray[np.floating]  # (height, width), single precision for speed
Animation = Callable[[float], Field]  # phase in beats -> field in [0, 1]

BEATS_PER_SCENE = 4
COLOURS = 256  # along the palette
SHADES = 16  # of the texture; the last one leaves the colour alone

# fmt: off
PALETTES = {
    "electronic": ("#05061a", "#00e5ff", "#ff00c8", "#3a0ca3"),
    "dance":      ("#ff2e63", "#ffd400", "#6a00f4", "#ff7b00"),
    "country":    ("#c98a3b", "#5f8a2f", "#8fc7e8", "#f2d694"),
    "rock":       ("#0c0c0c", "#c1121f", "#e8e8e8", "#4a4a4a"),
    "pop":        ("#ff9ecb", "#7de0e6", "#fff3b0", "#b892ff"),
    "hip-hop":    ("#12100e", "#d4a017", "#5b2a86", "#f0e3c0"),
    "blues":      ("#041c3a", "#14508c", "#4f9bd9", "#0a2f5c"),
    "acoustic":   ("#4b2e1a", "#a9713f", "#dcc39a", "#5d6b3a"),
}
# fmt: on


@dataclass(frozen=True)
class Grade:
    """The light of a mood. Colours are taken in [0, 1]."""

    brightness: float  # added to every colour
    contrast: float  # distance from middle grey, times this
    saturation: float  # distance from the pixel's own grey, times this
    texture: str  # a key of `TEXTURES`
    depth: float  # how dark the texture's darkest shade is: 0 not at all, 1 black
    scroll: float = 0.0  # picture heights per second that the texture falls


GRADES = {
    "happy": Grade(0.10, 1.0, 1.25, "plain", 0.0),
    "relaxing": Grade(0.12, 0.55, 0.8, "plain", 0.0),
    "nostalgic": Grade(0.0, 0.7, 0.3, "grain", 0.3, 0.4),
    "dramatic": Grade(-0.15, 1.4, 0.9, "vignette", 0.95),
    "powerful": Grade(0.0, 1.7, 1.4, "scanlines", 0.35),
    "sad": Grade(-0.27, 0.6, 0.3, "rain", 0.5, 0.9),
    "dreamy": Grade(0.2, 0.6, 1.0, "lights", 0.5, -0.06),
    "quirky": Grade(0.0, 1.1, 1.5, "checks", 0.3),
}


def render(
    style: PictureStyle, duration: float, fps: int = 12, size: tuple[int, int] = (160, 90)
) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video of this (width, height): `round(duration * fps)` times `(height, width, 3)` uint8 RGB."""
    if not duration > 0 or fps < 1 or min(size) < 16:
        raise ViMLError(
            f"duration {duration} s, {fps} frames/s, size {size}: a duration above 0 s, 1 frame/s or more and "
            f"16 pixels or more are accepted; use for example 20.0, 12 and (160, 90)"
        )
    return _frames(style, round(duration * fps), fps, size)


def _frames(style: PictureStyle, count: int, fps: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    grade = GRADES[style.mood]
    table = _colour_table(PALETTES[style.genre], grade)
    light = TEXTURES[grade.texture](np.random.default_rng([style.seed, 0]), size)
    shade = (light * (SHADES - 1)).round().astype(np.uint16) * np.uint16(COLOURS)
    scene = -1
    for frame in range(count):
        beats = frame / fps * style.tempo / 60
        if int(beats / BEATS_PER_SCENE) > scene:
            scene = int(beats / BEATS_PER_SCENE)
            rng = np.random.default_rng([style.seed, 1, scene])
            animation = SHAPES[style.genre](*_composition(rng, size))
            first_colour = np.uint8(rng.integers(COLOURS))
        colour = (animation(beats) * (COLOURS - 1)).astype(np.uint8) + first_colour  # wraps: the colours are a ring
        scrolled = np.roll(shade, round(grade.scroll * size[1] * frame / fps), axis=0)
        yield table.take(scrolled + colour, axis=0)


def _composition(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Field, Field]:
    """A scene's coordinates, turned a little, scaled and shifted; the short side spans about 2."""
    width, height = size
    x = (np.arange(width, dtype=np.float32) - width / 2) / height * 2
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / height * 2
    angle, zoom, flip = rng.uniform(-0.35, 0.35), rng.uniform(0.8, 1.25), rng.choice([-1, 1])
    dx, dy = rng.uniform(-0.5, 0.5, 2)
    u = flip * zoom * (np.cos(angle) * x + np.sin(angle) * y) + dx
    v = zoom * (np.cos(angle) * y - np.sin(angle) * x) + dy
    return u.astype(np.float32), v.astype(np.float32)


def _colour_table(palette: tuple[str, ...], grade: Grade) -> NDArray[np.uint8]:
    """`(SHADES * COLOURS, 3)`: the palette as a closed ring of colours, graded, in every shade."""
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in palette]) / 255
    at = np.arange(COLOURS) * len(palette) / COLOURS
    ring = np.stack([np.interp(at, range(len(palette)), channel, period=len(palette)) for channel in anchors.T], axis=1)
    grey = ring.mean(axis=1, keepdims=True)
    ring = grey + grade.saturation * (ring - grey)
    ring = np.clip(0.5 + grade.brightness + grade.contrast * (ring - 0.5), 0, 1)
    shade = 1 - grade.depth * np.linspace(1, 0, SHADES)
    return (255 * shade[:, None, None] * ring).round().astype(np.uint8).reshape(-1, 3)


def _wave(phase: Field) -> Field:
    """A triangle wave of period 1, in [0, 1]: cheaper than a sine, and as smooth once encoded."""
    return np.abs(2 * (phase - np.floor(phase)) - 1)


def _grid(u: Field, v: Field) -> Animation:
    """Lines of light that sweep across each other."""
    return lambda beats: np.maximum(_wave(2 * u + 0.25 * beats), _wave(2 * v - 0.125 * beats)) ** 4


def _rays(u: Field, v: Field) -> Animation:
    """A turning fan of spotlights."""
    turn = np.arctan2(v, u) / (2 * np.pi)
    distance = np.hypot(u, v) / 4
    return lambda beats: (
        np.clip(2.5 * _wave(5 * turn + 0.25 * beats) - 0.75, 0, 1) * 0.7 + 0.3 * _wave(distance - 0.125 * beats)
    )


def _hills(u: Field, v: Field) -> Animation:
    """Four ridges under a sky, the near ones passing faster."""
    swell = [0.12 * np.sin(2.2 * (i + 1) * u + 1.7 * i).astype(np.float32) for i in range(4)]
    slope = 0.06 * _wave(v / 4)

    def animation(beats: float) -> Field:
        field = slope.copy()
        for i in range(4):
            ridge = swell[i] + 0.2 * _wave(0.5 * u + 0.06 * (i + 1) * beats + 0.3 * i) + 0.38 * i - 0.7
            field += 0.23 * (v > ridge)
        return field

    return animation


def _shards(u: Field, v: Field) -> Animation:
    """Hard zigzag stripes."""
    zigzag = u + 0.5 * _wave(1.5 * v)
    return lambda beats: np.floor(4 * _wave(zigzag + 0.2 * beats)) / 4


def _dots(u: Field, v: Field) -> Animation:
    """Balls that bounce in rows."""

    def animation(beats: float) -> Field:
        row = v * 1.5 + 0.35 * abs(1 - beats % 2)
        column = u * 1.5 + 0.125 * beats
        distance = np.hypot(row - np.round(row), column - np.round(column))
        return 0.1 + 0.8 * np.clip(4 * (0.45 - distance), 0, 1)

    return animation


def _bars(u: Field, v: Field) -> Animation:
    """The columns of an equaliser."""
    column = np.floor(4 * u)
    gap = 4 * u - column > 0.15

    def animation(beats: float) -> Field:
        height = _wave(column * 0.37 + 0.25 * beats) + 0.6 * _wave(column * 0.21 - 0.5 * beats)
        return 0.08 * _wave(v / 4) + 0.6 * (gap & (0.8 - v < 1.4 * height))

    return animation


def _waves(u: Field, v: Field) -> Animation:
    """Slow, soft folds, like smoke or water."""
    return lambda beats: 0.5 + 0.5 * np.sin(2 * u + 1.4 * (np.sin(2 * v + 0.4 * beats) + 0.5 * u) - 0.3 * beats)


def _rings(u: Field, v: Field) -> Animation:
    """The rings of a tree, growing."""
    distance = np.hypot(u, 1.3 * v)
    distance += 0.05 * np.sin(5 * np.arctan2(v, u))
    return lambda beats: _wave(2.2 * distance - 0.15 * beats)


SHAPES: dict[str, Callable[[Field, Field], Animation]] = {
    "electronic": _grid,
    "dance": _rays,
    "country": _hills,
    "rock": _shards,
    "pop": _dots,
    "hip-hop": _bars,
    "blues": _waves,
    "acoustic": _rings,
}


def _plain(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    return np.ones(size[::-1])


def _vignette(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    width, height = size
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    return np.clip(1.3 - x**2 - y**2, 0, 1)


def _grain(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    coarse = rng.random((size[1] // 2 + 1, size[0] // 2 + 1))
    return coarse.repeat(2, axis=0).repeat(2, axis=1)[: size[1], : size[0]]


def _scanlines(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    return np.where(np.arange(size[1])[:, None] % 10 < 5, 1.0, 0.0).repeat(size[0], axis=1)


def _checks(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    return np.where((np.arange(size[0]) // 15 + np.arange(size[1])[:, None] // 15) % 2, 1.0, 0.0)


def _rain(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    width, height = size
    streak = (np.arange(height)[:, None] - rng.integers(height, size=width)) % height < height // 4
    return 1.0 - streak * (rng.random(width) < 0.3)


def _lights(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Out-of-focus lights; the picture's upper and lower edge meet, so that they can drift."""
    width, height = size
    total = np.zeros((height, width))
    for x, y, radius in zip(rng.random(14) * width, rng.random(14) * height, rng.uniform(0.08, 0.2, 14), strict=True):
        down = np.abs(np.arange(height)[:, None] - y)
        squared = (np.arange(width) - x) ** 2 + np.minimum(down, height - down) ** 2
        total += np.clip(1.6 - 1.6 * squared / (radius * height) ** 2, 0, 1)
    return np.clip(total, 0, 1)


TEXTURES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Field]] = {
    "plain": _plain,
    "vignette": _vignette,
    "grain": _grain,
    "scanlines": _scanlines,
    "checks": _checks,
    "rain": _rain,
    "lights": _lights,
}
