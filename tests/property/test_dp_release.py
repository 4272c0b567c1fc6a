"""What the ``dp`` mode claims: no member moves the sum by more than the clip, the noise is as large as said, the ε that
is published is no smaller than the truth, and an attack on real releases stays under it."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import brentq
from scipy.stats import beta, chi2, chisquare, norm

from coordinator.aggregation.private import (
    NoisyRelease,
    accounts,
    clipped_sum,
    discrete_gaussian,
    epsilon_of,
    release,
    require_budget,
    spent,
)
from protocol.errors import BadInput, NotAllowed
from protocol.fixed_factors import FixedFactors, FixedLayer, Learned
from protocol.modes import DpTerms, FloatArray, Grid, IntArray, within

pytest.importorskip("opendp")

SIZE = 7
DELTA = 1e-5
TERMS = DpTerms(grid=Grid(clip=0.5, bits=16), noise=1.0, delta=DELTA)
ANY_UPDATE = arrays.arrays(np.float64, SIZE, elements=st.floats(allow_nan=True, allow_infinity=True))


def without_noise(size: int, deviation: float) -> IntArray:
    return np.zeros(size, np.int64)


class TestSensitivity:
    @given(others=st.lists(ANY_UPDATE, max_size=4), one=ANY_UPDATE)
    @settings(deadline=None)
    def test_no_update_moves_the_sum_by_more_than_the_clip(self, others: list[FloatArray], one: FloatArray) -> None:
        """Over every float there is, infinities and NaN too; in whole numbers, so without a rounding to hide in."""
        moved = clipped_sum([*others, one], TERMS, SIZE) - clipped_sum(others, TERMS, SIZE)
        assert sum(int(v) ** 2 for v in moved) <= TERMS.grid.radius**2

    @given(whole=arrays.arrays(np.int64, SIZE, elements=st.integers(-(2**20), 2**20)), radius=st.integers(1, 2**20))
    @settings(deadline=None)
    def test_the_bound_is_checked_in_whole_numbers_and_not_believed(self, whole: IntArray, radius: int) -> None:
        shortened = within(whole, radius)
        assert sum(int(v) ** 2 for v in shortened) <= radius**2
        if sum(int(v) ** 2 for v in whole) <= radius**2:
            assert (shortened == whole).all()

    @given(one=ANY_UPDATE, other=ANY_UPDATE)
    @settings(deadline=None)
    def test_another_update_in_its_place_moves_it_by_two_clips_at_most(
        self, one: FloatArray, other: FloatArray
    ) -> None:
        moved = clipped_sum([one], TERMS, SIZE) - clipped_sum([other], TERMS, SIZE)
        assert sum(int(v) ** 2 for v in moved) <= (2 * TERMS.grid.radius) ** 2

    @given(scale=st.floats(1e-300, 1e300), seed=st.integers(0, 99), bits=st.integers(8, 24))
    @settings(deadline=None)
    def test_a_clip_keeps_the_direction_and_a_short_update_as_it_is(self, scale: float, seed: int, bits: int) -> None:
        grid = Grid(clip=2.0, bits=bits)
        update = np.random.default_rng(seed).normal(size=SIZE)
        update *= scale / np.linalg.norm(update)
        expected = update * min(1.0, 2.0 / scale)
        assert np.abs(grid.value(grid.whole(update)) - expected).max() <= grid.step * (1 + 1e-6)

    @pytest.mark.parametrize("learned", Learned)
    def test_the_clip_holds_in_product_space(self, learned: Learned) -> None:
        """Fixed factors are orthonormal, so what is clipped as a vector is clipped as Δ over all layers."""
        layers = (FixedLayer(name="a", d_out=24, d_in=32), FixedLayer(name="b", d_out=16, d_in=48))
        fixed = FixedFactors(seed="s", learned=learned, rank=4, layers=layers)
        update = 100 * np.random.default_rng(0).normal(size=fixed.size)
        clipped = TERMS.grid.value(TERMS.grid.whole(update))
        deltas = (f.b.astype(float) @ f.a.astype(float) for f in fixed.adapter(clipped).values())
        assert math.sqrt(sum(float(np.square(d).sum()) for d in deltas)) <= 0.5

    def test_what_is_not_finite_counts_as_nothing_and_is_not_refused(self) -> None:
        """A refusal would show in the manifest, and whether a member's update is finite is its own affair."""
        good = np.full(SIZE, 0.01)
        for bad in (np.nan, np.inf, -np.inf):
            broken = good.copy()
            broken[3] = bad
            assert (clipped_sum([good, broken], TERMS, SIZE) == clipped_sum([good], TERMS, SIZE)).all()

    def test_an_update_of_another_shape_is_refused(self) -> None:
        with pytest.raises(BadInput, match=r"has shape \(3,\); the round's is \(7,\)"):
            clipped_sum([np.zeros(3)], TERMS, SIZE)
        with pytest.raises(BadInput, match=r"no contribution to merge\. Ask for more"):
            release([], 0, TERMS, SIZE)


