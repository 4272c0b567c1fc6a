"""The collective delta as a pure function of the live contributions."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation import algebra, exact
from protocol.adapter import Factors, Sketch, input_group, load_adapter, load_statistics
from protocol.errors import BadInput, ContributionRefused
from protocol.grant import RoundPlan


@dataclass(frozen=True)
class MergeInput:
    """One live contribution: its integer weight and the files as they were signed."""

    contribution_id: str
    weight: int
    adapter: Path
    statistics: Path


@dataclass(frozen=True)
class Merged:
    """The collective at gain 1, and what the manifest says of how it came about."""

    adapter: dict[str, Factors]
    rank: int
    tail: float
    commitment: str
    norms: dict[str, float]


@dataclass(frozen=True)
class Sums:
    """Σ wᵢ Δᵢ Gᵢ by layer and Σ wᵢ Gᵢ by input group, both exact: multiples of 2^-48 in int64."""

    numerators: dict[str, NDArray[np.int64]]
    denominators: dict[str, NDArray[np.int64]]
    kernels: dict[str, tuple[int, ...]]

    def commitment(self) -> str:
        """SHA-256 over names, shapes and integers: equal sets commit to equal hashes, in any order."""
        digest = hashlib.sha256()
        for part in (self.numerators, self.denominators):
            for name in sorted(part):
                digest.update(f"{name}:{part[name].shape}\n".encode())
                digest.update(np.ascontiguousarray(part[name], dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Opened:
    """A contribution in memory."""

    weight: int
    adapter: Mapping[str, Factors]
    statistics: Mapping[str, Sketch]


def merge(inputs: Sequence[MergeInput], plan: RoundPlan) -> Merged:
    """Merge by regression mean at the least rank that the plan's tail allows.

    Raises:
        BadInput: there is nothing to merge.
        ContributionRefused: contributions do not fit together.
    """
    if not inputs:
        raise BadInput("No live contribution is left to merge.")
    read = {i.contribution_id: _open(i) for i in inputs}
    sums = exact_sums(read.values())
    solved = {
        layer: algebra.solve(
            exact.as_float(total),
            exact.as_float(sums.denominators[input_group(layer)]),
            plan.regularisation,
        )
        for layer, total in sums.numerators.items()
    }
    rank = algebra.least_rank(list(solved.values()), plan.tail, plan.release_rank)
    adapter = {layer: Factors(*one.at_rank(rank), sums.kernels[layer]) for layer, one in solved.items()}
    return Merged(
        adapter=adapter,
        rank=rank,
        tail=max(one.tail(rank) for one in solved.values()),
        commitment=sums.commitment(),
        norms={key: _norm(one.adapter) for key, one in read.items()},
    )


def exact_sums(contributions: Iterable[Opened]) -> Sums:
    """Both sums over all contributions, layer by layer."""
    numerators: dict[str, NDArray[np.int64]] = {}
    denominators: dict[str, NDArray[np.int64]] = {}
    kernels: dict[str, tuple[int, ...]] = {}
    for one in contributions:
        _require_fit(one, numerators, kernels)
        for layer, factors in one.adapter.items():
            kernels[layer] = factors.kernel
            _add(numerators, layer, one.weight * exact.numerator(factors, one.statistics[input_group(layer)]))
        for group in {input_group(layer) for layer in one.adapter}:
            _add(denominators, group, one.weight * exact.denominator(one.statistics[group]))
    return Sums(numerators, denominators, kernels)


def scaled_by(adapter: Mapping[str, Factors], gain: float) -> dict[str, Factors]:
    """The adapter with its gain folded in, half into each factor so that they stay balanced; gain ≥ 0."""
    root = math.sqrt(gain)
    return {layer: Factors(f.a * root, f.b * root, f.kernel) for layer, f in adapter.items()}


def _open(one: MergeInput) -> Opened:
    adapter, statistics = load_adapter(one.adapter.read_bytes()), load_statistics(one.statistics.read_bytes())
    missing = {input_group(layer) for layer in adapter} - set(statistics)
    if missing:
        raise ContributionRefused(f"{one.contribution_id} lacks statistics for {sorted(missing)[0]}.")
    return Opened(one.weight, adapter, statistics)


def _require_fit(one: Opened, numerators: Mapping[str, NDArray[np.int64]], kernels: Mapping[str, object]) -> None:
    if numerators and set(one.adapter) != set(numerators):
        strange = sorted(set(one.adapter) ^ set(numerators))[0]
        raise ContributionRefused(f"Contributions adapt different layers: {strange} is in some only.")
    for layer, factors in one.adapter.items():
        shape = (factors.b.shape[0], factors.a.shape[1])
        if layer in numerators and (numerators[layer].shape, kernels[layer]) != (shape, factors.kernel):
            raise ContributionRefused(f"{layer}: shape {shape} does not fit the other contributions'.")


def _add(sums: dict[str, NDArray[np.int64]], key: str, value: NDArray[np.int64]) -> None:
    sums[key] = sums[key] + value if key in sums else value


def _norm(adapter: Mapping[str, Factors]) -> float:
    return math.sqrt(math.fsum(algebra.squared_norm(f) for f in adapter.values()))
