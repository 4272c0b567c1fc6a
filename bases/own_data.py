"""G₀ of the data that a base was trained on: pictures with captions, noised, read by the base under no adapter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from bases.families import Base
from bases.families.family import Captioned, Picture, Size
from bases.statistics import NOISE_LEVELS, Drawn, Moment, adapted_layers, measure, sketch
from protocol.adapter import Sketch
from protocol.contribution import StatisticsRecipe
from protocol.errors import BadInput

RANK = 48
"""Of each sketch: at 48 the embedded base's file has 0.8 MB, and holds the base as 128 with 1.9 MB does."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_AT_ONCE = 16


@dataclass(frozen=True)
class Shown:
    """One picture of a base's own data, and what is said of it."""

    picture: Picture
    caption: str


@dataclass(frozen=True)
class Filed:
    """The same, opened whenever it is looked at, so that any number of them takes no memory."""

    file: Path
    caption: str
    size: Size

    @property
    def picture(self) -> Picture:
        """At ``size``, cut at its sides where its shape is another. Raises BadInput: it cannot be opened."""
        try:
            with Image.open(self.file) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise BadInput(f"{self.file} cannot be opened as a picture.", "Take it out of the folder.") from error
        height, width = self.size
        return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS))


def measure_own(
    base: Base,
    data: Sequence[Captioned],
    rank: int = RANK,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> dict[str, Sketch]:
    """Sketches of unit trace by input group: what the adapted layers read when the base looks at its own data.

    The same noise levels as members' statistics have, the noise drawn from ``seed``. ``progress`` gets pictures.
    """
    layers, generator = adapted_layers(base), torch.Generator(base.device).manual_seed(seed)
    recipe = StatisticsRecipe(pictures=len(data), sampling_steps=0, noise_levels=NOISE_LEVELS, seed=seed, rank=rank)
    seen: dict[str, Moment] = {}
    for start in range(0, len(data), _AT_ONCE):
        some = base.encode(data[start : start + _AT_ONCE])
        part = measure(base, layers, Drawn(some.latents, some.text, generator), recipe)
        seen = {group: seen[group] + one if group in seen else one for group, one in part.items()}
        progress(min(start + _AT_ONCE, len(data)), len(data))
    return {group: sketch(one.sum, rank) for group, one in seen.items()}


def read_own(folder: Path, size: Size) -> list[Filed]:
    """Every picture of ``folder``, by name, with the ``.txt`` beside it as its caption.

    Raises:
        BadInput: there is none, or one without caption.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise BadInput(f"{folder} holds no picture.", f"Put pictures ({', '.join(PICTURES)}) there, each with a .txt.")
    return [Filed(file, _caption(file.with_suffix(".txt")), size) for file in files]


def _caption(file: Path) -> str:
    try:
        return " ".join(file.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{file} cannot be read as a caption.", "Write there what its picture shows; an empty file says nothing."
        ) from error
