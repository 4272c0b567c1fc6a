"""When a round moves on: pure questions to the state machine."""

from dataclasses import replace
from itertools import product

import pytest

from coordinator.rounds.transitions import (
    ALLOWED,
    ENDED,
    NAMED,
    Absent,
    RoundKind,
    RoundState,
    Standing,
    next_step,
    require_allowed,
)
from protocol.errors import Conflict

TRAINING = Standing(
    kind=RoundKind.TRAINING,
    state=RoundState.TRAINING,
    now=100,
    deadline=1000,
    quorum=2,
    expected=frozenset("abc"),
    contributed=frozenset("ab"),
    live=frozenset({"1", "2"}),
)
SCORING = replace(
    TRAINING,
    state=RoundState.SCORING,
    merged=frozenset({"1", "2"}),
    scorers=frozenset("ab"),
    scoring_ends=200,
)


def test_an_open_round_goes_on_to_training() -> None:
    step = next_step(replace(TRAINING, state=RoundState.OPEN, contributed=frozenset()))
    assert step and step.to is RoundState.TRAINING


def test_training_waits_for_a_member_who_has_not_contributed() -> None:
    assert next_step(TRAINING) is None


def test_training_ends_as_soon_as_everyone_has_contributed() -> None:
    step = next_step(replace(TRAINING, contributed=frozenset("abc")))
    assert step and step.to is RoundState.MERGING


def test_a_member_who_declined_is_not_waited_for() -> None:
    step = next_step(replace(TRAINING, expected=frozenset("ab")))
    assert step and step.to is RoundState.MERGING


def test_the_deadline_ends_training_when_the_quorum_is_there() -> None:
    step = next_step(replace(TRAINING, now=1000))
    assert step and step.to is RoundState.MERGING
    assert "2 of 3" in step.reason


def test_the_deadline_without_quorum_fails_the_round_and_says_so() -> None:
    step = next_step(replace(TRAINING, now=1000, contributed=frozenset("a")))
    assert step and step.to is RoundState.FAILED
    assert "1 of 3" in step.reason and "quorum is 2" in step.reason


def test_a_round_that_everyone_declined_fails_at_once() -> None:
    step = next_step(replace(TRAINING, expected=frozenset(), contributed=frozenset()))
    assert step and step.to is RoundState.FAILED


def test_merging_is_the_worker_s_to_do_while_something_is_live() -> None:
    assert next_step(replace(TRAINING, state=RoundState.MERGING)) is None


@pytest.mark.parametrize("state", [RoundState.MERGING, RoundState.SCORING, RoundState.PUBLISHING])
def test_a_round_with_no_live_contribution_left_fails_with_the_reason(state: RoundState) -> None:
    step = next_step(replace(SCORING, state=state, live=frozenset()))
    assert step and step.to is RoundState.FAILED
    assert "No live contribution" in step.reason


@pytest.mark.parametrize("state", [RoundState.SCORING, RoundState.PUBLISHING])
def test_a_contribution_that_dies_after_the_merge_sends_the_round_back_to_it(state: RoundState) -> None:
    step = next_step(replace(SCORING, state=state, live=frozenset({"1"})))
    assert step and step.to is RoundState.MERGING


def test_scoring_waits_until_its_time_is_up() -> None:
    assert next_step(replace(SCORING, scored=frozenset("a"))) is None
    step = next_step(replace(SCORING, scored=frozenset("a"), now=200))
    assert step and step.to is RoundState.PUBLISHING


def test_scoring_ends_when_everyone_has_scored() -> None:
    step = next_step(replace(SCORING, scored=frozenset("ab")))
    assert step and step.to is RoundState.PUBLISHING


def test_a_training_round_that_nobody_scores_fails_at_its_deadline() -> None:
    assert next_step(replace(SCORING, now=999)) is None
    step = next_step(replace(SCORING, now=1000))
    assert step and step.to is RoundState.FAILED


def test_a_removal_that_nobody_scores_waits_until_someone_does() -> None:
    removal = replace(SCORING, kind=RoundKind.REMOVAL, now=10**9)
    assert next_step(removal) is None
    step = next_step(replace(removal, scored=frozenset("b")))
    assert step and step.to is RoundState.PUBLISHING


def test_a_candidate_that_every_member_declined_to_score_fails() -> None:
    step = next_step(replace(SCORING, scorers=frozenset()))
    assert step and step.to is RoundState.FAILED


def test_a_removal_that_another_release_has_made_needless_is_cancelled() -> None:
    step = next_step(replace(SCORING, kind=RoundKind.REMOVAL, state=RoundState.MERGING, needless=True))
    assert step and step.to is RoundState.CANCELLED


@pytest.mark.parametrize("state", sorted(ENDED))
def test_an_ended_round_stays_ended(state: RoundState) -> None:
    assert next_step(replace(SCORING, state=state)) is None


def test_every_step_is_one_that_rounds_may_make() -> None:
    cases = product(RoundState, RoundKind, (100, 10**6), ("", "a", "ab"), ("", "1", "12"))
    for state, kind, now, scored, live in cases:
        standing = replace(SCORING, state=state, kind=kind, now=now, scored=frozenset(scored), live=frozenset(live))
        step = next_step(standing)
        if step:
            require_allowed(state, step.to)


def test_a_paused_round_takes_no_step() -> None:
    for state, now in product(RoundState, (100, 10**6)):
        assert next_step(replace(SCORING, state=state, now=now, paused=True)) is None


def test_what_is_set_aside_is_not_awaited_and_not_counted() -> None:
    one_aside = replace(TRAINING, contributed=frozenset("ab"), set_aside=frozenset("c"))
    step = next_step(one_aside)
    assert step and step.to is RoundState.MERGING
    short = replace(one_aside, contributed=frozenset("a"), set_aside=frozenset("bc"))
    assert next_step(short) is None, "it may be accepted until the deadline"
    step = next_step(replace(short, now=1000))
    assert step and step.to is RoundState.FAILED


def test_a_long_list_of_the_missing_is_cut_in_the_sentence_and_whole_in_the_event() -> None:
    absent = tuple(Absent(f"0x{n:02}", "its machine was not seen") for n in range(NAMED + 3))
    step = next_step(replace(TRAINING, now=1000, contributed=frozenset(), absent=absent))
    assert step and step.reason.endswith(f"0x{NAMED - 1:02} (its machine was not seen) and 3 more.")
    assert len(step.facts["missing"]) == NAMED + 3  # type: ignore[arg-type]


def test_a_move_that_no_round_makes_is_refused() -> None:
    with pytest.raises(Conflict, match="published does not become training"):
        require_allowed(RoundState.PUBLISHED, RoundState.TRAINING)
    assert set(ALLOWED) == set(RoundState)
