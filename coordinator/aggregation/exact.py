"""Sums that come out the same bit for bit, in any order, on any number of threads, and under subtraction.

Factors become whole numbers times a power of two, of so few bits that a matrix product over a bounded number of
columns stays under 2^53: fp64 carries it without rounding, whatever order BLAS adds in. What is summed over
contributions lies on one grid that depends on the layer's width alone, never on who else contributes:

    numerator    Σ w Δ G   multiples of 2^-(34 + p) and of 2^-(51 + p), two sums
    denominator  Σ w G     multiples of 2^-(40 + p),    p = 2 ⌈log₄ n⌉ for an input of width n

G has unit trace, so its entries are about 1/n, and 2^p ≥ n brings them near one. Contributions of equal weight are
stacked: one large product instead of many small ones.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.adapter import Factors, Sketch
from protocol.errors import ContributionRefused

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FACTOR_BITS = 20
"""Finer than the fp16 that factors are stored in."""
PRODUCT_BITS = 24
LEFT_BITS = 17
"""B on the grid 2^-17, its largest entry between one half and one."""
LIMB_BITS = 17
"""Δ G's right factor is two numbers on the grids 2^-17 and 2^-34."""
MOMENT_BITS = 20
DENOMINATOR_BITS = 2 * MOMENT_BITS
_EXACT = 2.0**53
_INT64 = 2.0**62


class Scaled(NamedTuple):
    """``integers`` · 2^``exponent``; the integers are whole numbers held in fp64."""

    integers: FloatArray
    exponent: int


@dataclass(frozen=True)
class Term:
    """Δ G of one contribution and layer as whole numbers: ``left`` (d_out, r) times ``high`` and ``low`` (r, d_in)."""

    left: FloatArray
    high: FloatArray
    low: FloatArray


def scaled(values: FloatArray, bits: int) -> Scaled:
    """Round to ``bits`` bits (sign included) relative to the largest magnitude."""
    largest = float(np.abs(values).max(initial=0.0))
    exponent = math.frexp(largest)[1] - (bits - 1)
    return Scaled(np.rint(np.ldexp(values, -exponent)), exponent)


def width_bits(n: int) -> int:
    """p: the even number of bits by which a unit-trace moment of width ``n`` is scaled up."""
    return 2 * math.ceil(math.log2(n) / 2)


def term(factors: Factors, sketch: Sketch, share: float = 1.0) -> Term:
    """Δ G = B (A G) with G = F Fᵀ + diag(d), times ``share`` (what a clip leaves of the contribution)."""
    a = scaled(factors.a.astype(np.float64), FACTOR_BITS)
    f, d = _normalised(sketch)
    projected = _product(a, f)
    low_rank = _product(scaled(_value(projected), PRODUCT_BITS), Scaled(f.integers.T, f.exponent))
    diagonal = Scaled(a.integers * d.integers, a.exponent + d.exponent)
    return _on_grid(factors.b, _value(low_rank) + _value(diagonal), share)


def term_with_mean(factors: Factors, mean: FloatArray, share: float = 1.0) -> Term:
    """The same for a contribution without statistics of its own: ``mean`` (n, n) is the others' G."""
    right = _product(scaled(factors.a.astype(np.float64), FACTOR_BITS), scaled(mean, FACTOR_BITS))
    return _on_grid(factors.b, _value(right), share)


def numerator(terms: Iterable[tuple[int, Term]], shape: tuple[int, int]) -> IntArray:
    """Σ w Δ G over (w, term) on its grids, coarse and fine: int64 (2, d_out, d_in), of ``shape`` (d_out, d_in)."""
    total = np.zeros((2, *shape), np.int64)
    for weight, stack in _stacks(terms):
        left = np.concatenate([one.left for one in stack], axis=1)
        high, low = (np.concatenate([getattr(one, limb) for one in stack]) for limb in ("high", "low"))
        total = _summed(total, weight, np.stack([_exact_product(left, high), _exact_product(left, low)]))
    return total


def denominator(sketches: Iterable[tuple[int, Sketch]], n: int) -> IntArray:
    """Σ w G over (w, sketch of width ``n``) on its grid: int64 (n, n)."""
    total, half = np.zeros((n, n), np.int64), width_bits(n) // 2
    for weight, sketch in sketches:
        factor, diagonal = _unit_trace(sketch)
        f = np.rint(np.ldexp(factor, half + MOMENT_BITS))
        moment = _exact_product(f, np.ascontiguousarray(f.T))
        moment[np.diag_indices(n)] += np.rint(np.ldexp(diagonal, 2 * half + DENOMINATOR_BITS)).astype(np.int64)
        total = _summed(total, weight, moment)
    return total


