"""A merge that goes on from the last one's sums is the merge from scratch, whoever came and whoever left."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merging import kept
from merging import merge as merging
from merging.merge import Merged, MergeInput, merge
from protocol.adapter import Factors, Sketch, dump_adapter, dump_statistics
from protocol.grant import RoundPlan
from protocol.policy import RobustRule

SHAPES = {"mid.attn1.to_q": (24, 32), "mid.attn1.to_k": (24, 32), "mid.attn2.to_k": (24, 16), "mid.ff.net.2": (20, 48)}
WIDTHS = {"mid.attn1.input": 32, "text": 16, "mid.ff.net.2": 48}
PLAN = RoundPlan(tail=0.01, release_rank=12)
MEMBERS = 9


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[MergeInput]:
    folder = tmp_path_factory.mktemp("members")
    return [written(folder, seed) for seed in range(MEMBERS)]


def written(folder: Path, seed: int, scale: float = 0.1) -> MergeInput:
    rng = np.random.default_rng(seed)
    rank = 1 + seed % 4
    adapter = {
        layer: Factors(rng.normal(size=(rank, n)), scale * rng.normal(size=(m, rank)))
        for layer, (m, n) in SHAPES.items()
    }
    (folder / f"{seed}.adapter").write_bytes(dump_adapter(adapter))
    (folder / f"{seed}.statistics").write_bytes(dump_statistics({group: sketch(rng, n) for group, n in WIDTHS.items()}))
    return MergeInput(f"c{seed}", 1 + seed % 2, folder / f"{seed}.adapter", folder / f"{seed}.statistics")


def sketch(rng: np.random.Generator, n: int) -> Sketch:
    factor, diagonal = rng.normal(size=(n, 6)), rng.random(n)
    trace = np.square(factor).sum() + diagonal.sum()
    return Sketch(factor / np.sqrt(trace), diagonal / trace)


def same(one: Merged, other: Merged) -> bool:
    bytes_alike = dump_adapter(one.adapter) == dump_adapter(other.adapter)
    return bytes_alike and (one.commitment, one.accounts, one.rank, one.tail) == (
        other.commitment,
        other.accounts,
        other.rank,
        other.tail,
    )


sets = st.sets(st.integers(0, MEMBERS - 1), min_size=2)


@settings(max_examples=15, deadline=None)
@given(st.lists(sets, min_size=2, max_size=4), st.sampled_from(list(RobustRule)), st.randoms(use_true_random=False))
def test_whoever_comes_and_goes_the_merge_is_the_one_from_scratch(
    members: list[MergeInput],
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[set[int]],
    rule: RobustRule,
    chance: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    for live in rounds:
        inputs = [members[at] for at in sorted(live)]
        chance.shuffle(inputs)
        assert same(merge(inputs, PLAN, rule, kept=folder), merge(inputs, PLAN, rule))


@settings(max_examples=10, deadline=None)
@given(sets.filter(lambda live: len(live) < MEMBERS), st.data())
def test_one_who_joins_and_leaves_again_leaves_no_trace(
    members: list[MergeInput], tmp_path_factory: pytest.TempPathFactory, live: set[int], data: st.DataObject
) -> None:
    joins = data.draw(st.sampled_from(sorted(set(range(MEMBERS)) - live)))
    folder = tmp_path_factory.mktemp("kept")
    before = merge([members[at] for at in live], PLAN, kept=folder)
    merge([members[at] for at in live | {joins}], PLAN, kept=folder)
    assert same(merge([members[at] for at in live], PLAN, kept=folder), before)


@pytest.mark.slow
def test_processes_go_on_from_the_same_sums(members: list[MergeInput], tmp_path: Path) -> None:
    merge(members[:-1], PLAN, kept=tmp_path)
    assert same(merge(members, PLAN, processes=2, kept=tmp_path), merge(members, PLAN))


def test_only_what_is_new_is_added(members: list[MergeInput], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [members[at] for at in (2, 3, 6, 7)]  # none is clipped, so nobody's length hangs on who else is there
    merge(alike[:-1], PLAN, kept=tmp_path)
    added: list[int] = []
    plain = merging.group_sums
    monkeypatch.setattr(merging, "MEASURED_UP_TO", 0)
    monkeypatch.setattr(merging, "group_sums", lambda ones, *rest: added.append(len(ones)) or plain(ones, *rest))
    merge(alike, PLAN, kept=tmp_path)
    assert added == [1] * len(WIDTHS)


def test_a_file_that_changed_is_not_taken_for_what_was_added(tmp_path: Path) -> None:
    inputs = [written(tmp_path, seed) for seed in range(4)]
    folder = tmp_path / "kept"
    merge(inputs, PLAN, kept=folder)
    written(tmp_path, 2, scale=0.2)
    assert same(merge(inputs, PLAN, kept=folder), merge(inputs, PLAN))


@pytest.mark.parametrize("damage", [b"", b"no sums", b'{"format": 1}\n'])
def test_what_cannot_be_read_counts_as_not_kept(members: list[MergeInput], tmp_path: Path, damage: bytes) -> None:
    merge(members[:4], PLAN, kept=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(damage)
    assert same(merge(members[:5], PLAN, kept=tmp_path), merge(members[:5], PLAN))


def test_sums_that_end_early_count_as_not_kept(members: list[MergeInput], tmp_path: Path) -> None:
    merge(members[:4], PLAN, kept=tmp_path)
    for path in tmp_path.glob("*.sums"):
        path.write_bytes(path.read_bytes()[:-1000])
    assert same(merge(members[:5], PLAN, kept=tmp_path), merge(members[:5], PLAN))


def test_one_set_of_sums_is_kept_and_no_more(members: list[MergeInput], tmp_path: Path) -> None:
    (tmp_path / "0123.sums").write_bytes(b"of another base")
    for count in (3, 5, 4):
        merge(members[:count], PLAN, kept=tmp_path)
    assert len(list(tmp_path.glob("*.sums"))) == len(WIDTHS)
    assert len(kept.read_members(tmp_path, "text")) == 4
    assert not list(tmp_path.glob("*.new"))
