"""Sums that come out the same bit for bit, in any order, on any number of threads, and under subtraction.

Everything is a whole number times a power of two. Factors in fp16 are such already, so nothing is lost in them; what
follows from a contribution (its statistics' unit trace, A G) is rounded once, in one way on every machine, to a grid
that depends on the layer's width alone, never on who else contributes. From there on all is exact (``wide``):

    numerator    Σ w Δ G   multiples of 2^-(72 + p),    p = 2 ⌈log₄ n⌉ for an input of width n; none without statistics
    denominator  Σ w G     multiples of 2^-80

G has unit trace, so its entries are about 1/n, and 2^p ≥ n brings them near one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merging import wide
from protocol.adapter import Factors, Sketch
from protocol.errors import ContributionRefused

FloatArray = NDArray[np.float64]

FACTOR_BITS = 20
LEFT_BITS = 24
"""B on the grid 2^-24, its largest entry between one half and one: fp16 below one is on it without rounding."""
RIGHT_BITS = 48
FACTOR_STEP = 24
"""A statistics' factor lies on 2^-24, as all of fp16 does."""
FINE = 16
"""More bits for a factor that has to be shortened."""
DIAGONAL_STEP = 60
DENOMINATOR_BITS = 2 * (FACTOR_STEP + FINE)
_INNER_BITS = 52
_DIAGONAL_BITS = 48


class Scaled(NamedTuple):
    """``integers`` · 2^``exponent``; the integers are whole numbers held in fp64."""

    integers: FloatArray
    exponent: int


class Moment(NamedTuple):
    """G = F Fᵀ + diag(d) at a trace of exactly one: F (n, k) is ``factor`` · 2^-``step``, d ``diagonal`` · 2^-60."""

    factor: FloatArray
    step: int
    diagonal: FloatArray

    def values(self) -> tuple[FloatArray, FloatArray]:
        """F and d as fp64."""
        return np.ldexp(self.factor, -self.step), np.ldexp(self.diagonal, -DIAGONAL_STEP)


ONE = Moment(np.zeros((1, 0)), FACTOR_STEP, np.array([2.0**DIAGONAL_STEP]))
"""What a contribution adds to the denominator where nobody has statistics: G = 1."""


class Term(NamedTuple):
    """Δ G of one contribution and layer as whole numbers: ``left`` (d_out, r) times ``right`` (r, d_in)."""

    left: FloatArray
    right: FloatArray


def scaled(values: FloatArray, bits: int) -> Scaled:
    """Round to ``bits`` bits (sign included) relative to the largest magnitude."""
    exponent = math.frexp(wide.top(values))[1] - (bits - 1)
    whole = values * 2.0**-exponent
    return Scaled(np.rint(whole, out=whole), exponent)


def width_bits(n: int) -> int:
    """p: the even number of bits by which a unit-trace moment of width ``n`` is scaled up."""
    return 2 * math.ceil(math.log2(n) / 2)


def moment(sketch: Sketch) -> Moment:
    """A contribution's statistics at unit trace: the diagonal gets what the factor leaves, in its own proportions.

    What fp16's rounding does to the trace is no one's weight. A factor that has more than one already is shortened.
    """
    factor = np.rint(np.ldexp(sketch.factor.astype(np.float64), FACTOR_STEP))
    squared, step = float(np.square(factor).sum()), FACTOR_STEP
    if not squared < 2.0**53:
        raise ContributionRefused("A contribution's statistics have no unit trace.")
    taken = math.ldexp(squared, -2 * FACTOR_STEP)
    if taken > 1.0:
        shorter = math.floor(2**FINE / math.sqrt(taken))
        factor, step = factor * shorter, FACTOR_STEP + FINE
        taken = math.ldexp(int(squared) * shorter**2, -2 * step)
    diagonal = np.rint(np.ldexp(sketch.diagonal.astype(np.float64), _DIAGONAL_BITS))
    if not diagonal.any():
        diagonal = np.ones_like(diagonal)
    share = max(0.0, 1.0 - taken) / float(diagonal.sum())
    return Moment(factor, step, np.rint(np.ldexp(diagonal * share, DIAGONAL_STEP)))


def terms(layers: Sequence[Factors], given: Moment | FloatArray | None, share: float = 1.0) -> list[Term]:
    """Δ G of layers that read one input, times ``share`` (what a clip leaves of the contribution).

    Args:
        layers: the contribution's factors, all of one width n.
        given: its statistics, or the (n, n) mean of the others' if it has none; None if nobody has any, G = I.
        share: between 0 and 1.
    """
    a = np.concatenate([one.a for one in layers]).astype(np.float64)
    bits = RIGHT_BITS if given is None else RIGHT_BITS + width_bits(a.shape[1])
    right = share * (a if given is None else _through(a, given))
    ends = np.cumsum([one.rank for one in layers])[:-1]
    return [_on_grid(one.b, rows, bits) for one, rows in zip(layers, np.split(right, ends), strict=True)]


