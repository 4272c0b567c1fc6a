"""What a contribution counts for, beside its weight: a clip, a minimum, and the policy's robust rule.

Everything is decided from the Gram matrix in product space, and what comes out are weights: whole multiples of
2^-8, so that the exact sums stay exact and have room. A norm-matched backdoor passes every such rule; only the held-out
scores find it.

Statistics are a way to gain weight too, although all have unit trace: where Gᵢ has more than the others' Gⱼ, i's word
counts for more. What any set C of contributions does to the collective's answers, in the data's metric
S = Σ wᵢ Gᵢ, has the bound

    ‖Σ_C wᵢ Δᵢ Gᵢ S^-½‖²  ≤  Σ_C wᵢ tr(Δᵢ Gᵢ Δᵢᵀ)  ≤  Σ_C wᵢ λmax(Gᵢ) ‖Δᵢ‖²        since Σ_C wᵢ Gᵢ ⪯ S

so that two numbers of each contribution are all there is to keep within the round's: its reach √tr(Δ G Δᵀ), which is
clipped as the norm is, and its peak λmax(G). Neither depends on who else colludes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from merging.exact import FACTOR_BITS, scaled
from protocol.adapter import Factors, Sketch, input_group
from protocol.errors import BadInput
from protocol.policy import RobustRule

FloatArray = NDArray[np.float64]

CLIP = 1.5
"""Times the median norm: what is longer is shortened to it."""
MINIMUM = 0.1
"""Times the median norm: what is shorter counts for nothing. Krum and the geometric median favour tiny updates."""
PEAK = 2.5
"""Times the round's median λmax(G) of an input group: statistics with a higher one do not count."""
LENDERS = 8
"""Spread over all in the order of their ids, which nobody chooses for all."""
COPIED = 0.999
"""The cosine from which on two deltas are one: written anew in fp16, the same delta has 1 - 3e-8."""
UNIT = 1 << 16
WEIGHT_STEP = 1 << 8
"""A rule's weights are multiples of this: eight bits less for the sums to carry."""
BYZANTINE_SHARE = 0.2
"""The share of contributions that Multi-Krum takes to be bad."""
WEISZFELD_STEPS = 50
_SMALLEST_DISTANCE = 1e-6
_PEAK_DIGITS = 9
"""More of an eigenvalue may differ from one number of threads to another."""


@dataclass(frozen=True)
class Shares:
    """By contribution, in units of 1/UNIT: ``length`` is what the clip leaves of its delta, ``weight`` what the rule
    leaves of its weight. ``reasons`` says why one counts for less."""

    length: tuple[int, ...]
    weight: tuple[int, ...]
    reasons: tuple[str, ...]


