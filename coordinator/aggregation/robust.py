"""What a contribution counts for, beside its weight: a clip, a minimum, and the policy's robust rule.

Everything is decided from the Gram matrix in product space, and what comes out are weights: whole multiples of
2^-16, so that the exact sums stay exact. A norm-matched backdoor passes every such rule; only the held-out scores
find it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadInput
from protocol.policy import RobustRule

FloatArray = NDArray[np.float64]

CLIP = 1.5
"""Times the median norm: what is longer is shortened to it."""
MINIMUM = 0.1
"""Times the median norm: what is shorter counts for nothing. Krum and the geometric median favour tiny updates."""
UNIT = 1 << 16
BYZANTINE_SHARE = 0.2
"""The share of contributions that Multi-Krum takes to be bad."""
WEISZFELD_STEPS = 50
_SMALLEST_DISTANCE = 1e-6


@dataclass(frozen=True)
class Shares:
    """By contribution, in units of 1/UNIT: ``length`` is what the clip leaves of its delta, ``weight`` what the rule
    leaves of its weight. ``reasons`` says why one counts for less."""

    length: tuple[int, ...]
    weight: tuple[int, ...]
    reasons: tuple[str, ...]


def shares(gram: FloatArray, weights: Sequence[int], rule: RobustRule) -> Shares:
    """Clip, minimum norm, then the rule over what is left.

    Raises:
        BadInput: the rule leaves nothing to merge.
    """
    norms = np.sqrt(np.clip(np.diag(gram), 0.0, None))
    median = float(np.median(norms))
    clip = np.minimum(1.0, CLIP * median / np.where(norms > 0, norms, 1.0))
    length = np.floor(clip * UNIT).astype(np.int64)
    long_enough = norms >= MINIMUM * median
    kept = np.flatnonzero(long_enough)
    clipped = gram * clip[:, None] * clip
    rest = clipped[np.ix_(kept, kept)]
    weight = np.zeros(len(gram), np.int64)
    weight[kept] = np.rint(_rule(rest, np.asarray(weights, float)[kept], rule) * UNIT).astype(np.int64)
    if not (weight * np.asarray(weights)).any():
        raise BadInput(f"The robust rule {rule} leaves no contribution to merge.", "Ask for more contributions.")
    reasons = tuple(_reason(bool(e), int(n), int(w), rule) for e, n, w in zip(long_enough, length, weight, strict=True))
    return Shares(tuple(map(int, length)), tuple(map(int, weight)), reasons)


def multi_krum(gram: FloatArray, bad: int) -> FloatArray:
    """One for the n − ``bad`` contributions that lie closest to their neighbours, zero for the others.

    Blanchard et al. 2017: a contribution's score is the sum of its n − bad − 2 smallest squared distances.
    """
    n = len(gram)
    if n <= 2 * bad + 2 or bad == 0:
        return np.ones(n)
    diagonal = np.diag(gram)
    distances = diagonal[:, None] + diagonal - 2 * gram
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : n - bad - 2].sum(axis=1)
    chosen = np.zeros(n)
    chosen[np.argsort(scores, kind="stable")[: n - bad]] = 1.0
    return chosen


def geometric_median(gram: FloatArray, weights: FloatArray) -> FloatArray:
    """Factors of the weights under which the weighted mean is the geometric median; the largest is one.

    Smoothed Weiszfeld steps (Pillutla et al. 2022), the distances taken from the Gram matrix alone.
    """
    beta = weights / weights.sum()
    floor = _SMALLEST_DISTANCE * float(np.sqrt(np.diag(gram).max(initial=1.0)))
    for _ in range(WEISZFELD_STEPS):
        inner = (gram * beta).sum(axis=1)
        squared = np.diag(gram) - 2 * inner + float((beta * inner).sum())
        beta = weights / np.maximum(np.sqrt(np.clip(squared, 0.0, None)), floor)
        beta /= beta.sum()
    factors = beta / np.where(weights > 0, weights, 1.0)
    whole: FloatArray = factors / factors.max(initial=1e-300)
    return whole


def _rule(gram: FloatArray, weights: FloatArray, rule: RobustRule) -> FloatArray:
    if rule is RobustRule.MULTI_KRUM:
        return multi_krum(gram, int(BYZANTINE_SHARE * len(gram)))
    if rule is RobustRule.GEOMETRIC_MEDIAN:
        return geometric_median(gram, weights)
    return np.ones(len(gram))


def _reason(long_enough: bool, length: int, weight: int, rule: RobustRule) -> str:
    if not long_enough:
        return f"Its delta is shorter than {MINIMUM:g} of the median."
    if weight == 0:
        return f"The rule {rule} leaves it out."
    if length < UNIT:
        return f"Its delta is longer than {CLIP:g} times the median and was shortened."
    return ""