def numerator_value(total: IntArray) -> FloatArray:
    """Σ w Δ G as fp64."""
    coarse, fine = total.astype(np.float64)
    scale = LEFT_BITS + 2 * LIMB_BITS + width_bits(total.shape[2])
    value: FloatArray = np.ldexp(np.ldexp(coarse, LIMB_BITS) + fine, -scale)
    return value


def denominator_value(total: IntArray) -> FloatArray:
    """Σ w G as fp64."""
    return np.ldexp(total.astype(np.float64), -DENOMINATOR_BITS - width_bits(len(total)))


def _on_grid(b: NDArray[np.floating], right: FloatArray, share: float) -> Term:
    """Both factors on their grids; B's power of two goes over to the right."""
    left = scaled(b.astype(np.float64), LEFT_BITS + 1)
    right = np.ldexp(share * right, left.exponent + LEFT_BITS + width_bits(right.shape[1]))
    high = np.rint(np.ldexp(right, LIMB_BITS))
    low = np.rint(np.ldexp(right - np.ldexp(high, -LIMB_BITS), 2 * LIMB_BITS))
    _require_room(np.abs(high).max(initial=0.0) * 2.0 ** (LEFT_BITS + 10))
    return Term(left.integers, high, low)


def _stacks(terms: Iterable[tuple[int, Term]], columns: int = 1024) -> Iterator[tuple[int, list[Term]]]:
    """Terms of equal weight, some ``columns`` at a time."""
    waiting: dict[int, list[Term]] = {}
    for weight, one in terms:
        stack = waiting.setdefault(weight, [])
        stack.append(one)
        if sum(t.left.shape[1] for t in stack) >= columns:
            yield weight, waiting.pop(weight)
    yield from waiting.items()


def _exact_product(left: FloatArray, right: FloatArray) -> IntArray:
    """A product of whole numbers, over as many columns at a time as fp64 carries exactly."""
    bound = max(1.0, np.abs(left).max(initial=0.0) * np.abs(right).max(initial=0.0))
    columns = int(_EXACT // bound)
    total = np.zeros((left.shape[0], right.shape[1]), np.int64)
    for start in range(0, left.shape[1], max(1, columns)):
        part = slice(start, start + columns)
        total += (left[:, part] @ right[part]).astype(np.int64)
    return total


def _summed(total: IntArray, weight: int, part: IntArray) -> IntArray:
    _require_room(float(np.abs(total).max(initial=0)) + weight * float(np.abs(part).max(initial=0)))
    return total + weight * part


def _require_room(reach: float) -> None:
    if reach >= _INT64:
        raise ContributionRefused("A contribution's values are too large to be summed exactly.")


def _unit_trace(sketch: Sketch) -> tuple[FloatArray, FloatArray]:
    """Factor and diagonal at unit trace: what is left of fp16's rounding in the trace is no one's weight.

    The trace is summed exactly (``math.fsum``), since it would otherwise depend on the order of addition.
    """
    factor, diagonal = sketch.factor.astype(np.float64), sketch.diagonal.astype(np.float64)
    trace = math.fsum(np.square(factor).ravel()) + math.fsum(diagonal)
    return factor / math.sqrt(trace), diagonal / trace


def _normalised(sketch: Sketch) -> tuple[Scaled, Scaled]:
    factor, diagonal = _unit_trace(sketch)
    return scaled(factor, FACTOR_BITS), scaled(diagonal, PRODUCT_BITS)


def _product(left: Scaled, right: Scaled) -> Scaled:
    """An exact matrix product: refuses shapes at which it would not be exact."""
    bound = np.abs(left.integers).max(initial=0) * np.abs(right.integers).max(initial=0) * left.integers.shape[1]
    if bound >= _EXACT:
        raise ContributionRefused(f"A layer of inner size {left.integers.shape[1]} is too wide to be summed exactly.")
    return Scaled(left.integers @ right.integers, left.exponent + right.exponent)


def _value(product: Scaled) -> FloatArray:
    return np.ldexp(product.integers, product.exponent)
