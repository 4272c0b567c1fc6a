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

from merging import algebra, exact
from merging.gram import SKETCH_FROM, gram, sketched_gram
from merging.influence import MEASURED_UP_TO, Part, Whole
from merging.kept import (
    Figures,
    Member,
    read_figures,
    read_members,
    read_products,
    read_sums,
    remove_others,
    write_figures,
    write_products,
    write_sums,
)
from merging.robust import UNIT, Shares, copies, peak, peaked, reach, reaches, shares
from merging.stored import StoredAdapter, StoredStatistics
from merging.sums import GroupSums, Opened, group_sums
from protocol.adapter import Factors, Sketch, input_group, load_statistics
from protocol.errors import BadInput, ContributionRefused
from protocol.grant import RoundPlan
from protocol.policy import RobustRule

TOLERANCE = 0.2
"""How far signed statistics may be from those drawn again: another machine rounds otherwise, and drawing amplifies.

On one machine it is under 0.001, in bf16 0.02, with another seed 0.1, and 0.8 to 1.4 with the statistics of another
contribution or of the base (the embedded base).
"""
OTHER_OWN = "Make them again in the base that contributions were trained on."
Base = NDArray[np.float64] | None
"""μ G₀ of an input group, if the base has a word."""


@dataclass(frozen=True)
class MergeInput:
    """One live contribution: its integer weight and the files as they were signed; statistics may be missing."""

    contribution_id: str
    weight: int
    adapter: Path
    statistics: Path | None
    received: int = 0
    """When it arrived, in any unit: of two copies of one delta the earlier one counts."""


@dataclass(frozen=True)
class Anchor:
    """The base's own word: its statistics G₀ join every denominator as μ times everybody's weight, with no delta."""

    share: float
    statistics: Path

    def require_fit(self, layers: Mapping[str, Factors]) -> None:
        """Raises BadInput: the statistics are damaged, or not those of what these layers read."""
        try:
            own = load_statistics(self.statistics.read_bytes())
        except ContributionRefused as damage:
            raise BadInput(f"The base's own statistics are damaged: {damage.message}", OTHER_OWN) from damage
        for group, names in layers_by_group(layers).items():
            read = layers[names[0]].a.shape[1]
            told = len(own[group].diagonal) if group in own else 0
            if told != read:
                raise BadInput(
                    f"The base's own statistics do not fit: {group} has {read} inputs, and they tell of {told}.",
                    OTHER_OWN,
                )

    def of(self, group: str) -> NDArray[np.float64]:
        """μ G₀ of one input group, (n, n), G₀ at unit trace."""
        own = StoredStatistics(self.statistics)[group].dense()
        return np.asarray(self.share * own / np.trace(own))


@dataclass(frozen=True)
class Counted:
    """A contribution as it goes into the sums: with its final weight, and what the clip leaves of its delta."""

    one: MergeInput
    weight: int
    length: int


@dataclass(frozen=True)
class Account:
    """What a merge made of one contribution."""

    norm: float | None
    """‖Δ‖, Frobenius; None where nobody may see it."""
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
    commitment: str | None
    """Of the integer sums; None where noise was added to them."""
    accounts: dict[str, Account]


@dataclass(frozen=True)
class SolvedGroup:
    """A group's layers, solved, and the lines that commit to its sums."""

    layers: dict[str, algebra.Solved]
    lines: tuple[str, ...]
    moved: tuple[float, ...]
    """By contribution that counts: ‖(ΔW − ΔW₋ⱼ) L‖² over the group; empty where influence is not measured."""


def merge(
    inputs: Sequence[MergeInput],
    plan: RoundPlan,
    rule: RobustRule = RobustRule.NONE,
    processes: int = 1,
    kept: Path | None = None,
    anchor: Anchor | None = None,
) -> Merged:
    """Merge by regression mean at the least rank that the plan's tail allows.

    ``anchor`` holds the collective to the base's answers, where there are statistics at all.
    ``kept`` is a folder in which sums stay from one merge to the next, so that the next one reads only what differs;
    the outcome is the same without it.

    Raises:
        BadInput: there is nothing to merge, or the anchor does not fit.
        ContributionRefused: contributions do not fit together.
    """
    if not inputs:
        raise BadInput("No live contribution is left to merge.")
    ordered = sorted(inputs, key=lambda one: one.contribution_id)
    counted, accounts = _counted(ordered, rule, kept)
    first = StoredAdapter(ordered[0].adapter)
    if anchor is not None:
        anchor.require_fit(first)
    groups = layers_by_group(first)
    solve = partial(_solve_files, counted, plan, kept, anchor)
    if processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(groups)), mp_context=context) as pool:
            solved = list(pool.map(solve, groups, groups.values()))
    else:
        solved = [solve(group, layers) for group, layers in groups.items()]
        _opened.cache_clear()
        _members.cache_clear()
    if kept is not None:
        remove_others(kept, groups)
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


