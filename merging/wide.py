"""Sums of matrix products over whole numbers, exact to the last bit, far beyond fp64's 53.

Products are made by BLAS in fp64, over operands of so few bits that no partial sum reaches 2^53, whatever order it adds
in: by Cauchy and Schwarz no partial sum of Σ xᵢ yᵢ is larger than ‖x‖ ‖y‖. Operands of more bits are split (the idea of
Ozaki et al. 2012, with whole numbers).
"""

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import idamax

from protocol.errors import ContributionRefused

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LOW_BITS = 48
WHOLE_BITS = 62
"""Whole numbers in operands are smaller than two to this; they have fp64's 53 significant bits."""
_REACH = 2.0 ** (LOW_BITS + 62)
_EXACT = 2.0**53 * (1 - 1e-9)
_ROOM = 2.0**62
_FEW_BITS = 2
"""So many bits too many are saved by cutting the inner size rather than the numbers."""
_INNER = 512
_ROWS = 256
_AT_ONCE = 1 << 15


class Part(NamedTuple):
    """``product`` · 2^``shift``, no entry larger than ``reach`` in magnitude, the shift counted in."""

    product: IntArray
    shift: int
    reach: float


class Whole(NamedTuple):
    """A matrix of whole numbers in the one form that it has, so that equal ones are equal bytes.

    Multiples of the largest possible 2^``shift`` as int64 (1, m, n) where these are below 2^62; otherwise int64
    (2, m, n), high and low, which mean high · 2^48 + low with 0 ≤ low < 2^48, and no shift.
    """

    digits: IntArray
    shift: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.digits.shape[1], self.digits.shape[2]

    def value(self, exponent: int = 0) -> FloatArray:
        """These numbers times 2^``exponent`` as fp64."""
        values: FloatArray = self.digits[0].astype(np.float64)
        values *= 2.0 ** (exponent + self.shift + (LOW_BITS if len(self.digits) == 2 else 0))
        if len(self.digits) == 2:
            values += np.ldexp(self.digits[1].astype(np.float64), exponent)
        return values

    def parts(self) -> Iterator[Part]:
        """The digits, as they may be added to a sum."""
        for digit, shift in zip(self.digits[::-1], (self.shift, LOW_BITS), strict=False):
            yield Part(digit.copy(), shift, _magnitude(digit) * 2.0**shift)

    def __add__(self, other: "Whole") -> "Whole":  # type: ignore[override]
        """The sum of both."""
        total = Sum.of(Whole(self.digits.copy(), self.shift))
        for part in other.parts():
            total.add(*part)
        return total.whole()

    def __sub__(self, other: "Whole") -> "Whole":
        """Bit for bit as if ``other`` had never been added."""
        return Sum.of(Whole(self.digits.copy(), self.shift)).minus(other).whole()


