"""Lessons: what a contribution's adapter answers on noised pictures that it drew itself.

The pictures are the statistics' (the same recipe over delta, captions and seed), so nothing private is needed, and
anyone who has the contribution can make the same lessons. What the adapter read while answering gives its statistics
once more, so whoever makes lessons checks those that were signed.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from bases.families import Base
from bases.statistics import Drawn, Moment, draw_pictures, measure, recipe_of, said_in, sketch
from protocol.adapter import Factors, Sketch, Statistics
from protocol.grant import RoundPlan

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]

_ARRAYS = ("noisy", "steps", "said", "answers", "error")
_AT_ONCE = 16
LEVELS = 12
"""Lessons from one picture, each at a time step drawn from its own part of the schedule."""


@dataclass(frozen=True)
class Lessons:
    """``noisy`` latents and ``answers`` to them (n, c, h, w), at ``steps`` (n,), told the captions ``said`` (n,)."""

    captions: tuple[str, ...]
    noisy: FloatArray
    steps: IntArray
    said: IntArray
    answers: FloatArray
    error: FloatArray
    """How far the signed statistics are from what the adapter read while it answered; a single number."""

    def __len__(self) -> int:
        return len(self.steps)

    def save(self, folder: Path) -> None:
        """Whole or not at all. The captions are not kept: whoever loads has the contribution."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".drawn-", dir=folder.parent) as beside:
            whole = Path(beside) / "whole"
            whole.mkdir()
            for name in _ARRAYS:
                np.save(whole / f"{name}.npy", getattr(self, name))
            shutil.rmtree(folder, ignore_errors=True)
            whole.rename(folder)

    @classmethod
    def load(cls, folder: Path, captions: Sequence[str]) -> "Lessons":
        """What ``save`` wrote, mapped into memory: only what is asked for is read."""
        return cls(tuple(captions), *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS))


def draw_lessons(
    base: Base,
    adapter: Mapping[str, Factors],
    captions: Sequence[str],
    plan: RoundPlan,
    signed: Statistics | None = None,
) -> Lessons:
    """The lessons of one adapter; the same on the same machine, each time.

    ``signed`` are the statistics that came with the adapter, to be checked on the way.
    """
    recipe, error = recipe_of(plan, captions), 0.0
    with base.under(adapter):
        drawn = draw_pictures(base, captions, recipe)
        if signed is not None:
            error = distance(signed, measure(base, list(adapter), drawn, recipe), recipe.rank)
        return _lessons(base, drawn, captions, error)


@torch.no_grad()
def _lessons(base: Base, drawn: Drawn, captions: Sequence[str], error: float) -> Lessons:
    """What the base, under whatever adapter it is, answers on these pictures at ``LEVELS`` noise levels."""
    count = len(drawn.latents)
    said = torch.tensor(said_in(count, len(captions)), device=base.device)
    parts = []
    for level in range(LEVELS):
        within = torch.rand((count,), generator=drawn.generator, device=base.device)
        steps = ((level + within) * base.levels / LEVELS).long().clamp(max=base.levels - 1)
        noise = torch.randn(drawn.latents.shape, generator=drawn.generator, device=base.device)
        noisy = base.noised(drawn.latents, noise, steps)[0]
        parts.append((noisy, steps, said, base.predict(noisy, steps, drawn.text)))
    arrays = {n: torch.cat(c).cpu().numpy() for n, c in zip(_ARRAYS, zip(*parts, strict=True), strict=False)}
    return Lessons(tuple(captions), **arrays, error=np.array(error))


@torch.no_grad()
def change(base: Base, adapter: Mapping[str, Factors], lessons: Lessons) -> float:
    """How far the base's answers move under an adapter: √(E‖f(W + Δ) − f(W)‖² / E‖f(W)‖²) over the base's lessons."""
    texts, moved = base.embed(lessons.captions), 0.0
    with base.under(adapter):
        for start in range(0, len(lessons), _AT_ONCE):
            noisy, steps, said, answers = (
                torch.from_numpy(np.array(getattr(lessons, name)[start : start + _AT_ONCE])).to(base.device)
                for name in _ARRAYS[:4]
            )
            moved += float((base.predict(noisy, steps, texts.rows(said)) - answers).square().sum())
    return math.sqrt(moved / float(np.square(lessons.answers, dtype=np.float64).sum()))


def distance(signed: Statistics, moments: Mapping[str, Moment], rank: int) -> float:
    """How far signed statistics are from what is measured here: the worst input's relative Frobenius distance.

    Both as sketches of ``rank`` at unit trace. An input that was not signed counts as wholly wrong.
    """
    return max((_distance(signed.get(group), sketch(one.sum, rank)) for group, one in moments.items()), default=0.0)


def _distance(signed: Sketch | None, measured: Sketch) -> float:
    if signed is None or signed.factor.shape[0] != measured.factor.shape[0]:
        return 1.0
    told, meant = signed.dense(), measured.dense()
    return float(np.linalg.norm(told / np.trace(told) - meant) / np.linalg.norm(meant))