def stacked(weighted: Sequence[tuple[int, Term]]) -> Term:
    """Σ w Δ G over (w, term) as one: all of them side by side."""
    left = np.concatenate([one.left if weight == 1 else weight * one.left for weight, one in weighted], axis=1)
    return Term(left, np.concatenate([one.right for _, one in weighted]))


def factor_values(stack: Term) -> tuple[FloatArray, FloatArray]:
    """Both factors of Σ w Δ as fp64, where nobody had statistics."""
    return np.ldexp(stack.left, -LEFT_BITS), np.ldexp(stack.right, -RIGHT_BITS)


def numerator(weighted: Sequence[tuple[int, Term]], shape: tuple[int, int]) -> wide.Whole:
    """Σ w Δ G over (w, term), of ``shape`` (d_out, d_in)."""
    total = wide.Sum(shape)
    total.add_product(*stacked(weighted))
    return total.whole()


def add_moments(total: wide.Sum, diagonal: wide.Sum, weighted: Sequence[tuple[int, Moment]]) -> None:
    """Add Σ w F Fᵀ over (w, moment) to ``total``, the factors of one weight side by side, and Σ w d to ``diagonal``."""
    stacks: dict[tuple[int, int], list[FloatArray]] = {}
    for weight, one in weighted:
        if one.factor.shape[1]:
            stacks.setdefault((weight, one.step), []).append(one.factor)
    for (weight, step), factors in stacks.items():
        factor = np.concatenate(factors, axis=1)
        total.add_product(factor if weight == 1 else weight * factor, factor.T, DENOMINATOR_BITS - 2 * step)
    columns = np.stack([one.diagonal for _, one in weighted], axis=1)
    weights = np.array([[float(weight)] for weight, _ in weighted])
    diagonal.add_product(columns, weights, DENOMINATOR_BITS - DIAGONAL_STEP)


def denominator(weighted: Sequence[tuple[int, Moment]], n: int) -> wide.Whole:
    """Σ w G over (w, moment) of width ``n``."""
    total, diagonal = wide.Sum((n, n)), wide.Sum((n, 1))
    add_moments(total, diagonal, weighted)
    total.add_diagonal(diagonal.whole())
    return total.whole()


def numerator_value(total: wide.Whole, plain: bool = False) -> FloatArray:
    """Σ w Δ G as fp64; ``plain``: nobody had statistics."""
    return total.value(-LEFT_BITS - RIGHT_BITS - (0 if plain else width_bits(total.shape[1])))


def denominator_value(total: wide.Whole) -> FloatArray:
    """Σ w G as fp64."""
    return total.value(-DENOMINATOR_BITS)


def _through(a: FloatArray, given: Moment | FloatArray) -> FloatArray:
    """A G (r, n), its exact value but for a few roundings that no machine makes otherwise."""
    whole, step = _by_row(a, LEFT_BITS)
    if isinstance(given, Moment):
        factor = wide.Operand(given.factor)
        inner, inner_step = _by_row(wide.product(whole, factor), _INNER_BITS)
        low_rank: FloatArray = wide.product(inner, factor.transposed()) * (step * inner_step * 2.0 ** (-2 * given.step))
        return low_rank + a * np.ldexp(given.diagonal, -DIAGONAL_STEP)
    mean = scaled(given, _INNER_BITS)
    return wide.product(whole, wide.Operand(mean.integers)) * np.ldexp(step, mean.exponent)


def _by_row(values: FloatArray, bits: int) -> tuple[FloatArray, FloatArray]:
    """Whole numbers of ``bits`` bits (r, n), and the power of two (r, 1) that each row is to be multiplied by."""
    largest = np.maximum(values.max(axis=1), -values.min(axis=1))
    exponent = (np.frexp(largest)[1] - bits)[:, None]
    whole = values * np.ldexp(1.0, -exponent)
    return np.rint(whole, out=whole), np.ldexp(1.0, exponent)


def _on_grid(b: NDArray[np.floating], right: FloatArray, bits: int) -> Term:
    """B on its grid, its power of two with the right factor, which comes to the grid of all."""
    left = scaled(b.astype(np.float64), LEFT_BITS + 1)
    whole = right * 2.0 ** (left.exponent + LEFT_BITS + bits)
    return Term(left.integers, np.rint(whole, out=whole))
