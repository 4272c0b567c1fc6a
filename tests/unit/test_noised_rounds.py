"""A ``dp`` round: clipped, added up, covered by noise, and silent about everything else."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from private_parts import BASE, NOISED_PLAN, POLICY, PrivateRound

from coordinator.aggregation.private import discrete_gaussian
from coordinator.rounds import private
from coordinator.rounds.candidate import MEAN, Candidates, keep, read
from coordinator.rounds.checks import fixed_factors
from coordinator.rounds.transitions import RoundState, Step
from protocol.canonical import sha256
from protocol.contribution import StatisticsRecipe, Training
from protocol.errors import ContributionRefused, NotAllowed
from protocol.modes import FloatArray, IntArray
from protocol.update import SALT_BYTES, dump_update, load_update

RECIPE = StatisticsRecipe(pictures=1, sampling_steps=1, noise_levels=1, seed=0, rank=4)
TRAINING = Training(steps=1, seconds=1.0, device="cpu", first_loss=1.0, last_loss=0.5)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[PrivateRound]:
    running = PrivateRound(tmp_path, NOISED_PLAN, count=3)
    yield running
    running.database.close()


def silence(size: int, deviation: float) -> IntArray:
    """Not noise: for tests that look at what lies under it."""
    return np.zeros(size, np.int64)


def merged(here: PrivateRound, noise: object = discrete_gaussian) -> Candidates:
    live = here.ledger.live_contributions(here.round_id)
    updates = {one.contribution_id: one.adapter for one in live}
    return private.noised(updates, here.plan, here.factors, noise)  # type: ignore[arg-type]


def numbers(here: PrivateRound, made: Candidates) -> FloatArray:
    return here.factors.flat({name: factors.b for name, factors in made.merged.adapter.items()})


def test_the_mean_is_of_the_clipped_updates_and_everybody_weighs_the_same(here: PrivateRound) -> None:
    here.answer(0, 1, 2)
    grid = here.plan.grid
    expected = sum(grid.value(grid.whole(m.update.astype(np.float32).astype(float))) for m in here.members) / 3
    assert np.allclose(numbers(here, merged(here, silence)), expected, atol=2 * grid.step)
    assert {one.weight for one in merged(here).merged.accounts.values()} == {1}


def test_each_merge_draws_noise_of_its_own(here: PrivateRound) -> None:
    pytest.importorskip("opendp")
    here.answer(0, 1, 2)
    bare, one, other = (numbers(here, merged(here, noise)) for noise in (silence, discrete_gaussian, discrete_gaussian))
    deviation = here.plan.noise * here.plan.clip / 3
    assert 0.8 * deviation < np.std(one - bare) < 1.2 * deviation
    assert not np.allclose(one, other)


def test_the_round_goes_on_to_publishing_without_asking_for_scores(here: PrivateRound) -> None:
    assert here.answer(0, 1, 2) == RoundState.MERGING
    kept = keep(here.folder / "candidates", merged(here, silence))
    ids = [one.contribution_id for one in here.ledger.live_contributions(here.round_id)]
    here.ledger.set_candidates(here.round_id, ids, kept)
    assert here.go() == RoundState.PUBLISHING
    assert here.exchange.next_task() is None
    again = read(here.folder / "candidates", kept)
    assert (again.names, again.merged.commitment) == ((MEAN,), None)
    assert {account.norm for account in again.merged.accounts.values()} == {None}


def test_an_update_that_is_not_finite_counts_as_zero_and_nobody_is_told(here: PrivateRound) -> None:
    here.answer(0)
    broken = here.noised_reply(1, np.full(here.factors.size, np.nan))
    here.exchange.receive(here.task(), 1, broken)
    here.answer(2)
    assert here.state == RoundState.MERGING, "a refusal would tell of the update"
    grid = here.plan.grid
    kept = [grid.value(grid.whole(here.members[n].update.astype(np.float32).astype(float))) for n in (0, 2)]
    assert np.allclose(numbers(here, merged(here, silence)), sum(kept) / 3, atol=2 * grid.step)


def test_an_update_of_another_length_is_refused(here: PrivateRound) -> None:
    with pytest.raises(ContributionRefused, match=r"has \d+ bytes; the round's has"):
        here.exchange.receive(here.task(), 0, here.noised_reply(0, np.zeros(5)))


@pytest.mark.parametrize("told", [{"training": TRAINING}, {"recipe": RECIPE}, {"statistics_sha256": "a" * 64}])
def test_a_header_that_tells_more_of_the_update_is_refused(here: PrivateRound, told: dict[str, object]) -> None:
    member, sent = here.members[0], dump_update(here.members[0].update)
    header = here.header(member, sha256(sent)).model_copy(update=told)
    reply = {"header": header.canonical(), "signature": member.sign(header.canonical()), "adapter": sent}
    with pytest.raises(ContributionRefused, match=r"tells more than a dp round takes"):
        here.exchange.receive(here.task(), 0, reply | {"statistics": b"x"})


def test_the_published_hash_cannot_be_tried_against_a_guess() -> None:
    update = np.arange(4.0)
    one, other = dump_update(update), dump_update(update)
    assert one != other and one[SALT_BYTES:] == other[SALT_BYTES:]
    assert np.array_equal(load_update(one, 4), update)
    with pytest.raises(ContributionRefused):
        load_update(one, 5)


def test_a_round_that_would_spend_more_than_the_policy_s_epsilon_does_not_open(tmp_path: Path) -> None:
    pytest.importorskip("opendp")
    loud = NOISED_PLAN.model_copy(update={"noise": 0.3})
    with pytest.raises(NotAllowed, match=r"ε = .*; the policy allows 2"):
        PrivateRound(tmp_path, loud, count=3, policy=POLICY.model_copy(update={"epsilon_limit": 2.0}))


@pytest.mark.parametrize(("change", "taken"), [({"noise": 3.0}, 4), ({"rank": 1}, 1)])
def test_only_what_was_trained_between_the_same_factors_adds_up(
    here: PrivateRound, change: dict[str, object], taken: int
) -> None:
    here.answer(0, 1, 2)
    here.ledger.move(here.round_id, Step(RoundState.FAILED, "The disk is full."))
    here.plan = here.plan.model_copy(update={"quorum": 1, **change})
    here.factors = fixed_factors(here.layers, BASE, here.plan)
    here.members = here.members[:3]
    here._join(3)
    here.open("a second order")
    here.answer(3)
    here.wait(here.plan.deadline_seconds)
    assert len(here.ledger.live_contributions(here.round_id)) == taken