class TestNoise:
    @pytest.mark.parametrize("deviation", [3.0, 1000.0, 2.0**20])
    def test_its_variance_is_the_one_that_was_asked_for(self, deviation: float) -> None:
        count = 60_000
        drawn = discrete_gaussian(count, deviation) / deviation
        low, high = chi2.ppf([1e-9, 1 - 1e-9], count) / count
        assert low < float(np.square(drawn).mean()) < high
        assert abs(float(drawn.mean())) < 6 / math.sqrt(count)

    def test_it_is_the_discrete_gaussian(self) -> None:
        """P(k) ∝ exp(−k² / 2σ²) on the whole numbers: Canonne, Kamath, Steinke 2020, definition 1."""
        deviation, reach, count = 1.5, 5, 60_000
        support = np.arange(-40, 41)
        mass = np.exp(-np.square(support) / (2 * deviation**2))
        inner = np.abs(support) <= reach
        expected = np.append(mass[inner], mass[~inner].sum()) / mass.sum() * count
        drawn = discrete_gaussian(count, deviation)
        seen = [np.count_nonzero(drawn == k) for k in support[inner]]
        assert chisquare([*seen, count - sum(seen)], expected).pvalue > 1e-6

    def test_entries_are_independent(self) -> None:
        drawn = discrete_gaussian(60_000, 500.0).reshape(2, -1) / 500.0
        assert abs(float((drawn[0] * drawn[1]).mean())) < 6 / math.sqrt(drawn.shape[1])

    def test_it_is_drawn_anew_each_time(self) -> None:
        """With the same noise the difference of two releases would be the member who left."""
        once, again = (release([np.zeros(64)], 1, TERMS, 64) for _ in range(2))
        assert np.count_nonzero(once == again) < 8

    def test_a_release_lies_on_the_grid_of_whole_numbers(self) -> None:
        """No low bits that noise in floating point would leave (Mironov 2012)."""
        whole = release([np.full(64, 0.01)], 1, TERMS, 64) / TERMS.grid.step
        assert (whole == np.rint(whole)).all()

    def test_it_has_the_size_that_the_clip_and_sigma_say(self) -> None:
        terms = TERMS.model_copy(update={"noise": 2.5})
        seen = release([np.zeros(20_000)], 4, terms, 20_000)
        assert float(seen.std()) == pytest.approx(2.5 * 0.5 / 4, rel=0.03)

    def test_without_it_the_release_is_the_mean_of_the_clipped(self) -> None:
        updates = [np.full(SIZE, 0.01 * n) for n in range(4)]
        seen = release(updates, 4, TERMS, SIZE, without_noise)
        assert np.abs(seen - np.mean(updates, axis=0)).max() <= TERMS.grid.step


def analytic_epsilon(sigma: float, delta: float) -> float:
    """ε of the Gaussian mechanism at sensitivity one, exactly: Balle and Wang, ICML 2018, theorem 8."""

    def surplus(epsilon: float) -> float:
        first = norm.cdf(1 / (2 * sigma) - epsilon * sigma)
        return float(first - math.exp(epsilon + norm.logcdf(-1 / (2 * sigma) - epsilon * sigma)) - delta)

    return float(brentq(surplus, 0.0, 1000.0))


class TestAccounts:
    @pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0, 20.0])
    @pytest.mark.parametrize("releases", [1, 3, 10])
    @pytest.mark.parametrize("delta", [1e-5, 1e-8])
    def test_epsilon_is_that_of_the_analytic_gaussian_never_less(
        self, sigma: float, releases: int, delta: float
    ) -> None:
        """Gaussians compose into one of σ/√k exactly, so this holds for many releases as for one."""
        truth = analytic_epsilon(sigma / math.sqrt(releases), delta)
        assert truth <= epsilon_of([sigma] * releases, delta) <= 1.12 * truth

    @given(noises=st.lists(st.floats(0.3, 20), min_size=1, max_size=6), more=st.floats(0.3, 20))
    @settings(max_examples=30, deadline=None)
    def test_every_release_costs(self, noises: list[float], more: float) -> None:
        assert epsilon_of([*noises, more], DELTA) > epsilon_of(noises, DELTA)
        assert epsilon_of(noises, DELTA, sensitivity=2) > epsilon_of(noises, DELTA)

    def test_a_removal_costs_all_who_stay_and_not_who_left(self) -> None:
        everyone, rest = frozenset({"ann", "bob", "cai"}), frozenset({"ann", "bob"})
        history = [NoisyRelease(2.0, everyone), NoisyRelease(2.0, rest)]
        assert accounts(history) == {"ann": (2.0, 2.0), "bob": (2.0, 2.0), "cai": (2.0,)}
        told = spent(history, DELTA)
        assert told.releases == 2
        assert told.epsilon == epsilon_of([2.0, 2.0], DELTA) > spent(history[:1], DELTA).epsilon
        assert told.epsilon_replaced == epsilon_of([1.0, 1.0], DELTA)

    def test_the_member_of_whom_most_is_told_is_what_counts(self) -> None:
        history = [NoisyRelease(8.0, frozenset({"ann"})), *[NoisyRelease(8.0, frozenset({"bob"}))] * 3]
        history += [NoisyRelease(1.0, frozenset({"cai"}))]
        assert spent(history, DELTA).epsilon == epsilon_of([1.0], DELTA)
        assert spent(history, DELTA).releases == 1

    def test_nothing_is_spent_before_the_first_release(self) -> None:
        assert (spent([], DELTA).epsilon, spent([], DELTA).releases) == (0.0, 0)

    def test_a_release_beyond_the_budget_is_not_made(self) -> None:
        one = NoisyRelease(1.0, frozenset({"ann"}))
        require_budget([one], one, DELTA, limit=7.1)
        with pytest.raises(NotAllowed, match=r"to ε = 7\.08; the policy allows 7\. Begin an epoch with other members"):
            require_budget([one], one, DELTA, limit=7.0)


