"""Whatever the order, the number of processes and the size of the stacks: the same set is the same merge."""

import functools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merging import exact, wide
from merging.merge import Anchor, MergeInput, merge
from merging.stored import StoredAdapter, StoredStatistics
from protocol.adapter import Factors, Sketch, dump_adapter, dump_statistics, input_group
from protocol.grant import RoundPlan
from protocol.policy import RobustRule

LAYERS = {
    "mid.attn1.to_q": (24, 32),
    "mid.attn1.to_k": (24, 32),
    "mid.attn2.to_k": (24, 16),
    "mid.ff.net.0.proj": (80, 24),
    "mid.ff.net.2": (20, 48),
}
WIDTHS = {"mid.attn1.input": 32, "text": 16, "mid.ff.net.0.proj": 24, "mid.ff.net.2": 48}
PLAN = RoundPlan(tail=0.01, release_rank=12)
EXACT = RoundPlan(tail=0.0, release_rank=80)


def written(folder: Path, seed: int, scale: float = 1.0, statistics: bool = True, weight: int = 1) -> MergeInput:
    rng = np.random.default_rng(seed)
    adapter = {
        layer: Factors(rng.normal(size=(3, n)), scale * 0.1 * rng.normal(size=(m, 3)))
        for layer, (m, n) in LAYERS.items()
    }
    (folder / f"{seed}.adapter").write_bytes(dump_adapter(adapter))
    (folder / f"{seed}.statistics").write_bytes(dump_statistics({g: sketch(rng, n) for g, n in WIDTHS.items()}))
    kept = folder / f"{seed}.statistics" if statistics else None
    return MergeInput(f"c{seed}", weight, folder / f"{seed}.adapter", kept)


def sketch(rng: np.random.Generator, n: int) -> Sketch:
    factor, diagonal = rng.normal(size=(n, 8)) * rng.random(8), rng.random(n)
    trace = np.square(factor).sum() + diagonal.sum()
    return Sketch(factor / np.sqrt(trace), diagonal / trace)


@pytest.mark.parametrize("rule", list(RobustRule))
def test_the_release_is_the_same_bytes_in_any_order(tmp_path: Path, rule: RobustRule) -> None:
    inputs = [written(tmp_path, seed, weight=1 + seed % 2) for seed in range(8)]
    first = merge(inputs, PLAN, rule)
    random.Random(1).shuffle(inputs)
    again = merge(inputs, PLAN, rule)
    assert dump_adapter(first.adapter) == dump_adapter(again.adapter)
    assert (first.commitment, first.accounts) == (again.commitment, again.accounts)


@pytest.mark.slow
def test_parallel_processes_change_nothing(tmp_path: Path) -> None:
    inputs = [written(tmp_path, seed) for seed in range(4)]
    alone, together = merge(inputs, PLAN), merge(inputs, PLAN, processes=2)
    assert alone.commitment == together.commitment
    assert dump_adapter(alone.adapter) == dump_adapter(together.adapter)


def test_a_contribution_of_hundred_times_the_norm_is_shortened_and_said(tmp_path: Path) -> None:
    honest = [written(tmp_path, seed) for seed in range(6)]
    merged = merge([*honest, written(tmp_path, 6, scale=100.0)], PLAN)
    assert "shortened" in merged.accounts["c6"].note
    assert all(not merged.accounts[one.contribution_id].note for one in honest)
    clean = merge(honest, PLAN)
    for layer, factors in merged.adapter.items():
        ours, theirs = factors.b @ factors.a, clean.adapter[layer].b @ clean.adapter[layer].a
        assert np.linalg.norm(ours - theirs) < 2 * np.linalg.norm(theirs), layer


def test_a_contribution_of_almost_nothing_counts_for_nothing(tmp_path: Path) -> None:
    honest = [written(tmp_path, seed) for seed in range(4)]
    merged = merge([*honest, written(tmp_path, 9, scale=0.01)], PLAN)
    assert merged.accounts["c9"].weight == 0
    assert "shorter" in merged.accounts["c9"].note
    assert merged.commitment == merge(honest, PLAN).commitment


