"""Secure aggregation opens the exact sum whoever drops out, and nothing that the coordinator sees tells more."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_parts import GRID, NEVER, nodes, plain_sum, play, terms_for
from scipy.stats import chi2_contingency, chisquare, hypergeom

from coordinator.aggregation.secure import Answers
from protocol.errors import BadInput, Conflict, NotAllowed
from protocol.masking import LEAST_MEMBERS, LEAST_NEIGHBOURS, MaskingTerms, Words, masked, mean_of, two_thirds
from protocol.modes import Grid

BYTE = np.dtype("<u1")


def updates_for(names: list[str], seed: int, size: int = 6, scale: float = 0.3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(scale=scale, size=size) for name in names}


@settings(max_examples=60, deadline=None)
@given(stages=st.lists(st.integers(0, NEVER), min_size=3, max_size=7), seed=st.integers(0, 99), data=st.data())
def test_the_sum_is_exact_under_every_dropout_or_the_round_ends(
    stages: list[int], seed: int, data: st.DataObject
) -> None:
    names = list(nodes(len(stages)))
    weights = {name: data.draw(st.integers(1, 9)) for name in names}
    terms, updates = terms_for(weights), updates_for(names, seed)
    dropouts = dict(zip(names, stages, strict=True))
    left = [sum(stage > n for stage in stages) for n in range(NEVER)]
    needed = two_thirds(left[0])
    can_end = left[0] >= LEAST_MEMBERS and left[2] >= max(LEAST_MEMBERS, needed) and left[4] >= needed
    if not can_end:
        with pytest.raises(Conflict, match=r"^Only \d+ .* and it takes \d+\. "):
            play(terms, updates, dropouts).total()
        return
    survivors = [name for name in names if dropouts[name] > 2]
    ended = play(terms, updates, dropouts)
    total = ended.total()
    assert (total == plain_sum(terms, updates, survivors)).all()
    by_hand = sum(weights[n] * np.clip(updates[n] / max(1, np.linalg.norm(updates[n])), -1, 1) for n in survivors)
    mean = mean_of(total, terms, survivors)
    assert np.allclose(mean, by_hand / sum(weights[n] for n in survivors), atol=2 * GRID.step)


@settings(max_examples=25, deadline=None)
@given(stages=st.lists(st.sampled_from([*range(NEVER), *[NEVER] * 12]), min_size=9, max_size=12))
def test_among_neighbours_only_the_sum_is_exact_or_the_round_ends(stages: list[int]) -> None:
    names = list(nodes(len(stages)))
    terms = terms_for(dict.fromkeys(names, 2), neighbours=4)
    updates, dropouts = updates_for(names, 1), dict(zip(names, stages, strict=True))
    try:
        ended = play(terms, updates, dropouts)
        total = ended.total()
    except (Conflict, NotAllowed):
        assert min(stages) < NEVER, "a round that nobody leaves is never lost"
        return
    assert isinstance(ended.stage, Answers)
    assert {len(near) for near in ended.stage.inputs.roster.neighbours.values()} <= {4, len(ended.members) - 1}
    assert (total == plain_sum(terms, updates, [n for n in names if dropouts[n] > 2])).all()


@pytest.mark.slow
def test_seventy_members_of_the_least_graph_that_members_accept() -> None:
    names = list(nodes(70))
    terms = terms_for(dict.fromkeys(names, 1)).model_copy(update={"neighbours": LEAST_NEIGHBOURS})
    updates = updates_for(names, 2)
    dropouts = dict(zip(names[::9], [0, 1, 2, 2, 3, 4, 4, 2], strict=True))
    ended = play(MaskingTerms.model_validate(terms.model_dump()), updates, dropouts)
    assert isinstance(ended.stage, Answers)
    assert {len(near) for near in ended.stage.inputs.roster.neighbours.values()} == {LEAST_NEIGHBOURS}
    assert (ended.total() == plain_sum(terms, updates, [n for n in names if dropouts.get(n, NEVER) > 2])).all()


def test_enough_answers_are_enough() -> None:
    names = list(nodes(7))
    terms, updates = terms_for(dict.fromkeys(names, 1)), updates_for(names, 3)
    assert play(terms, updates, {names[0]: 4, names[1]: 2}).stage.is_enough
    assert not play(terms, updates, until=4).stage.is_enough


@pytest.mark.parametrize(("weight", "bits"), [(1, 32), (511, 32), (512, 64), (2**30, 64)])
def test_the_greatest_sum_does_not_wrap(weight: int, bits: int) -> None:
    names = list(nodes(4))
    terms = terms_for(dict.fromkeys(names, weight), size=2)
    assert terms.modulus_bits == bits
    for sign in (1.0, -1.0):
        updates = {name: sign * np.array([1.0, 0.0]) for name in names}
        total = play(terms, updates).total()
        assert total.tolist() == [int(sign) * 4 * weight * GRID.radius, 0]


def test_weights_that_no_word_can_hold_are_refused() -> None:
    terms = terms_for(dict.fromkeys(nodes(3), 2**52), grid=Grid(clip=1.0, bits=24))
    with pytest.raises(BadInput, match=r"weights are too large .* smaller weights or a coarser grid"):
        _ = terms.modulus_bits


@pytest.mark.parametrize("update", [np.zeros(4096), np.full(4096, 1 / 64)], ids=["nothing", "the longest"])
def test_a_masked_update_looks_like_chance(update: np.ndarray) -> None:
    names = list(nodes(3))
    ended = play(terms_for(dict.fromkeys(names, 1), size=4096), dict.fromkeys(names, update))
    for words in ended.words.values():
        seen = np.frombuffer(words, np.uint8)
        for place in range(4):
            assert chisquare(np.bincount(seen[place::4], minlength=256)).pvalue > 1e-6


def test_masked_updates_of_two_different_sets_cannot_be_told_apart() -> None:
    """Same sum, members swapped, many rounds: the first member's masked bytes are drawn from one distribution."""
    names, size = list(nodes(3)), 1024
    terms = terms_for(dict.fromkeys(names, 1), size=size)
    one, two = np.full(size, 1 / 64), np.linspace(-1, 1, size) / 64
    pairs = {"as it is": (one, two), "swapped": (two, one)}
    counts = {side: np.zeros((4, 256), int) for side in pairs}
    for side, (first, second) in pairs.items():
        updates = dict(zip(names, (first, second, two), strict=True))
        for _ in range(10):
            ended = play(terms, updates)
            seen = np.frombuffer(ended.words[names[0]], np.uint8)
            counts[side] += [np.bincount(seen[place::4], minlength=256) for place in range(4)]
            assert (ended.total() == plain_sum(terms, updates, names)).all()
    for place in range(4):
        table = [counts["as it is"][place], counts["swapped"][place]]
        assert chi2_contingency(table).pvalue > 1e-6


