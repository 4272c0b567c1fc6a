"""The collective is a pure function of the live contributions: exact, in any order, removable to the bit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merging import algebra, exact, wide
from merging.merge import (
    GroupSums,
    MergeInput,
    Opened,
    commitment,
    group_sums,
    layers_by_group,
    merge,
    scaled_by,
)
from protocol.adapter import Factors, Sketch, dump_adapter, dump_statistics
from protocol.errors import BadInput, ContributionRefused
from protocol.grant import RoundPlan

LAYERS = {"mid.attn1.to_q": (24, 32), "mid.attn2.to_k": (24, 16), "mid.ff.net.2": (20, 48), "mid.proj_in": (24, 24)}
GROUPS = {"mid.attn1.input": 32, "text": 16, "mid.ff.net.2": 48, "mid.proj_in": 24}
KERNELS = {"mid.proj_in": (1, 1)}


def contribution(seed: int, rank: int = 4, weight: int = 1, scale: float = 0.1) -> Opened:
    rng = np.random.default_rng(seed)
    adapter = {
        layer: Factors(
            rng.normal(size=(rank, n)).astype(np.float16),
            (scale * rng.normal(size=(m, rank))).astype(np.float16),
            KERNELS.get(layer, ()),
        )
        for layer, (m, n) in LAYERS.items()
    }
    return Opened(weight, adapter, {group: sketch(rng, n) for group, n in GROUPS.items()})


def sketch(rng: np.random.Generator, n: int) -> Sketch:
    factor, diagonal = rng.normal(size=(n, 8)) * rng.random(8), rng.random(n)
    trace = np.square(factor).sum() + diagonal.sum()
    return Sketch((factor / np.sqrt(trace)).astype(np.float16), (diagonal / trace).astype(np.float32))


def sums_of(contributions: list[Opened]) -> dict[str, GroupSums]:
    groups = layers_by_group(contributions[0].adapter)
    return {group: group_sums(contributions, group, layers) for group, layers in groups.items()}


def commitment_of(sums: dict[str, GroupSums]) -> str:
    return commitment(line for group, part in sums.items() for line in part.commitments(group))


def written(one: Opened, folder: Path, name: str) -> MergeInput:
    (folder / f"{name}.adapter").write_bytes(dump_adapter(one.adapter))
    (folder / f"{name}.statistics").write_bytes(dump_statistics(one.statistics))
    return MergeInput(name, one.weight, folder / f"{name}.adapter", folder / f"{name}.statistics")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_the_same_set_commits_to_the_same_sums_in_any_order(seeds: list[int], random: object) -> None:
    contributions = [contribution(seed, rank=1 + seed % 5, weight=1 + seed % 3) for seed in seeds]
    shuffled = list(contributions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert commitment_of(sums_of(contributions)) == commitment_of(sums_of(shuffled))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=5, unique=True))
def test_removing_a_contribution_is_bit_identical_to_never_having_included_it(seeds: list[int]) -> None:
    contributions = [contribution(seed) for seed in seeds]
    with_all, without = sums_of(contributions), sums_of(contributions[:-1])
    alone = sums_of(contributions[-1:])
    for group, whole in with_all.items():
        for layer, total in whole.numerators.items():
            assert same(total - alone[group].numerators[layer], without[group].numerators[layer]), layer
        assert same(whole.denominator - alone[group].denominator, without[group].denominator), group
    assert commitment_of(with_all) != commitment_of(without)


def test_the_sums_agree_with_fp64_algebra() -> None:
    contributions = [contribution(seed, rank=1 + seed, weight=seed) for seed in (1, 2, 3)]
    sums = sums_of(contributions)
    for layer in LAYERS:
        expected = sum(c.weight * (dense(c.adapter[layer]) @ moment(c, layer)) for c in contributions)
        got = exact.numerator_value(sums[_group(layer)].numerators[layer])
        assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected), layer


def test_the_regression_mean_of_one_contribution_is_that_contribution() -> None:
    one = contribution(5)
    sums = sums_of([one])
    for layer in LAYERS:
        part = sums[_group(layer)]
        numerator = exact.numerator_value(part.numerators[layer])
        solved = algebra.solve(numerator, exact.denominator_value(part.denominator), 1e-9)
        error = np.linalg.norm(solved.dense() - dense(one.adapter[layer]))
        assert error < 1e-3 * np.linalg.norm(dense(one.adapter[layer])), layer


def test_with_equal_statistics_the_regression_mean_is_the_plain_mean_of_the_products() -> None:
    rng = np.random.default_rng(0)
    moment_, deltas = rng.normal(size=(32, 32)), [rng.normal(size=(24, 32)) for _ in range(3)]
    g = moment_ @ moment_.T
    solved = algebra.solve(sum(d @ g for d in deltas), 3 * g, 1e-12)
    assert np.allclose(solved.dense(), sum(deltas) / 3, atol=1e-6)


def test_truncation_is_the_best_rank_in_the_metric_of_the_data() -> None:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(32, 32)) * np.linspace(0.1, 3, 32)
    g, numerator = root @ root.T, rng.normal(size=(24, 32))
    solved = algebra.solve(numerator, g, 1e-9)
    a, b = solved.at_rank(6)
    in_metric = lambda x: float(np.trace(x @ g @ x.T))  # noqa: E731
    ours = in_metric(solved.dense() - b @ a)
    u, s, vt = np.linalg.svd(solved.dense(), full_matrices=False)
    plain = in_metric(solved.dense() - u[:, :6] * s[:6] @ vt[:6])
    assert ours < plain
    assert ours / in_metric(solved.dense()) == pytest.approx(solved.tail(6), rel=1e-3)


def test_published_factors_are_balanced_and_the_gain_scales_their_product() -> None:
    rng = np.random.default_rng(2)
    solved = algebra.solve(rng.normal(size=(24, 32)), np.eye(32), 1e-9)
    a, b = solved.at_rank(5)
    assert np.linalg.norm(a, axis=1) == pytest.approx(np.linalg.norm(b, axis=0))
    scaled = scaled_by({"layer": Factors(a, b)}, 1.3)["layer"]
    assert scaled.b @ scaled.a == pytest.approx(1.3 * b @ a)


def test_members_of_different_rank_merge_to_one_adapter(tmp_path: Path) -> None:
    inputs = [written(contribution(i, rank=i), tmp_path, str(i)) for i in (1, 3, 6)]
    merged = merge(inputs, RoundPlan(tail=0.0, release_rank=10))
    assert merged.rank == 10
    assert merged.adapter["mid.proj_in"].kernel == (1, 1)
    assert set(merged.accounts) == {"1", "3", "6"}
    assert merged.tail < 1e-6


def test_a_cut_that_costs_too_much_is_not_made(tmp_path: Path) -> None:
    inputs = [written(contribution(i), tmp_path, str(i)) for i in range(3)]
    low, high = (merge(inputs, RoundPlan(tail=t, release_rank=12)) for t in (0.5, 0.01))
    assert low.rank < high.rank
    assert low.tail <= 0.5


def test_nothing_to_merge_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No live contribution"):
        merge([], RoundPlan())


def test_contributions_that_adapt_different_layers_are_refused() -> None:
    whole = contribution(1)
    part = Opened(1, {k: v for k, v in whole.adapter.items() if k != "mid.proj_in"}, whole.statistics)
    with pytest.raises(ContributionRefused, match=r"mid\.proj_in"):
        sums_of([whole, part])


def test_shapes_that_would_broadcast_are_refused() -> None:
    whole = contribution(1)
    narrow = dict(whole.adapter)
    narrow["mid.ff.net.2"] = Factors(whole.adapter["mid.ff.net.2"].a, whole.adapter["mid.ff.net.2"].b[:1])
    with pytest.raises(ContributionRefused, match="does not fit"):
        sums_of([whole, Opened(1, narrow, whole.statistics)])


def same(one: wide.Whole, other: wide.Whole) -> bool:
    return one.shift == other.shift and np.array_equal(one.digits, other.digits)


def dense(factors: Factors) -> np.ndarray:
    return factors.b.astype(np.float64) @ factors.a.astype(np.float64)


def moment(one: Opened, layer: str) -> np.ndarray:
    g = one.statistics[_group(layer)].dense()
    return g / np.trace(g)


def _group(layer: str) -> str:
    return {"mid.attn1.to_q": "mid.attn1.input", "mid.attn2.to_k": "text"}.get(layer, layer)
