"""The collective delta as a pure function of the live contributions.

One input group (the layers that read the same thing) is in memory at a time, and of a contribution one layer: files
stay on the disk and are read where they are needed. Groups are independent, so they may run in parallel processes;
the sums are exact, so that changes nothing.
"""

import hashlib
import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation import algebra, exact
from coordinator.aggregation.gram import SKETCH_FROM, gram, sketched_gram
from coordinator.aggregation.influence import MEASURED_UP_TO, Whole
from coordinator.aggregation.robust import UNIT, Shares, shares
from protocol.adapter import Factors, Sketch, input_group
from protocol.errors import BadInput, ContributionRefused
from protocol.grant import RoundPlan
from protocol.mapped import AdapterFile, StatisticsFile
from protocol.policy import RobustRule


@dataclass(frozen=True)
class MergeInput:
    """One live contribution: its integer weight and the files as they were signed; statistics may be missing."""

    contribution_id: str
    weight: int
    adapter: Path
    statistics: Path | None


@dataclass(frozen=True)
class Opened:
    """A contribution whose tensors are read when they are asked for. ``length``: what the clip leaves, in 1/UNIT."""

    weight: int
    adapter: Mapping[str, Factors]
    statistics: Mapping[str, Sketch] | None
    length: int = UNIT


@dataclass(frozen=True)
class Counted:
    """A contribution as it goes into the sums: with its final weight, and what the clip leaves of its delta."""

    one: MergeInput
    weight: int
    length: int


@dataclass(frozen=True)
class Account:
    """What a merge made of one contribution."""

    norm: float
    weight: int
    """What its delta and statistics were multiplied by in the sums."""
    note: str
    """Why it counts for less than its weight; empty if it does not."""
    influence: float | None = None
    """How far the collective moves when it is left out, relative to the collective; None if not measured."""


@dataclass(frozen=True)
class Merged:
    """The collective at gain 1, and what the manifest says of how it came about."""

    adapter: dict[str, Factors]
    rank: int
    tail: float
    commitment: str
    accounts: dict[str, Account]


@dataclass(frozen=True)
class GroupSums:
    """Σ wᵢ Δᵢ Gᵢ by layer and Σ wᵢ Gᵢ of the input they share, both exact (see ``exact``)."""

    numerators: dict[str, NDArray[np.int64]]
    denominator: NDArray[np.int64]

    def without(self, part: "GroupSums") -> "GroupSums":
        """These sums less ``part``'s: bit for bit as if it had never been added."""
        left = {layer: total - part.numerators[layer] for layer, total in self.numerators.items()}
        return GroupSums(left, self.denominator - part.denominator)

    def numerator_values(self) -> dict[str, NDArray[np.float64]]:
        """Σ wᵢ Δᵢ Gᵢ by layer as fp64."""
        return {layer: exact.numerator_value(total) for layer, total in self.numerators.items()}

    def commitments(self, group: str) -> Iterator[str]:
        """A line for each sum: its name, shape and SHA-256."""
        for name, total in (*sorted(self.numerators.items()), (f"{group} statistics", self.denominator)):
            digest = hashlib.sha256(np.ascontiguousarray(total, dtype="<i8").tobytes()).hexdigest()
            yield f"{name}:{'x'.join(map(str, total.shape))}:{digest}"


@dataclass(frozen=True)
class SolvedGroup:
    """A group's layers, solved, and the lines that commit to its sums."""

    layers: dict[str, algebra.Solved]
    lines: tuple[str, ...]
    moved: tuple[float, ...]
    """By contribution that counts: ‖(ΔW − ΔW₋ⱼ) L‖² over the group; empty where influence is not measured."""


