"""Pictures side by side in one PNG."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLUMNS = 4
SMALLEST = 128


def save_sheet(path: Path, pictures: NDArray[np.uint8]) -> None:
    """Write (n, height, width, 3) as rows of four; small pictures are shown larger, by nearest neighbour."""
    height, width = pictures.shape[1:3]
    factor = max(1, SMALLEST // max(height, width))
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width * factor, rows * height * factor), "white")
    for number, picture in enumerate(pictures):
        shown = Image.fromarray(picture).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        sheet.paste(shown, (number % COLUMNS * width * factor, number // COLUMNS * height * factor))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