def _counted(
    ordered: Sequence[MergeInput], rule: RobustRule, kept: Path | None
) -> tuple[tuple[Counted, ...], dict[str, Account]]:
    """Each that counts, and the account of every one."""
    adapters, ids = [StoredAdapter(one.adapter) for one in ordered], [one.contribution_id for one in ordered]
    _require_same_layers(adapters)
    matrix = _products(adapters, ordered, kept)
    statistics = {one.contribution_id: StoredStatistics(one.statistics) for one in ordered if one.statistics}
    figures = _figures(ordered, dict(zip(ids, adapters, strict=True)), statistics, kept)
    notes = peaked({key: one.peaks for key, one in figures.items()})
    told = [statistics[key] if key in statistics and key not in notes else None for key in ids]
    copied = _copied(matrix, ordered)
    own = [row for row in range(len(ordered)) if row not in copied]
    if all(one is not None for one in told):
        reached: Sequence[float | None] = [figures[ids[row]].reach for row in own]
    else:
        reached = reaches([adapters[row] for row in own], [told[row] for row in own])
    shared = shares(matrix[np.ix_(own, own)], [ordered[row].weight for row in own], rule, reached)
    weights = dict(zip(own, _whole_weights([ordered[row].weight for row in own], shared), strict=True))
    lengths = dict(zip(own, shared.length, strict=True))
    reasons = dict(zip(own, shared.reasons, strict=True)) | copied
    accounts = {
        key: Account(
            norm=float(np.sqrt(matrix[row, row])),
            weight=weights.get(row, 0),
            note=" ".join(filter(None, (reasons[row], notes.get(key)))),
        )
        for row, key in enumerate(ids)
    }
    counted = (
        Counted(ordered[row] if told[row] else replace(ordered[row], statistics=None), weights[row], lengths[row])
        for row in own
        if weights[row]
    )
    return tuple(counted), accounts


def _figures(
    ordered: Sequence[MergeInput],
    adapters: Mapping[str, StoredAdapter],
    statistics: Mapping[str, StoredStatistics],
    kept: Path | None,
) -> dict[str, Figures]:
    """By contribution that has statistics; they hang on nobody else, so what is kept need not be read again."""
    names = {one.contribution_id: _name(one) for one in ordered} if kept else {}
    known = read_figures(kept) if kept else {}
    found = {
        key: known.get(names.get(key, "")) or _figures_of(adapters[key], dict(one)) for key, one in statistics.items()
    }
    if kept is not None:
        write_figures(kept, {names[key]: one for key, one in found.items()})
    return found


def _figures_of(adapter: Mapping[str, Factors], statistics: Mapping[str, Sketch]) -> Figures:
    return Figures({group: peak(sketch) for group, sketch in statistics.items()}, reach(adapter, statistics))


def _name(one: MergeInput) -> str:
    """Of a contribution and its files as they are now."""
    return Member.of(one.contribution_id, 0, 0, one.adapter, one.statistics).name


def _copied(matrix: NDArray[np.float64], ordered: Sequence[MergeInput]) -> dict[int, str]:
    """Row → why it does not count, of every delta that had arrived before by another name."""
    arrival = sorted(range(len(ordered)), key=lambda row: (ordered[row].received, ordered[row].contribution_id))
    found = copies(matrix[np.ix_(arrival, arrival)])
    return {
        arrival[later]: f"It is a copy of {ordered[arrival[first]].contribution_id}." for later, first in found.items()
    }