def merge(
    inputs: Sequence[MergeInput], plan: RoundPlan, rule: RobustRule = RobustRule.NONE, processes: int = 1
) -> Merged:
    """Merge by regression mean at the least rank that the plan's tail allows.

    Raises:
        BadInput: there is nothing to merge.
        ContributionRefused: contributions do not fit together.
    """
    if not inputs:
        raise BadInput("No live contribution is left to merge.")
    ordered = sorted(inputs, key=lambda one: one.contribution_id)
    counted, accounts = _counted(ordered, rule)
    first = AdapterFile(ordered[0].adapter)
    groups = layers_by_group(first)
    solve = partial(_solve_files, counted, plan)
    if processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(groups)), mp_context=context) as pool:
            solved = list(pool.map(solve, groups, groups.values()))
    else:
        solved = [solve(group, layers) for group, layers in groups.items()]
        _opened.cache_clear()
    every = {layer: one for part in solved for layer, one in part.layers.items()}
    kernels = {layer: first[layer].kernel for layer in every}
    rank = algebra.least_rank(list(every.values()), plan.tail, plan.release_rank)
    return Merged(
        adapter={layer: Factors(*one.at_rank(rank), kernels[layer]) for layer, one in sorted(every.items())},
        rank=rank,
        tail=max(one.tail(rank) for one in every.values()),
        commitment=commitment(line for part in solved for line in part.lines),
        accounts=_with_influence(accounts, counted, solved),
    )


def commitment(lines: Iterator[str]) -> str:
    """SHA-256 over all sums: equal sets commit to equal hashes, in any order, on any number of threads."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def group_sums(contributions: Sequence[Opened], group: str, layers: Sequence[str]) -> GroupSums:
    """Both sums of one group. A contribution without statistics counts with the mean of the others'.

    Raises:
        ContributionRefused: contributions adapt different layers, in different shapes.
    """
    first = {layer: contributions[0].adapter[layer] for layer in layers}
    for one in contributions:
        _require_fit(one, first)
    n = next(iter(first.values())).a.shape[1]
    told = [(one.weight, one.statistics[group]) for one in contributions if one.statistics is not None]
    denominator = exact.denominator(told, n) if told else _identity(contributions, n)
    mean, silent = _mean(denominator, told, contributions)

    def terms(layer: str) -> Iterator[tuple[int, exact.Term]]:
        for one in contributions:
            share, factors = one.length / UNIT, one.adapter[layer]
            if one.statistics is None:
                yield one.weight, exact.term_with_mean(factors, mean, share)
            else:
                yield one.weight, exact.term(factors, one.statistics[group], share)

    numerators = {layer: exact.numerator(terms(layer), _shape(first[layer])) for layer in layers}
    return GroupSums(numerators, denominator + silent)


def layers_by_group(layers: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Input group → the layers that read it, both sorted."""
    groups: dict[str, list[str]] = {}
    for layer in sorted(layers):
        groups.setdefault(input_group(layer), []).append(layer)
    return {group: tuple(groups[group]) for group in sorted(groups)}


def scaled_by(adapter: Mapping[str, Factors], gain: float) -> dict[str, Factors]:
    """The adapter with its gain folded in, half into each factor so that they stay balanced; gain ≥ 0."""
    root = math.sqrt(gain)
    return {layer: Factors(f.a * root, f.b * root, f.kernel) for layer, f in adapter.items()}


def _counted(ordered: Sequence[MergeInput], rule: RobustRule) -> tuple[tuple[Counted, ...], dict[str, Account]]:
    """Each that counts, and the account of every one."""
    adapters, ids = [AdapterFile(one.adapter) for one in ordered], [one.contribution_id for one in ordered]
    _require_same_layers(adapters)
    matrix = gram(adapters) if len(adapters) < SKETCH_FROM else sketched_gram(adapters, ids)
    shared = shares(matrix, [one.weight for one in ordered], rule)
    weights = _whole_weights(ordered, shared)
    norms = np.sqrt(np.diag(matrix))
    accounts = {
        key: Account(float(norm), weight, note)
        for key, norm, weight, note in zip(ids, norms, weights, shared.reasons, strict=True)
    }
    counted = (Counted(one, w, n) for one, w, n in zip(ordered, weights, shared.length, strict=True) if w)
    return tuple(counted), accounts