def canary_scores(terms: DpTerms, runs: int, members: int = 2000, noisy: bool = True) -> Iterator[tuple[float, bool]]:
    """Releases under attack: each member is a canary that sends a whole clip along an axis of its own, or nothing, by
    the toss of a coin. What the attacker reads of it is the release along that axis.
    """
    rng = np.random.default_rng(1)
    for _ in range(runs):
        taken = rng.random(members) < 0.5
        updates = (np.eye(1, members, axis)[0] * terms.grid.clip * there for axis, there in enumerate(taken))
        noise = discrete_gaussian if noisy else without_noise
        yield from zip(release(updates, members, terms, members, noise), taken, strict=True)


def audited_epsilon(scores: list[tuple[float, bool]], delta: float, mistrust: float = 1e-3) -> float:
    """A lower bound on ε that holds but for ``mistrust``: the best threshold test's error rates, bounded after Clopper
    and Pearson (Jagielski et al. 2020, Nasr et al. 2021). The threshold is chosen on one half, judged on the other.
    """
    values, there = (np.array(column) for column in zip(*scores, strict=True))
    half = len(values) // 2

    def bound(threshold: float, part: slice, level: float) -> float:
        said, truth = values[part] > threshold, there[part].astype(bool)
        hits, alarms, yes, no = said[truth].sum(), said[~truth].sum(), truth.sum(), (~truth).sum()
        least = beta.ppf(level, hits, yes - hits + 1) if hits else 0.0
        most = beta.ppf(1 - level, alarms + 1, no - alarms) if alarms < no else 1.0
        return math.log(max(least - delta, 1e-300) / most)

    thresholds = np.quantile(values, np.linspace(0.4, 0.9995, 60))
    best = max(thresholds, key=lambda t: bound(t, slice(half), mistrust / 120))
    return bound(best, slice(half, None), mistrust / 2)


class TestAudit:
    @pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
    def test_an_attack_on_real_releases_stays_under_the_published_epsilon(self, sigma: float) -> None:
        terms = TERMS.model_copy(update={"noise": sigma})
        found = audited_epsilon(list(canary_scores(terms, runs=15)), DELTA)
        assert 0.2 * epsilon_of([sigma], DELTA) < found < epsilon_of([sigma], DELTA)

    def test_the_same_attack_finds_what_is_not_covered(self) -> None:
        """Without noise every canary is seen: the bound is only the number of tries', and far above any σ's ε."""
        found = audited_epsilon(list(canary_scores(TERMS, runs=15, noisy=False)), DELTA)
        assert found > 6 > 1.2 * epsilon_of([1.0], DELTA)

    def test_the_attack_would_notice_a_quarter_of_the_noise(self) -> None:
        """An audit that finds nothing wrong must be able to: releases with σ = 0.5 claimed to have had σ = 2."""
        terms = TERMS.model_copy(update={"noise": 0.5})
        assert audited_epsilon(list(canary_scores(terms, runs=15)), DELTA) > epsilon_of([2.0], DELTA)

    def test_two_releases_tell_more_than_one_and_the_account_says_so(self) -> None:
        """A removal publishes those who stay once more: an attacker adds both releases up."""
        terms = TERMS.model_copy(update={"noise": 1.0})
        once, again = (list(canary_scores(terms, runs=15)) for _ in range(2))
        both = [(a + b, there) for (a, there), (b, _) in zip(once, again, strict=True)]
        history = [NoisyRelease(1.0, frozenset({"ann"}))] * 2
        assert audited_epsilon(once, DELTA) < audited_epsilon(both, DELTA) < spent(history, DELTA).epsilon
