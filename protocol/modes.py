"""The modes in which a round may merge, and the grid of whole numbers that both private modes add up on.

``open`` merges what it can see. ``dp`` and ``secagg`` merge by a plain sum over fixed factors, so each needs an update
to be a vector of whole numbers, no longer than a clip: what a sum gains from one member is then bounded exactly, with
no rounding in between.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from protocol.canonical import Document

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Mode(StrEnum):
    """What the coordinator may see, and what a release may tell."""

    OPEN = "open"
    SECAGG = "secagg"
    DP = "dp"


GIVES_UP: Mapping[Mode, tuple[str, ...]] = {
    Mode.OPEN: (),
    Mode.SECAGG: (
        "No update can be checked: no robust rule, no norms, no search for copies, no influence.",
        "A member is removed by a round in which the others train again, not by a merge without it.",
        "Nobody but those who took part can recompute the sum.",
        "What the sum tells of a member is not bounded.",
    ),
    Mode.DP: (
        "Noise covers a part of what members trained; with few members most of it.",
        "A removal is one more release and adds to the ε of everybody who stays.",
        "Nobody can recompute the release, and nothing of a single update is published.",
        "The coordinator sees every update.",
    ),
}
"""What each mode gives up for what it hides: a manifest says it."""


class Learned(StrEnum):
    """What a member trains in each layer, where the other factors are fixed and everybody's."""

    B = "b"
    CORE = "core"


class Grid(Document):
    """Whole multiples of clip · 2^-bits, in vectors of Euclidean length at most ``clip``."""

    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """C: the greatest length of an update, over all layers together."""
    bits: Annotated[int, Field(ge=8, le=24)] = 20

    @property
    def radius(self) -> int:
        """C in steps of the grid: no vector on it is longer, and no entry larger."""
        return 1 << self.bits

    @property
    def step(self) -> float:
        return self.clip / self.radius

    def whole(self, values: FloatArray) -> IntArray:
        """Clip a vector (n,) to length C and round it towards zero, so that no rounding makes it longer.

        Invariant: the sum of squares is at most radius². A vector that is not finite counts as zero: a refusal
        would be seen, and what is seen of one member is what these modes bound.
        """
        if not np.isfinite(values).all():
            return np.zeros(values.shape, np.int64)
        largest = float(np.abs(values).max(initial=0.0))
        if largest == 0.0:
            return np.zeros(values.shape, np.int64)
        length = largest * float(np.linalg.norm(values / largest))
        steps = values * (self.radius / max(length, self.clip))
        return within(np.trunc(steps).astype(np.int64), self.radius)

    def value(self, whole: IntArray) -> FloatArray:
        """Whole numbers back in the update's own unit."""
        return whole.astype(np.float64) * self.step


def within(whole: IntArray, radius: int) -> IntArray:
    """The vector (n,) itself, or shortened until its sum of squares is at most radius²: checked in whole numbers.

    A norm in floating point may be wrong in its last bits, and a bound that is all but kept is not kept.
    """
    while (squares := int(np.square(whole).sum())) > radius**2:
        whole = np.trunc(whole * (radius / math.sqrt(squares) * (1 - 2.0**-40))).astype(np.int64)
    return whole


class DpTerms(Document):
    """What a ``dp`` round adds and what it claims."""

    grid: Grid
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """σ: the noise's standard deviation over the clip."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5


class PrivacySpent(Document):
    """What all releases together may tell of one member: the worst member's (ε, δ)."""

    epsilon: Annotated[float, Field(ge=0)]
    """Against the same history in which that member's updates are zero."""
    epsilon_replaced: Annotated[float, Field(ge=0)]
    """Against the same history in which that member's updates are any others."""
    delta: float
    releases: Annotated[int, Field(ge=0)]
    """How many releases that member's data went into."""
