"""The exact sums of one input group: Σ wᵢ Δᵢ Gᵢ for each layer that reads it, and Σ wᵢ Gᵢ.

Contributions are read one after another and stacked until a large product is worth its while; what is stacked never
takes more than ``STACK_BYTES``, however many contributions there are.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from merging import exact, wide
from merging.robust import UNIT
from protocol.adapter import Factors, Sketch
from protocol.errors import ContributionRefused

FloatArray = NDArray[np.float64]

STACK_BYTES = 128 << 20
FEW = 128
"""Up to so many ranks in all, a plain mean is solved from the factors themselves."""


@dataclass(frozen=True)
class Opened:
    """A contribution whose tensors are read when they are asked for. ``length``: what the clip leaves, in 1/UNIT."""

    weight: int
    adapter: Mapping[str, Factors]
    statistics: Mapping[str, Sketch] | None
    length: int = UNIT


@dataclass(frozen=True)
class GroupSums:
    """Σ wᵢ Δᵢ Gᵢ by layer and Σ wᵢ Gᵢ of the input they share, both exact (see ``exact``, ``wide``).

    Where nobody has statistics, G is one: Σ wᵢ Δᵢ, and Σ wᵢ of shape (1, 1).
    """

    numerators: dict[str, wide.Whole]
    denominator: wide.Whole
    stacks: dict[str, tuple[FloatArray, FloatArray]] = field(default_factory=dict)
    """Where nobody has statistics and ranks are few: factors (d_out, k) and (k, d_in) of Σ wᵢ Δᵢ; else empty."""

    @property
    def plain(self) -> bool:
        """Nobody had statistics."""
        width = next(iter(self.numerators.values())).shape[1]
        return self.denominator.shape[1] < width

    def without(self, part: "GroupSums") -> "GroupSums":
        """These sums less ``part``'s: bit for bit as if it had never been added."""
        left = {layer: total - part.numerators[layer] for layer, total in self.numerators.items()}
        return GroupSums(left, self.denominator - part.denominator)

    def numerator_values(self) -> dict[str, FloatArray]:
        """Σ wᵢ Δᵢ Gᵢ by layer as fp64."""
        return {layer: exact.numerator_value(total, self.plain) for layer, total in self.numerators.items()}

    def commitments(self, group: str) -> Iterator[str]:
        """A line for each sum: its name, shape, shift and SHA-256."""
        for name, total in (*sorted(self.numerators.items()), (f"{group} statistics", self.denominator)):
            digest = hashlib.sha256(np.ascontiguousarray(total.digits, dtype="<i8").data).hexdigest()
            yield f"{name}:{'x'.join(map(str, total.digits.shape))}:{total.shift}:{digest}"


def group_sums(
    contributions: Sequence[Opened], group: str, layers: Sequence[str], start: GroupSums | None = None
) -> GroupSums:
    """Both sums of one group. A contribution without statistics counts with the mean of the others'.

    ``start``: sums to go on from, whose memory is used. They serve where every contribution has statistics, or nobody.

    Raises:
        ContributionRefused: contributions adapt different layers, in different shapes.
    """
    told = [one for one in contributions if one.statistics is not None]
    silent = [one for one in contributions if one.statistics is None]
    growing = _Growing(contributions[0], group, layers, not told, start)
    for one in told:
        growing.add(one, exact.moment(growing.statistics_of(one)))
    mean = _mean(growing, told) if told and silent else None
    for one in silent:
        growing.add(one, mean)
    sums = growing.finished()
    if mean is None:
        return sums
    more = wide.nearest(mean * sum(one.weight for one in silent), exact.DENOMINATOR_BITS)
    return GroupSums(sums.numerators, sums.denominator + more)


class _Growing:
    """Sums of a group, and the contributions that wait to be added to them side by side."""

    def __init__(
        self, first: Opened, group: str, layers: Sequence[str], plain: bool, start: GroupSums | None = None
    ) -> None:
        self._group, self._plain = group, plain
        self._fit = {layer: _fit(_layer(first, layer)) for layer in layers}
        width = 1 if plain else next(iter(self._fit.values()))[0][1]
        if start:
            self._numerators = {layer: wide.Sum.of(start.numerators[layer]) for layer in layers}
            self._denominator = wide.Sum.of(start.denominator)
        else:
            self._numerators = {layer: wide.Sum(shape) for layer, (shape, _) in self._fit.items()}
            self._denominator = wide.Sum((width, width))
        self._diagonal = wide.Sum((width, 1))
        self._waiting: list[tuple[int, list[exact.Term]]] = []
        self._moments: list[tuple[int, exact.Moment]] = []
        self._bytes, self._flushed = 0, start is not None
        self._stacks: dict[str, tuple[FloatArray, FloatArray]] = {}

    def statistics_of(self, one: Opened) -> Sketch:
        if one.statistics is None or self._group not in one.statistics:
            raise ContributionRefused(f"A contribution lacks statistics for {self._group}.")
        return one.statistics[self._group]

    def add(self, one: Opened, given: exact.Moment | FloatArray | None) -> None:
        """One contribution with its statistics, or the others' mean, or nothing where nobody has any."""
        factors = [self._checked(one, layer) for layer in self._fit]
        terms = exact.terms(factors, given, one.length / UNIT)
        self._waiting.append((one.weight, terms))
        self._bytes += sum(term.left.nbytes + term.right.nbytes for term in terms)
        if isinstance(given, exact.Moment):
            self._moments.append((one.weight, given))
            self._bytes += given.factor.nbytes
        elif given is None:
            self._moments.append((one.weight, exact.ONE))
        if self._bytes >= STACK_BYTES:
            self._flush()

    def finished(self) -> GroupSums:
        """Everything that was added so far."""
        self._flush()
        self._denominator.add_diagonal(self._diagonal.whole())
        self._diagonal = wide.Sum(self._diagonal.shape)
        return GroupSums(
            {layer: one.whole() for layer, one in self._numerators.items()}, self._denominator.whole(), self._stacks
        )

    def _flush(self) -> None:
        if not self._moments and not self._waiting:
            return
        self._stacks = {}
        for at, (layer, total) in enumerate(self._numerators.items()):
            stack = exact.stacked([(weight, terms[at]) for weight, terms in self._waiting])
            total.add_product(*stack)
            if self._plain and not self._flushed and stack.left.shape[1] <= FEW:
                self._stacks[layer] = exact.factor_values(stack)
        if self._moments:
            exact.add_moments(self._denominator, self._diagonal, self._moments)
        self._waiting, self._moments, self._bytes, self._flushed = [], [], 0, True

    def _checked(self, one: Opened, layer: str) -> Factors:
        factors = _layer(one, layer)
        if _fit(factors) != self._fit[layer]:
            raise ContributionRefused(f"{layer}: shape {_shape(factors)} does not fit the other contributions'.")
        return factors


def _mean(growing: _Growing, told: Sequence[Opened]) -> FloatArray:
    """The mean of the known statistics, (n, n)."""
    return exact.denominator_value(growing.finished().denominator) / sum(one.weight for one in told)


def _layer(one: Opened, layer: str) -> Factors:
    if layer not in one.adapter:
        raise ContributionRefused(f"Contributions adapt different layers: {layer} is in some only.")
    return one.adapter[layer]


def _fit(factors: Factors) -> tuple[tuple[int, int], tuple[int, ...]]:
    return _shape(factors), factors.kernel


def _shape(factors: Factors) -> tuple[int, int]:
    return int(factors.b.shape[0]), int(factors.a.shape[1])
