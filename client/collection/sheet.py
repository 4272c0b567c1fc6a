"""The contact sheet: one picture that shows every token, what becomes of it and why."""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from client.collection.dataset import Candidate
from client.collection.shapes import to_shape
from client.collection.text import cut

CELL, MARGIN, LINE = 224, 16, 15
LINES = 6
MAX_TOKENS = 2000
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (125, 125, 125)
_TAKEN, _LEFT_OUT, _NO_PICTURE = (40, 150, 80), (200, 70, 60), (225, 225, 222)


def contact_sheet(candidates: Sequence[Candidate], columns: int = 5) -> Image.Image:
    """A cell a token: its picture, a green frame where it is taken, else a red one and the picture pale; the words.

    Of more than ``MAX_TOKENS`` only the first are shown.
    """
    shown = candidates[:MAX_TOKENS]
    several = len({one.source.token.contract for one in shown}) > 1
    columns = max(1, min(columns, len(shown)))
    step_x, step_y = CELL + 2 * MARGIN, CELL + LINES * LINE + 2 * MARGIN
    sheet = Image.new("RGB", (columns * step_x, max(1, -(-len(shown) // columns)) * step_y), _PAPER)
    for index, one in enumerate(shown):
        name = f"{one.source.token.contract[:6]} " * several + _short(str(one.source.token.token_id))
        _draw(sheet, one, name, (index % columns) * step_x + MARGIN, (index // columns) * step_y + MARGIN)
    return sheet


def _draw(sheet: Image.Image, one: Candidate, name: str, left: int, top: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    box = (left, top, left + CELL, top + CELL)
    if one.opened.picture is None:
        pen.rectangle(box, fill=_NO_PICTURE)
    else:
        picture = to_shape(one.opened.picture, (CELL, CELL), _PAPER)
        if not one.taken:
            picture = (picture // 4 + 3 * np.array(_PAPER, dtype=np.uint16) // 4).astype(np.uint8)
        sheet.paste(Image.fromarray(picture), (left, top))
    pen.rectangle(box, outline=_TAKEN if one.taken else _LEFT_OUT, width=4)
    words = one.opened.caption.text if one.opened.caption else ""
    state = f"taken, weight {one.weight.value:.2f}" if one.taken else "left out"
    lines = [(f"{name}: {state}", _TAKEN if one.taken else _LEFT_OUT)]
    if not one.taken:
        lines += [(line, _INK) for line in wrap(cut(one.because, 300), 36)]
    lines += [(line, _FAINT) for line in wrap(cut(words, 300), 36)]
    for number, (line, ink) in enumerate(lines[:LINES]):
        pen.text((left, top + CELL + 4 + number * LINE), line, fill=ink, font=font)


def _short(number: str) -> str:
    return number if len(number) <= 12 else f"{number[:5]}…{number[-5:]}"