def test_influence_is_how_far_the_collective_moves_without_the_contribution(tmp_path: Path) -> None:
    plan = RoundPlan(tail=0.0, release_rank=16)
    inputs = [written(tmp_path, seed, scale=1.0 if seed else 0.6) for seed in range(3)]
    whole = merge(inputs, plan)
    for left_out in inputs:
        rest = merge([one for one in inputs if one is not left_out], plan)
        changed = total = 0.0
        for layer, group in zip(
            LAYERS, (g for g in WIDTHS for _ in range(2 if g == "mid.attn1.input" else 1)), strict=True
        ):
            metric = sum(moment(tmp_path, seed, group) for seed in range(3))
            ours, theirs = (m.adapter[layer].b @ m.adapter[layer].a for m in (whole, rest))
            changed += float(np.trace((ours - theirs) @ metric @ (ours - theirs).T))
            total += float(np.trace(ours @ metric @ ours.T))
        told = whole.accounts[left_out.contribution_id].influence
        assert told == pytest.approx(np.sqrt(changed / total), rel=0.02)


def test_without_any_statistics_the_merge_is_the_plain_weighted_mean(tmp_path: Path) -> None:
    inputs = [written(tmp_path, seed, statistics=False, weight=seed) for seed in (1, 2)]
    merged = merge(inputs, RoundPlan(tail=0.0, release_rank=12, regularisation=1e-9))
    for layer in LAYERS:
        expected = (delta(tmp_path, 1, layer) + 2 * delta(tmp_path, 2, layer)) / 3
        got = merged.adapter[layer].b @ merged.adapter[layer].a
        assert np.linalg.norm(got - expected) < 1e-3 * np.linalg.norm(expected), layer


