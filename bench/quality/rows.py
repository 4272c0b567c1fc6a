"""The table's rows, in its order: who makes the collective, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.quality.factors import Adapter, averaged, stacked, truncated
from bench.quality.lab import Lab
from bench.quality.peers import (
    ROUNDS,
    average_in_rounds,
    ffa_in_rounds,
    flexlora_in_rounds,
    stacking_in_rounds,
)

Kind = Literal["reference", "peer", "engine", "central"]
Shared = Literal["own", "apart"]
BASE, OWN_BEST, OWN_MEAN, BY_STEPS = "base", "own-best", "own-mean", "stacking-steps"
ONE_SHOT, DISTILLED, CEILING = "engine", "engine-distilled", "central-all"


@dataclass(frozen=True)
class Row:
    """``make`` gives the models that the row is the mean of: one, but where there is no collective."""

    name: str
    title: str
    kind: Kind
    make: Callable[[Lab], Sequence[Adapter]]
    needs: Shared | None = None
    """Members' adapters that several rows are made of, trained once."""
    lots: Callable[[float], float] = lambda everyone: 0
    """How many times ``plan.steps`` steps of training are the row's alone, by how many times it all members make."""
    tuned: bool = True
    """Whether it gets its own best gain."""


def _own_best(lab: Lab) -> Sequence[Adapter]:
    return [min(lab.own, key=lab.yardstick.choosing_loss)]


def _averaged_once(lab: Lab) -> Sequence[Adapter]:
    return [averaged(lab.apart, lab.world.shares)]


def _flexlora_once(lab: Lab) -> Sequence[Adapter]:
    return [truncated(stacked(lab.apart, lab.world.shares), lab.federation.rank)]


def _stacking_by_steps(lab: Lab) -> Sequence[Adapter]:
    def step_of(so_far: Adapter, new: Adapter) -> float:
        with lab.base.under(so_far):
            return lab.yardstick.best_gain(new)

    return [stacking_in_rounds(lab.federation, step_of)]


def _everyone(everyone: float) -> float:
    return everyone


IN_ROUNDS = f"in {ROUNDS} rounds"
ROWS = (
    Row(BASE, "base", "reference", lambda lab: [{}], tuned=False),
    Row(OWN_BEST, "own adapters, the best of them", "reference", _own_best, "own", tuned=False),
    Row(OWN_MEAN, "own adapters, their mean", "reference", lambda lab: lab.own, "own", tuned=False),
    Row("average-once", "A and B averaged, one shot", "peer", _averaged_once, "apart"),
    Row(
        "average",
        f"A and B averaged, {IN_ROUNDS}",
        "peer",
        lambda lab: [average_in_rounds(lab.federation)],
        lots=_everyone,
    ),
    Row("flexlora-once", "FlexLoRA, one shot", "peer", _flexlora_once, "apart"),
    Row("flexlora", f"FlexLoRA, {IN_ROUNDS}", "peer", lambda lab: [flexlora_in_rounds(lab.federation)], lots=_everyone),
    Row(
        "stacking",
        f"stacking (FLoRA), {IN_ROUNDS}",
        "peer",
        lambda lab: [stacking_in_rounds(lab.federation)],
        lots=_everyone,
    ),
    Row(BY_STEPS, "stacking, best gain in every round", "peer", _stacking_by_steps, lots=_everyone),
    Row("ffa", f"FFA-LoRA, {IN_ROUNDS}", "peer", lambda lab: [ffa_in_rounds(lab.federation)], lots=_everyone),
    Row("mean", "exact mean, one shot", "peer", lambda lab: [stacked(lab.own, lab.world.shares)], "own"),
    Row(ONE_SHOT, "**this engine: regression mean**", "engine", lambda lab: [lab.merged.adapter], "own"),
    Row(
        "engine-second",
        "**this engine: second statistics pass**",
        "engine",
        lambda lab: [lab.merged_again()],
        "own",
    ),
    Row(DISTILLED, "**this engine: distilled**", "engine", lambda lab: [lab.distilled()], "own"),
    Row(
        "central-one",
        "central, one member's steps",
        "central",
        lambda lab: [lab.central(lab.plan.steps)],
        lots=lambda everyone: 2,
    ),
    Row(
        CEILING,
        "central, everybody's steps",
        "central",
        lambda lab: [lab.central(lab.everybodys_steps)],
        lots=lambda everyone: 2 * everyone,
    ),
)
NAMES = tuple(row.name for row in ROWS)
