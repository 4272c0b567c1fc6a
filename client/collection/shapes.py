"""The sizes that pictures are trained at, and how a picture comes to one. Pure: arrays in, arrays out.

Pixel art is found by its cells and scaled by whole factors; everything else is scaled by LANCZOS.
"""

from collections.abc import Sequence
from math import gcd, log

import numpy as np
from PIL import Image

from client.collection.example import Picture

Shape = tuple[int, int]
"""(height, width) in pixels."""
Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
STEP = 64
"""Sides of a shape are multiples of it: what every common base takes, whatever its VAE and patches."""
LEAST_SIZE_FOR_SHAPES = 256
"""A base that draws less draws squares: a step would be a large part of the picture."""
MOST_ELONGATED = 2.0
MOST_CROPPED = 1 / 16
"""Of a side. Where a shape would take more, the picture is padded instead."""
ART_SIDE = 128
ART_COLOURS = 256
"""A picture no larger and no more colourful is pixel art that was never enlarged."""
WELL_FILLED = 3 / 4
"""Of a side. Whole cells that fill less are not worth the empty frame."""


def shapes_of(size: int) -> tuple[Shape, ...]:
    """The shapes for a base that draws ``size`` pixels a side: about that area, the square first."""
    square = (size, size)
    if size < LEAST_SIZE_FOR_SHAPES or size % STEP:
        return (square,)
    shorter = (size * size / long // STEP * STEP for long in range(size + STEP, 2 * size, STEP))
    pairs = [(int(short), long) for short, long in zip(shorter, range(size + STEP, 2 * size, STEP), strict=True)]
    pairs = [(short, long) for short, long in pairs if short and long / short <= MOST_ELONGATED]
    return (square, *(shape for short, long in pairs for shape in ((short, long), (long, short))))


def shape_for(height: int, width: int, shapes: Sequence[Shape]) -> Shape:
    """The shape whose aspect is nearest, the first of equals."""
    return min(shapes, key=lambda shape: round(abs(log(width / height) - log(shape[1] / shape[0])), 6))


def to_shape(picture: Picture, shape: Shape, background: Colour | None = None) -> Picture:
    """(h, w, 3) → (*shape, 3). Padding shows the colour of all four corners, else ``background``, else white."""
    art = cells_of(picture)
    around = _corners(picture) or background or WHITE
    if art is None:
        return _filtered(picture, shape, around)
    times = min(shape[0] // art.shape[0], shape[1] // art.shape[1])
    if not times:
        return _filtered(art, shape, around)
    filled = max(times * art.shape[0] / shape[0], times * art.shape[1] / shape[1])
    if filled >= WELL_FILLED:
        return _padded(enlarged(art, times), shape, around)
    return _filtered(enlarged(art, times + 1), shape, around)


def cells_of(picture: Picture) -> Picture | None:
    """Pixel art with one pixel a cell, (h / k, w / k, 3) for the largest whole k; None where it is none."""
    k = gcd(_period(picture), _period(picture.swapaxes(0, 1)))
    cells = picture[::k, ::k]
    if k > 1:
        return np.ascontiguousarray(cells)
    if max(cells.shape[:2]) > ART_SIDE:
        return None
    return cells if len(np.unique(cells.reshape(-1, 3), axis=0)) <= ART_COLOURS else None


def enlarged(cells: Picture, times: int) -> Picture:
    """Every cell as ``times`` x ``times`` pixels."""
    return cells.repeat(times, axis=0).repeat(times, axis=1)


def _period(picture: Picture) -> int:
    """The largest whole number of rows that every run of equal rows is made of."""
    period = len(picture)
    for row in range(1, len(picture)):
        if period == 1:
            return 1
        if row % period and not np.array_equal(picture[row], picture[row - 1]):
            period = gcd(period, row)
    return period


def _filtered(picture: Picture, shape: Shape, around: Colour) -> Picture:
    """By LANCZOS; cropped in the middle where that takes little, else padded."""
    height, width = picture.shape[:2]
    cover = max(shape[0] / height, shape[1] / width)
    lost = 1 - min(shape[0] / (height * cover), shape[1] / (width * cover))
    scale = cover if lost <= MOST_CROPPED else min(shape[0] / height, shape[1] / width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    image = Image.fromarray(picture)
    if inner != (height, width):
        image = image.resize((inner[1], inner[0]), Image.Resampling.LANCZOS)
    top, left = max(0, inner[0] - shape[0]) // 2, max(0, inner[1] - shape[1]) // 2
    image = image.crop((left, top, left + min(inner[1], shape[1]), top + min(inner[0], shape[0])))
    return _padded(np.asarray(image), shape, around)


def _padded(picture: Picture, shape: Shape, around: Colour) -> Picture:
    height, width = picture.shape[:2]
    if (height, width) == shape:
        return np.ascontiguousarray(picture).copy()
    whole = np.empty((*shape, 3), dtype=np.uint8)
    whole[:] = around
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    whole[top : top + height, left : left + width] = picture
    return whole


def _corners(picture: Picture) -> Colour | None:
    corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]]
    if (corners != corners[0]).any():
        return None
    red, green, blue = (int(channel) for channel in corners[0])
    return red, green, blue