def test_a_contribution_without_statistics_counts_with_the_mean_of_the_others(tmp_path: Path) -> None:
    plan = RoundPlan(tail=0.0, release_rank=16, regularisation=1e-9)
    told = [written(tmp_path, seed) for seed in (1, 2)]
    mixed = merge([*told, written(tmp_path, 3, statistics=False)], plan)
    for layer, group in (("mid.ff.net.2", "mid.ff.net.2"), ("mid.attn2.to_k", "text")):
        g = [moment(tmp_path, seed, group) for seed in (1, 2)]
        g.append((g[0] + g[1]) / 2)
        top = sum(delta(tmp_path, seed, layer) @ m for seed, m in zip((1, 2, 3), g, strict=True))
        expected = top @ np.linalg.inv(sum(g))
        got = mixed.adapter[layer].b @ mixed.adapter[layer].a
        assert np.linalg.norm(got - expected) < 2e-3 * np.linalg.norm(expected), layer


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(1e-4, 30.0))
def test_a_stack_is_the_sum_of_its_parts_to_the_bit(seed: int, count: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    one = exact.moment(sketch(rng, 20))
    terms = [
        (1 + i % 3, exact.terms([Factors(scale * rng.normal(size=(7, 20)), rng.normal(size=(9, 7)))], one)[0])
        for i in range(count)
    ]
    whole = exact.numerator(terms, (9, 20))
    parts = functools.reduce(wide.Whole.__add__, (exact.numerator([term], (9, 20)) for term in terms))
    assert whole.shift == parts.shift
    assert (whole.digits == parts.digits).all()


def delta(folder: Path, seed: int, layer: str) -> np.ndarray:
    factors = StoredAdapter(folder / f"{seed}.adapter")[layer]
    return factors.b.astype(np.float64) @ factors.a.astype(np.float64)


def moment(folder: Path, seed: int, group: str) -> np.ndarray:
    g = StoredStatistics(folder / f"{seed}.statistics")[group].dense()
    return g / np.trace(g)


def test_a_copy_counts_for_nothing_whatever_its_name_and_size(tmp_path: Path) -> None:
    honest = [replace(written(tmp_path, seed), received=seed) for seed in range(3)]
    copied = {layer: Factors(f.a, 1.4 * f.b) for layer, f in StoredAdapter(honest[2].adapter).items()}
    (tmp_path / "copy").write_bytes(dump_adapter(copied))
    copy = MergeInput("a-name-that-sorts-first", 1, tmp_path / "copy", honest[0].statistics, received=9)
    merged = merge([copy, *honest], PLAN)
    assert merged.accounts[copy.contribution_id].weight == 0
    assert merged.accounts[copy.contribution_id].note == "It is a copy of c2."
    assert merged.commitment == merge(honest, PLAN).commitment


def test_statistics_in_too_few_directions_do_not_count_but_their_delta_does(tmp_path: Path) -> None:
    honest = [written(tmp_path, seed) for seed in range(4)]
    spiked = written(tmp_path, 7)
    direction = {group: np.eye(n, 1) for group, n in WIDTHS.items()}
    flat = {group: Sketch(np.sqrt(0.97) * one, np.full(len(one), 0.03 / len(one))) for group, one in direction.items()}
    (tmp_path / "spiked").write_bytes(dump_statistics(flat))
    merged = merge([*honest, replace(spiked, statistics=tmp_path / "spiked")], PLAN)
    assert "too few directions" in merged.accounts["c7"].note
    assert merged.accounts["c7"].weight > 0
    assert merged.commitment == merge([*honest, replace(spiked, statistics=None)], PLAN).commitment


def test_with_the_bases_word_the_collective_moves_less_where_the_base_reads(tmp_path: Path) -> None:
    inputs = [written(tmp_path, seed) for seed in range(3)]
    base = tmp_path / "base.statistics"
    base.write_bytes(dump_statistics({g: sketch(np.random.default_rng(99), n) for g, n in WIDTHS.items()}))
    free, held = merge(inputs, EXACT), merge(inputs, EXACT, anchor=Anchor(0.5, base))
    assert free.commitment == held.commitment
    own = StoredStatistics(base)
    for layer, factors in free.adapter.items():
        metric = own[input_group(layer)].dense()
        before, after = (f.b @ f.a for f in (factors, held.adapter[layer]))
        assert np.trace(after @ metric @ after.T) < np.trace(before @ metric @ before.T), layer


def test_influence_is_what_really_leaving_a_contribution_out_does_also_beside_the_bases_word(tmp_path: Path) -> None:
    inputs = [written(tmp_path, seed, weight=1 + seed) for seed in range(3)]
    base = tmp_path / "base.statistics"
    base.write_bytes(dump_statistics({g: sketch(np.random.default_rng(99), n) for g, n in WIDTHS.items()}))
    anchor = Anchor(0.3, base)
    whole, without = merge(inputs, EXACT, anchor=anchor), merge(inputs[1:], EXACT, anchor=anchor)
    moved = energy = 0.0  # of the widest layer the merge itself looks at 64 random combinations of outputs
    for layer, factors in whole.adapter.items():
        group = input_group(layer)
        metric = sum(
            one.weight * (one_sketch(one, group) + 0.3 * StoredStatistics(base)[group].dense()) for one in inputs
        )
        all_of_it, rest = (f.b @ f.a for f in (factors, without.adapter[layer]))
        moved += np.trace((all_of_it - rest) @ metric @ (all_of_it - rest).T)
        energy += np.trace(all_of_it @ metric @ all_of_it.T)
    assert whole.accounts["c0"].influence == pytest.approx(np.sqrt(moved / energy), rel=0.1)


def one_sketch(one: MergeInput, group: str) -> np.ndarray:
    assert one.statistics is not None
    return StoredStatistics(one.statistics)[group].dense()