class Sum:
    """A sum that grows in place: of one digit as long as it has room, of two from then on."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self._shift, self._reach = shape, 0, 0.0
        self._digits: IntArray | None = None

    @classmethod
    def of(cls, whole: Whole) -> "Sum":
        """A sum to go on from ``whole``, whose memory it takes over."""
        new = cls(whole.shape)
        new._digits, new._shift = whole.digits, whole.shift
        new._reach = _magnitude(whole.digits[0]) + 1.0
        new._reach *= 2.0 ** (LOW_BITS if len(whole.digits) == 2 else whole.shift)
        return new

    def whole(self) -> Whole:
        """What was added so far, in memory that the sum may go on to change."""
        if self._digits is None:
            return Whole(np.zeros((1, *self.shape), np.int64), 0)
        return _canonical(self._digits, self._shift)

    def add_product(self, left: FloatArray, right: FloatArray, shift: int = 0) -> None:
        """Add ``left`` @ ``right`` · 2^``shift``, both operands whole numbers."""
        one = Operand(left)
        self.add_pairs(_split(one, one.transposed() if right.base is left else Operand(right)), shift)

    def add_pairs(self, pairs: "Iterable[_Pair]", shift: int = 0) -> None:
        """Add their products, times 2^``shift``."""
        for one in pairs:
            part = _whole_product(one.left, one.right, one.shift)
            self.add(part, one.shift + shift, one.reach * 2.0**shift)

    def add_diagonal(self, vector: Whole) -> None:
        """Add diag(``vector``), (n, 1)."""
        for part in vector.parts():
            self.add(np.diag(part.product[:, 0]), part.shift, part.reach)

    def minus(self, whole: Whole) -> "Sum":
        """Take ``whole`` away again."""
        for part in whole.parts():
            self.add(-part.product, part.shift, part.reach)
        return self

    def add(self, part: IntArray, shift: int, reach: float) -> None:
        """Add ``part`` · 2^``shift``, no larger than ``reach`` in magnitude; ``part`` is used up.

        Raises:
            ContributionRefused: the sum may leave its range.
        """
        self._reach += reach
        if self._reach >= _REACH:
            raise ContributionRefused("A contribution's values are too large to be summed exactly.")
        if self._digits is None:
            self._digits, self._shift = part[None], shift
            return
        if len(self._digits) == 1 and self._reach < _ROOM * 2.0 ** min(shift, self._shift):
            self._add_narrow(part, shift)
            return
        if len(self._digits) == 1:
            narrow, self._digits = self._digits[0], np.zeros((2, *self.shape), np.int64)
            _add_wide(self._digits, narrow, self._shift)
            self._shift = 0
        _add_wide(self._digits, part, shift)

    def _add_narrow(self, part: IntArray, shift: int) -> None:
        assert self._digits is not None
        if shift > self._shift:
            part <<= shift - self._shift
        elif shift < self._shift:
            self._digits <<= self._shift - shift
            self._shift = shift
        self._digits[0] += part


class Operand:
    """A matrix of whole numbers, and what is to be known of it before it is multiplied, found once."""

    def __init__(self, values: FloatArray) -> None:
        self.values = values

    @cached_property
    def width(self) -> tuple[int, int] | None:
        """Bits that vary, and zeros common to all below them; None where all is zero."""
        return _width(self.values)

    @cached_property
    def row(self) -> float:
        """The longest row's Euclidean norm, not less than it is."""
        return _longest(self.values, "ij,ij->i")

    @cached_property
    def column(self) -> float:
        """The same of columns."""
        return _longest(self.values, "ij,ij->j")

    def transposed(self) -> "Operand":
        """The transpose, of which nothing is to be found again."""
        other = Operand(self.values.T)
        other.__dict__.update(width=self.width, row=self.column, column=self.row)
        return other


class _Pair(NamedTuple):
    """Two matrices whose product, all of it multiples of 2^``shift``, fp64 carries without rounding."""

    left: FloatArray
    right: FloatArray
    shift: int
    reach: float