def views(values: tuple[int, ...], dropped: int | None) -> Counter[tuple[int, ...]]:
    """How often the coordinator sees what, over every draw of every mask mod 4: three members, one number each.

    It sees the survivors' masked updates with their self masks taken off (it opens those). Of one that dropped out it
    sees all pair masks, and the masked update too, which may come late: that one's self mask stays closed.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    members = range(3)
    pairs = [(i, j) for i in members for j in members if i < j]
    for *drawn, own in product(range(4), repeat=4):
        mask_of = {pair: np.array([m], BYTE) for pair, m in zip(pairs, drawn, strict=True)}

        def sent(i: int, *more: Words, mask_of: dict[tuple[int, int], Words] = mask_of) -> int:
            plus = [mask for (a, _), mask in mask_of.items() if a == i]
            minus = [np.negative(mask) for (_, b), mask in mask_of.items() if b == i]
            return int(masked(np.array([values[i]]), 1, [*plus, *minus, *more], BYTE)[0]) % 4

        late = () if dropped is None else (sent(dropped, np.array([own], BYTE)),)
        opened = [int(mask[0]) for pair, mask in mask_of.items() if dropped in pair]
        seen[(*(sent(i) for i in members if i != dropped), *opened, *late)] += 1
    return seen


@pytest.mark.parametrize("dropped", [None, 0, 1, 2])
def test_the_coordinators_whole_view_depends_on_the_sum_alone(dropped: int | None) -> None:
    """Exactly, not by sampling: all masks are gone through. Equal sums give equal distributions, others do not."""
    by_sum: dict[int, Counter[tuple[int, ...]]] = {}
    for values in product(range(4), repeat=3):
        total = sum(v for i, v in enumerate(values) if i != dropped) % 4
        view = views(values, dropped)
        assert view == by_sum.setdefault(total, view)
    assert len({frozenset(view.items()) for view in by_sum.values()}) == 4


def test_the_masks_of_the_view_are_those_that_members_use() -> None:
    """What the exact test above takes for granted: y − self mask = w x + pair masks that cancel over everyone."""
    names = list(nodes(4))
    terms, updates = terms_for(dict.fromkeys(names, 1)), updates_for(names, 5)
    ended = play(terms, updates)
    assert isinstance(ended.stage, Answers)
    opened = [next(iter(ended.stage._covers(name))) for name in names]
    parts = [np.frombuffer(ended.words[name], terms.word) - own for name, own in zip(names, opened, strict=True)]
    assert (np.sum(parts, axis=0, dtype=terms.word).view("<i4") == plain_sum(terms, updates, names)).all()
    for name, part in zip(names, parts, strict=True):
        assert (part.view("<i4") != terms.grid.whole(updates[name])).any(), "a self mask alone must not uncover it"


def test_the_graph_leaves_nobody_among_colluding_neighbours() -> None:
    """A fifth of 1,000 members collude: fewer than one round in 2^45 gives two thirds of someone's holders to them."""
    members, colluding = 1000, 200
    holders = LEAST_NEIGHBOURS + 1
    one = hypergeom.sf(two_thirds(holders) - 2, members - 1, colluding, LEAST_NEIGHBOURS)
    assert members * one < 2**-45