def shares(
    gram: FloatArray, weights: Sequence[int], rule: RobustRule, reached: Sequence[float | None] | None = None
) -> Shares:
    """Clip, minimum norm, then the rule over what is left.

    ``reached`` (see ``reaches``) is clipped as norms are; None is not known.

    Raises:
        BadInput: the rule leaves nothing to merge.
    """
    norms = np.sqrt(np.clip(np.diag(gram), 0.0, None))
    median = float(np.median(norms))
    too_long, too_far = _clip(norms), _clip(_known(reached, len(norms)))
    clip = np.minimum(too_long, too_far)
    length = np.floor(clip * UNIT).astype(np.int64)
    long_enough = norms >= MINIMUM * median
    kept = np.flatnonzero(long_enough)
    clipped = gram * clip[:, None] * clip
    rest = clipped[np.ix_(kept, kept)]
    weight = np.zeros(len(gram), np.int64)
    factors = _rule(rest, np.asarray(weights, float)[kept], rule)
    weight[kept] = np.rint(factors * (UNIT // WEIGHT_STEP)).astype(np.int64) * WEIGHT_STEP
    if not (weight * np.asarray(weights)).any():
        raise BadInput(f"The robust rule {rule} leaves no contribution to merge.", "Ask for more contributions.")
    reasons = tuple(
        _reason(bool(e), bool(f < n), int(x), int(w), rule)
        for e, f, n, x, w in zip(long_enough, too_far, too_long, length, weight, strict=True)
    )
    return Shares(tuple(map(int, length)), tuple(map(int, weight)), reasons)


def reaches(
    adapters: Sequence[Mapping[str, Factors]], told: Sequence[Mapping[str, Sketch] | None]
) -> list[float | None]:
    """Each contribution's reach in its own statistics; without such, the median in ``LENDERS`` others'.

    Else a contribution without statistics could lie where everybody's inputs are, and be clipped by its norm alone.
    """
    known = [one for one in told if one is not None]
    if not known:
        return [None] * len(adapters)
    lenders = known[:: -(-len(known) // LENDERS)]
    return [
        reach(adapter, own) if own is not None else float(np.median([reach(adapter, one) for one in lenders]))
        for adapter, own in zip(adapters, told, strict=True)
    ]


def reach(adapter: Mapping[str, Factors], statistics: Mapping[str, Sketch]) -> float:
    """√ Σ over layers of tr(Δ G Δᵀ), G at unit trace: how far the delta moves answers to its own inputs."""
    groups: dict[str, list[Factors]] = {}
    for layer in sorted(adapter):
        groups.setdefault(input_group(layer), []).append(adapter[layer])
    return math.sqrt(sum(_energy(layers, statistics[group]) for group, layers in groups.items()))


def peak(sketch: Sketch) -> float:
    """λmax(G) at unit trace, from above: that of F Fᵀ, by the (k, k) matrix FᵀF, plus the largest of the diagonal."""
    factor, diagonal = sketch.factor.astype(np.float64), sketch.diagonal.astype(np.float64)
    largest = float(np.linalg.eigvalsh(factor.T @ factor)[-1]) if factor.size else 0.0
    return round((largest + float(diagonal.max(initial=0.0))) / _trace(factor, diagonal), _PEAK_DIGITS)


def peaked(peaks: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Whose statistics do not count, contribution → the reason; such a contribution counts as if it had sent none.

    ``peaks`` are by contribution and input group, of those that have statistics. Of two contributions neither is a
    majority, so nobody is named among fewer than three.
    """
    if len(peaks) < 3:
        return {}
    groups = sorted(next(iter(peaks.values())))
    table = np.array([[one[group] for group in groups] for one in peaks.values()])
    times = table / np.median(table, axis=0)
    return {
        key: f"Its statistics of {groups[int(row.argmax())]} lie in too few directions and do not count."
        for key, row in zip(peaks, times, strict=True)
        if row.max() > PEAK
    }


def copies(gram: FloatArray) -> dict[int, int]:
    """Row → the earlier row whose delta it is, at whatever length; rows are in the order of arrival."""
    norms = np.sqrt(np.clip(np.diag(gram), 0.0, None))
    alike = gram >= COPIED * norms[:, None] * norms
    found: dict[int, int] = {}
    for row in range(len(gram)):
        earlier = (other for other in range(row) if alike[row, other] and norms[row] > 0 and other not in found)
        if (first := next(earlier, None)) is not None:
            found[row] = first
    return found


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


def _reason(long_enough: bool, too_far: bool, length: int, weight: int, rule: RobustRule) -> str:
    if not long_enough:
        return f"Its delta is shorter than {MINIMUM:g} of the median."
    if weight == 0:
        return f"The rule {rule} leaves it out."
    if length < UNIT and too_far:
        return f"Its delta reaches further than {CLIP:g} times the median in its own statistics and was shortened."
    if length < UNIT:
        return f"Its delta is longer than {CLIP:g} times the median and was shortened."
    return ""


def _clip(lengths: FloatArray) -> FloatArray:
    """What is left of each length: at most ``CLIP`` times the median of those that are known."""
    known = np.isfinite(lengths)
    median = float(np.median(lengths[known])) if known.any() else 0.0
    clip: FloatArray = np.where(known & (lengths > 0), CLIP * median / np.where(lengths > 0, lengths, 1.0), 1.0)
    return np.minimum(1.0, clip)


def _known(reached: Sequence[float | None] | None, count: int) -> FloatArray:
    return np.array([math.nan if one is None else one for one in reached or [None] * count], np.float64)


def _energy(layers: Sequence[Factors], sketch: Sketch) -> float:
    """Σ tr(Δ G Δᵀ) of layers that read one input, Δ = B A: ⟨BᵀB, A G Aᵀ⟩, nothing wider than (r, d_in).

    The same on any number of threads: all are whole numbers times powers of two, of so few bits that fp64 adds them
    exactly. F needs no rounding: fp16 is such already, and its columns are no longer than one.
    """
    factor, diagonal = sketch.factor.astype(np.float64), sketch.diagonal.astype(np.float64)
    total = 0.0
    for one in layers:
        a, b = _whole(one.a), _whole(one.b)
        through, along = _whole(a @ factor), _whole(a * diagonal)
        total += float(((b.T @ b) * (through @ through.T + along @ a.T)).sum())
    return max(0.0, total) / _trace(factor, diagonal)


def _whole(values: NDArray[np.floating]) -> FloatArray:
    """Rounded to ``FACTOR_BITS`` bits relative to the largest."""
    rounded = scaled(values.astype(np.float64), FACTOR_BITS)
    value: FloatArray = np.ldexp(rounded.integers, rounded.exponent)
    return value


def _trace(factor: FloatArray, diagonal: FloatArray) -> float:
    return float(np.einsum("ij,ij->", factor, factor) + diagonal.sum())
