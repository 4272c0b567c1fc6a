"""Sums that come out the same bit for bit, in any order, on any number of threads, and under subtraction.

Every factor is scaled by a power of two to a few bits of integer, so that each matrix product below stays
under 2^53 and fp64 carries it without rounding, whatever order BLAS adds in. Between products the
(exact) values are cut back to integers of few bits again, element by element, which is deterministic too.
The results are rounded to one fixed quantum and summed as int64.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.adapter import Factors, Sketch
from protocol.errors import ContributionRefused

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FACTOR_BITS = 20
"""Finer than the fp16 that factors are stored in, coarse enough for layers 16,000 wide: 2 x 19 + 14 < 53."""
PRODUCT_BITS = 24
QUANTUM_EXPONENT = 48
"""Sums are multiples of 2^-48."""
_LIMIT = 2.0**52


class Scaled(NamedTuple):
    """``integers`` · 2^``exponent``; the integers are whole numbers held in fp64."""

    integers: FloatArray
    exponent: int


def scaled(values: FloatArray, bits: int) -> Scaled:
    """Round to ``bits`` bits (sign included) relative to the largest magnitude."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return Scaled(np.zeros_like(values), 0)
    exponent = math.frexp(largest)[1] - (bits - 1)
    return Scaled(np.rint(np.ldexp(values, -exponent)), exponent)


def numerator(factors: Factors, sketch: Sketch) -> IntArray:
    """Δ G = B (A G) for one contribution and layer, as multiples of 2^-48: int64 (d_out, d_in)."""
    a = scaled(factors.a.astype(np.float64), FACTOR_BITS)
    b = scaled(factors.b.astype(np.float64), FACTOR_BITS)
    f, d = _normalised(sketch)
    projected = _product(a, f)
    low_rank = _product(scaled(_value(projected), PRODUCT_BITS), Scaled(f.integers.T, f.exponent))
    diagonal = Scaled(a.integers * d.integers, a.exponent + d.exponent)
    moved = scaled(_value(low_rank) + _value(diagonal), PRODUCT_BITS)
    return _quantised(_product(b, moved))


def denominator(sketch: Sketch) -> IntArray:
    """G = F Fᵀ + diag(d) of unit trace, as multiples of 2^-48: int64 (n, n)."""
    f, d = _normalised(sketch)
    moment = _quantised(_product(f, Scaled(f.integers.T, f.exponent)))
    moment[np.diag_indices_from(moment)] += _quantised(d)
    return moment


def as_float(total: IntArray) -> FloatArray:
    """Back to fp64 numbers."""
    return np.ldexp(total.astype(np.float64), -QUANTUM_EXPONENT)


def _normalised(sketch: Sketch) -> tuple[Scaled, Scaled]:
    """Factor and diagonal at unit trace: what is left of fp16's rounding in the trace is no one's weight.

    The trace is summed exactly (``math.fsum``), since it would otherwise depend on the order of addition.
    """
    factor = sketch.factor.astype(np.float64)
    diagonal = sketch.diagonal.astype(np.float64)
    trace = math.fsum(np.square(factor).ravel()) + math.fsum(diagonal)
    return scaled(factor / math.sqrt(trace), FACTOR_BITS), scaled(diagonal / trace, PRODUCT_BITS)


def _product(left: Scaled, right: Scaled) -> Scaled:
    """An exact matrix product: refuses shapes at which it would not be exact."""
    bound = np.abs(left.integers).max(initial=0) * np.abs(right.integers).max(initial=0) * left.integers.shape[1]
    if bound >= _LIMIT * 2:
        raise ContributionRefused(f"A layer of inner size {left.integers.shape[1]} is too wide to be summed exactly.")
    return Scaled(left.integers @ right.integers, left.exponent + right.exponent)


def _value(product: Scaled) -> FloatArray:
    return np.ldexp(product.integers, product.exponent)


def _quantised(product: Scaled) -> IntArray:
    whole = np.rint(np.ldexp(product.integers, product.exponent + QUANTUM_EXPONENT))
    if np.abs(whole).max(initial=0) >= _LIMIT:
        raise ContributionRefused("A contribution's values are too large to be summed exactly.")
    return whole.astype(np.int64)
