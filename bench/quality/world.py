"""Who takes part: members with heads that the base never saw, what they train on and what everybody is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from bases.nouns_art import NounsArt, Seed, caption
from client.collection.example import Example
from deploy.demo.measure import KNOWN, head_prompts

Scenario = Literal["even", "uneven", "mixed-rank", "overlapping"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
SCENARIO_MEMBERS = 4
"""Every scenario but the even one is for this many."""
HEADS_EACH = 8
"""At most: 8 members share the 48 unseen heads, so they have 6 each."""
UNEVEN = (2, 5, 9, 16)
RANKS = (4, 8, 8, 16)
OVERLAP = 4
"""Heads that a member shares with the next one, the last with the first."""
TRAINED, CHOSEN_BY, TESTED = 2, 1, 2
"""Pictures of each head of each member: trained on, held out to choose gains by, held out to measure with."""


@dataclass(frozen=True)
class Unit:
    """One experiment: everything in it is drawn from its seed."""

    seed: int
    members: int
    scenario: Scenario = "even"

    @property
    def name(self) -> str:
        return f"seed-{self.seed}-members-{self.members}-{self.scenario}"


@dataclass(frozen=True)
class Member:
    """``rank`` is the member's own; None is the plan's."""

    name: str
    heads: tuple[int, ...]
    examples: tuple[Example, ...]
    rank: int | None = None


@dataclass(frozen=True)
class World:
    """The members, and pictures that nobody trains on: other traits of the members' heads, and the base's own heads."""

    members: tuple[Member, ...]
    chosen_by: tuple[Example, ...]
    tested: tuple[Example, ...]
    known: tuple[Example, ...]
    prompts: tuple[Seed, ...]
    """What every model draws: combinations that are in no other set."""

    @property
    def everyones(self) -> tuple[Example, ...]:
        """What all members train on."""
        return tuple(example for member in self.members for example in member.examples)

    @property
    def shares(self) -> list[float]:
        """Each member's share of all images, as in federated averaging."""
        return [len(member.examples) / len(self.everyones) for member in self.members]


def make_world(art: NounsArt, unit: Unit, pictures: int) -> World:
    """Draw a unit's world; each head gets an equal share of ``pictures`` prompts, at least one."""
    rng = np.random.default_rng(unit.seed)
    owned = heads_of(unit, rng.permutation(art.held_out_heads).tolist())

    def nouns(heads: Sequence[int], each: int) -> tuple[Example, ...]:
        seeds = [art.random_seed(rng, (head,)) for head in heads for _ in range(each)]
        return tuple(Example(art.compose(seed), caption(art.traits(seed))) for seed in seeds)

    ranks = RANKS if unit.scenario == "mixed-rank" else (None,) * unit.members
    members = tuple(
        Member(f"member {number}", heads, nouns(heads, TRAINED), rank)
        for number, (heads, rank) in enumerate(zip(owned, ranks, strict=True))
    )
    every = [head for heads in owned for head in heads]
    distinct = list(dict.fromkeys(every))
    known = rng.choice(art.known_heads, KNOWN, replace=False).tolist()
    return World(
        members,
        chosen_by=nouns(every, CHOSEN_BY),
        tested=nouns(every, TESTED),
        known=nouns(known, 1),
        prompts=tuple(head_prompts(art, distinct, max(1, pictures // len(distinct)))),
    )


def heads_of(unit: Unit, unseen: Sequence[int]) -> list[tuple[int, ...]]:
    """Which of the unseen heads each member owns."""
    if unit.scenario == "uneven":
        ends = np.cumsum(UNEVEN)
        return [tuple(unseen[end - count : end]) for end, count in zip(ends, UNEVEN, strict=True)]
    if unit.scenario == "overlapping":
        stride = HEADS_EACH - OVERLAP
        ring = unseen[: unit.members * stride]
        return [
            tuple(ring[(number * stride + k) % len(ring)] for k in range(HEADS_EACH)) for number in range(unit.members)
        ]
    each = min(HEADS_EACH, len(unseen) // unit.members)
    return [tuple(unseen[number * each : (number + 1) * each]) for number in range(unit.members)]


def units_of(
    seeds: Sequence[int], members: Sequence[int], scenarios: Sequence[Scenario], scenario_seeds: Sequence[int]
) -> list[Unit]:
    """Every even unit, the largest first, then the other scenarios with their own seeds."""
    even = (
        [Unit(seed, count) for count in sorted(members, reverse=True) for seed in seeds] if "even" in scenarios else []
    )
    others = [Unit(seed, SCENARIO_MEMBERS, s) for s in scenarios if s != "even" for seed in scenario_seeds]
    return even + others