def _split(left: Operand, right: Operand) -> Iterator[_Pair]:
    """Pairs whose products add up to ``left`` @ ``right``."""
    if left.width is None or right.width is None:
        return
    (left_bits, left_zeros), (right_bits, right_zeros) = left.width, right.width
    shift, reach = left_zeros + right_zeros, left.row * right.column
    if reach < _EXACT * 2.0**shift:
        yield _Pair(left.values, right.values, shift, reach)
        return
    half = left.values.shape[1] // 2
    if half >= _INNER and reach < _EXACT * 2.0 ** (shift + _FEW_BITS):
        for part in (slice(half), slice(half, None)):
            yield from _split(Operand(left.values[:, part]), Operand(right.values[part]))
    elif left_bits > right_bits:
        for limb in _halves(left.values, left_zeros + left_bits // 2):
            yield from _split(Operand(limb), right)
    else:
        for limb in _halves(right.values, right_zeros + right_bits // 2):
            yield from _split(left, Operand(limb))


def product(left: FloatArray, right: Operand) -> FloatArray:
    """``left`` @ ``right`` of whole numbers, its exact value rounded to fp64 in one way on every machine."""
    shape = len(left), right.values.shape[1]
    parts = list(_split(Operand(left), right))
    if len(parts) <= 2:  # one or two exact numbers are rounded no more than once
        return sum((one.left @ one.right for one in parts), start=np.zeros(shape))
    total = Sum(shape)
    total.add_pairs(parts)
    return total.whole().value()


def top(values: FloatArray) -> float:
    """The largest magnitude, in one pass."""
    flat = values.ravel(order="K")
    return abs(float(flat[idamax(flat)])) if flat.size else 0.0


def nearest(values: FloatArray, exponent: int) -> Whole:
    """``values`` · 2^``exponent``, rounded to whole numbers."""
    whole = np.rint(np.ldexp(values, exponent))
    high = np.floor(np.ldexp(whole, -LOW_BITS))
    return _canonical(np.stack([high, whole - np.ldexp(high, LOW_BITS)]).astype(np.int64), 0)


def _canonical(digits: IntArray, shift: int) -> Whole:
    """The one form of these numbers."""
    if len(digits) == 1:
        zeros = _zeros(digits)
        if zeros is None:
            return Whole(digits, 0)
        return Whole(digits >> zeros if zeros else digits, shift + zeros)
    high, low = digits
    zeros = _zeros(low)
    if zeros is None:
        return _canonical(high[None], LOW_BITS)
    limit = _ROOM * 2.0 ** (zeros - LOW_BITS)
    if not _all_within(high, limit):
        return Whole(digits, 0)
    return Whole(((high << (LOW_BITS - zeros)) + (low >> zeros))[None], zeros)


def _all_within(values: IntArray, limit: float) -> bool:
    """−``limit`` ≤ values < ``limit``: some at a time, as the first few mostly tell."""
    flat = values.reshape(-1)
    blocks = (flat[start : start + _AT_ONCE] for start in range(0, flat.size, _AT_ONCE))
    return all(-limit <= block.min() <= block.max() < limit for block in blocks)


def _add_wide(digits: IntArray, part: IntArray, shift: int) -> None:
    """Add ``part`` · 2^``shift`` to high and low; ``part`` is used up. Some rows at a time, for the cache's sake."""
    if shift >= LOW_BITS:
        digits[0] += part << (shift - LOW_BITS)
        return
    rows = max(1, _AT_ONCE // part.shape[1])
    for start in range(0, len(part), rows):
        high, low = digits[:, start : start + rows]
        more = part[start : start + rows]
        high += more >> (LOW_BITS - shift)
        more &= np.int64((1 << (LOW_BITS - shift)) - 1)
        more <<= shift
        low += more
        high += low >> LOW_BITS
        low &= np.int64((1 << LOW_BITS) - 1)


def _whole_product(left: FloatArray, right: FloatArray, shift: int) -> IntArray:
    """``left`` @ ``right`` · 2^-``shift`` as int64, some rows at a time, which stay in the processor's cache."""
    scale = 2.0**-shift
    if right.base is left:  # X Xᵀ, of which BLAS makes one half only
        whole = left @ right
        whole *= scale
        return whole.astype(np.int64)
    found = np.empty((left.shape[0], right.shape[1]), np.int64)
    for start in range(0, len(left), _ROWS):
        rows = slice(start, start + _ROWS)
        found[rows] = (left[rows] * scale if shift else left[rows]) @ right
    return found


def _zeros(values: FloatArray | IntArray) -> int | None:
    """Zero bits below all of these whole numbers; None where all are zero."""
    seen, flat = 0, values.ravel(order="K")
    for start in range(0, flat.size, _AT_ONCE):
        seen |= int(np.bitwise_or.reduce(flat[start : start + _AT_ONCE].astype(np.int64, copy=False)))
        if seen & 1:
            break
    return (seen & -seen).bit_length() - 1 if seen else None


def _magnitude(values: IntArray) -> float:
    return float(max(values.max(initial=0), -values.min(initial=0)))


def _width(values: FloatArray) -> tuple[int, int] | None:
    """See ``Operand.width``."""
    largest = top(values)
    if largest >= 2.0**WHOLE_BITS:
        raise ContributionRefused("A contribution's values are too large to be summed exactly.")
    if largest == 0.0:
        return None
    zeros = _zeros(values) or 0
    return math.frexp(largest)[1] - zeros, zeros


def _halves(values: FloatArray, bits: int) -> tuple[FloatArray, FloatArray]:
    """Multiples of 2^``bits`` and what is left, at most half of that in magnitude."""
    high = np.ldexp(np.rint(np.ldexp(values, -bits)), bits)
    return high, values - high


def _longest(values: FloatArray, which: str) -> float:
    """See ``Operand.row``."""
    return math.sqrt(float(np.einsum(which, values, values).max())) * (1 + 1e-9)