def _whole_weights(ordered: Sequence[MergeInput], shared: Shares) -> list[int]:
    """Policy weight times the rule's; in small numbers where the rule only keeps or drops."""
    unit = UNIT if all(w in (0, UNIT) for w in shared.weight) else 1
    return [one.weight * (w // unit) for one, w in zip(ordered, shared.weight, strict=True)]


def _solve_files(counted: tuple[Counted, ...], plan: RoundPlan, group: str, layers: Sequence[str]) -> SolvedGroup:
    sums = group_sums(_opened(counted), group, layers)
    denominator = exact.denominator_value(sums.denominator)
    solved = {
        layer: algebra.solve(total, denominator, plan.regularisation, plan.release_rank)
        for layer, total in sums.numerator_values().items()
    }
    each = _moved(sums, _opened(counted), group, plan) if _is_measured(counted) else ()
    return SolvedGroup(solved, tuple(sums.commitments(group)), each)


def _is_measured(counted: tuple[Counted, ...]) -> bool:
    return 1 < len(counted) <= MEASURED_UP_TO and all(c.one.statistics for c in counted)


def _moved(sums: GroupSums, contributions: Sequence[Opened], group: str, plan: RoundPlan) -> tuple[float, ...]:
    """How far the group's layers move without each contribution."""
    whole = Whole.of(sums.numerator_values(), exact.denominator_value(sums.denominator), plan.regularisation)
    rests = (sums.without(group_sums([one], group, tuple(sums.numerators))) for one in contributions)
    return tuple(whole.moved(rest.numerator_values(), exact.denominator_value(rest.denominator)) for rest in rests)


def _with_influence(
    accounts: Mapping[str, Account], counted: Sequence[Counted], solved: Sequence[SolvedGroup]
) -> dict[str, Account]:
    whole = sum(layer.energy for part in solved for layer in part.layers.values())
    if whole == 0.0 or not all(part.moved for part in solved):
        return dict(accounts)
    energies = (sum(parts) for parts in zip(*(part.moved for part in solved), strict=True))
    influence = {c.one.contribution_id: math.sqrt(e / whole) for c, e in zip(counted, energies, strict=True)}
    return {key: replace(account, influence=influence.get(key)) for key, account in accounts.items()}


@lru_cache(maxsize=1)
def _opened(counted: tuple[Counted, ...]) -> tuple[Opened, ...]:
    """Mapped once a process, not once a group."""
    return tuple(
        Opened(
            c.weight,
            AdapterFile(c.one.adapter),
            StatisticsFile(c.one.statistics) if c.one.statistics else None,
            c.length,
        )
        for c in counted
    )


def _identity(contributions: Sequence[Opened], n: int) -> NDArray[np.int64]:
    """Nobody has statistics: G = I/n for all, and the regression mean is the plain weighted mean."""
    eye = Sketch(np.zeros((n, 0)), np.full(n, 1.0 / n))
    return exact.denominator([(sum(one.weight for one in contributions), eye)], n)


def _mean(
    denominator: NDArray[np.int64], told: Sequence[tuple[int, Sketch]], contributions: Sequence[Opened]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The mean of the known statistics, and what the silent contributions add to the denominator."""
    everyone = sum(one.weight for one in contributions)
    known = sum(weight for weight, _ in told) or everyone
    mean = exact.denominator_value(denominator) / known
    silent = everyone - known
    return mean, np.rint(denominator * (silent / known)).astype(np.int64)


def _shape(factors: Factors) -> tuple[int, int]:
    return int(factors.b.shape[0]), int(factors.a.shape[1])


def _require_same_layers(adapters: Sequence[Mapping[str, Factors]]) -> None:
    for one in adapters[1:]:
        if strange := sorted(set(one) ^ set(adapters[0])):
            raise ContributionRefused(f"Contributions adapt different layers: {strange[0]} is in some only.")


def _require_fit(one: Opened, first: Mapping[str, Factors]) -> None:
    for layer, expected in first.items():
        if layer not in one.adapter:
            raise ContributionRefused(f"Contributions adapt different layers: {layer} is in some only.")
        factors = one.adapter[layer]
        if (_shape(factors), factors.kernel) != (_shape(expected), expected.kernel):
            raise ContributionRefused(f"{layer}: shape {_shape(factors)} does not fit the other contributions'.")
        if one.statistics is not None and input_group(layer) not in one.statistics:
            raise ContributionRefused(f"A contribution lacks statistics for {input_group(layer)}.")
