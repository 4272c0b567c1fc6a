"""What each contribution does to the collective: the merge is solved once more without it, under the same weights.

    influence of j = ‖(ΔW − ΔW₋ⱼ) L‖ / ‖ΔW L‖        over all layers, S = L Lᵀ the metric of the data

Sums are exact, so ΔW₋ⱼ comes from a subtraction. It costs one Cholesky a contribution and layer.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from coordinator.aggregation.algebra import ridged

FloatArray = NDArray[np.float64]

MEASURED_UP_TO = 64
"""With more contributions than this, no single one's influence is measured."""


def moved(
    numerator: FloatArray, denominator: FloatArray, without: tuple[FloatArray, FloatArray], regularisation: float
) -> float:
    """‖(ΔW − ΔW₋ⱼ) L‖² of one layer; ``without`` is (numerator, denominator) less the contribution's part."""
    lower = cholesky(ridged(denominator, regularisation), lower=True)
    difference = _dense(numerator, denominator, regularisation) - _dense(*without, regularisation)
    return float(np.square(difference @ lower).sum())


def _dense(numerator: FloatArray, denominator: FloatArray, regularisation: float) -> FloatArray:
    lower = cholesky(ridged(denominator, regularisation), lower=True)
    half = solve_triangular(lower, numerator.T, lower=True)
    whole: FloatArray = solve_triangular(lower, half, lower=True, trans="T").T
    return whole