def _whole_weights(weights: Sequence[int], shared: Shares) -> list[int]:
    """Policy weight times the rule's, in the smallest whole numbers that the rule's allow."""
    unit = math.gcd(*shared.weight)
    return [weight * (share // unit) for weight, share in zip(weights, shared.weight, strict=True)]


def _products(
    adapters: Sequence[StoredAdapter], ordered: Sequence[MergeInput], kept: Path | None
) -> NDArray[np.float64]:
    """The Gram matrix; projections depend on the whole set, so there is nothing to keep of them."""
    if len(adapters) >= SKETCH_FROM:
        return sketched_gram(adapters, [one.contribution_id for one in ordered])
    if kept is None:
        return gram(adapters)
    names = [_name(one) for one in ordered]
    matrix = gram(adapters, read_products(kept, names))
    write_products(kept, names, matrix)
    return matrix


def _solve_files(
    counted: tuple[Counted, ...],
    plan: RoundPlan,
    kept: Path | None,
    anchor: Anchor | None,
    group: str,
    layers: Sequence[str],
) -> SolvedGroup:
    sums = _sums(counted, kept, group, layers)
    base = anchor.of(group) if anchor and anchor.share and not sums.plain else None
    solved = _solved(sums, plan, base)
    lines = tuple(sums.commitments(group))
    each = _moved(sums, _opened(counted), group, plan, base, lines) if _is_measured(counted) else ()
    return SolvedGroup(solved, lines, each)


def _denominator(sums: GroupSums, base: Base) -> NDArray[np.float64]:
    """Σ w (G + μ G₀): a sum of unit traces has the weights' sum as its trace."""
    own = exact.denominator_value(sums.denominator)
    return own if base is None else own + np.trace(own) * base


def _solved(sums: GroupSums, plan: RoundPlan, base: Base) -> dict[str, algebra.Solved]:
    denominator, cap = _denominator(sums, base), plan.release_rank
    if sums.stacks:
        weight = float(denominator[0, 0])
        return {layer: algebra.mean_of_factors(*stack, weight, cap) for layer, stack in sums.stacks.items()}
    values = ((layer, exact.numerator_value(total, sums.plain)) for layer, total in sums.numerators.items())
    if sums.plain:
        return {layer: algebra.mean(total, float(denominator[0, 0]), cap) for layer, total in values}
    lower = algebra.root(denominator, plan.regularisation)
    return {layer: algebra.solve_in(lower, total, cap) for layer, total in values}


def _sums(counted: tuple[Counted, ...], kept: Path | None, group: str, layers: Sequence[str]) -> GroupSums:
    """The group's sums: from those that are kept, where that is less work than from scratch."""
    if kept is None or any(c.one.statistics is None for c in counted):
        return group_sums(_opened(counted), group, layers)
    members = _members(counted)
    sums = _from_kept(counted, members, kept, group, layers) or group_sums(_opened(counted), group, layers)
    write_sums(kept, group, members, sums)
    return sums


def _from_kept(
    counted: tuple[Counted, ...], members: tuple[Member, ...], folder: Path, group: str, layers: Sequence[str]
) -> GroupSums | None:
    before = read_members(folder, group)
    gone = before - set(members)
    new = [opened for opened, member in zip(_opened(counted), members, strict=True) if member not in before]
    if len(gone) + len(new) >= len(members) or not all(one.is_there() for one in gone):
        return None
    if (found := read_sums(folder, group)) is None or found[0] != before or set(found[1].numerators) != set(layers):
        return None
    sums = found[1]
    if gone:
        sums = sums.without(group_sums([_open(*_from(one)) for one in sorted(gone)], group, layers))
    return group_sums(new, group, layers, sums) if new else sums


def _is_measured(counted: tuple[Counted, ...]) -> bool:
    return 1 < len(counted) <= MEASURED_UP_TO and all(c.one.statistics for c in counted)


def _moved(
    sums: GroupSums,
    contributions: Sequence[Opened],
    group: str,
    plan: RoundPlan,
    base: Base,
    lines: Sequence[str],
) -> tuple[float, ...]:
    """How far the group's layers move without each contribution."""
    seed = int(commitment(iter(lines))[:16], 16)
    whole = Whole.of(sums.numerator_values(), _denominator(sums, base), plan.regularisation, seed)
    return tuple(whole.moved(_part(one, group, tuple(sums.numerators), base)) for one in contributions)


def _part(one: Opened, group: str, layers: Sequence[str], base: Base) -> Part:
    factors = {layer: one.adapter[layer] for layer in layers}
    if one.statistics is None:
        raise ContributionRefused("A contribution without statistics has no part of its own in the sums.")
    return Part(one.weight, one.length / UNIT, factors, *exact.moment(one.statistics[group]).values(), base)


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
    """Once a process, not once a group."""
    return tuple(_open(c.weight, c.length, c.one.adapter, c.one.statistics) for c in counted)


@lru_cache(maxsize=1)
def _members(counted: tuple[Counted, ...]) -> tuple[Member, ...]:
    return tuple(Member.of(c.one.contribution_id, c.weight, c.length, c.one.adapter, c.one.statistics) for c in counted)


def _from(member: Member) -> tuple[int, int, Path, Path | None]:
    statistics = Path(member.statistics) if member.statistics else None
    return member.weight, member.length, Path(member.adapter), statistics


def _open(weight: int, length: int, adapter: Path, statistics: Path | None) -> Opened:
    return Opened(weight, StoredAdapter(adapter), StoredStatistics(statistics) if statistics else None, length)


def _require_same_layers(adapters: Sequence[Mapping[str, Factors]]) -> None:
    for one in adapters[1:]:
        if strange := sorted(set(one) ^ set(adapters[0])):
            raise ContributionRefused(f"Contributions adapt different layers: {strange[0]} is in some only.")
