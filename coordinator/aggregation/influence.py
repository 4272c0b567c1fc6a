"""What each contribution does to the collective: the merge is solved once more without it, under the same weights.

    influence of j = ‖(ΔW − ΔW₋ⱼ) L‖ / ‖ΔW L‖        over all layers, S = L Lᵀ the metric of the data

Sums are exact, so ΔW₋ⱼ comes from a subtraction. It costs one Cholesky a contribution and input group.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from coordinator.aggregation.algebra import ridged

FloatArray = NDArray[np.float64]

MEASURED_UP_TO = 64
"""With more contributions than this, no single one's influence is measured."""


@dataclass(frozen=True)
class Whole:
    """The layers of one input group, solved with everyone: ΔW by layer, and the L that measures."""

    deltas: Mapping[str, FloatArray]
    lower: FloatArray
    regularisation: float

    @classmethod
    def of(cls, numerators: Mapping[str, FloatArray], denominator: FloatArray, regularisation: float) -> "Whole":
        """Solve every layer of the group without cutting its rank."""
        lower = cholesky(ridged(denominator, regularisation), lower=True)
        return cls({layer: _solved(total, lower) for layer, total in numerators.items()}, lower, regularisation)

    def moved(self, numerators: Mapping[str, FloatArray], denominator: FloatArray) -> float:
        """‖(ΔW − ΔW₋ⱼ) L‖² over the group; the sums are those without the contribution."""
        lower = cholesky(ridged(denominator, self.regularisation), lower=True)
        return sum(
            float(np.square((self.deltas[layer] - _solved(total, lower)) @ self.lower).sum())
            for layer, total in numerators.items()
        )


def _solved(numerator: FloatArray, lower: FloatArray) -> FloatArray:
    half = solve_triangular(lower, numerator.T, lower=True)
    whole: FloatArray = solve_triangular(lower, half, lower=True, trans="T").T
    return whole
