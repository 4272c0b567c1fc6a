"""Rounds that an admin pauses, resumes, extends or hurries, and contributions that are set aside and accepted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from private_parts import AT, SECRET_PLAN
from round_parts import PLAN
from steered_parts import ADMIN, SteeredRound

from coordinator.database import SecretSumRow
from coordinator.rounds.transitions import RoundState, Step
from coordinator.watching.lapses import Lapse
from protocol.acts import (
    AcceptContribution,
    AdminAct,
    CancelRound,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    RemoveContribution,
    ResumeRound,
)
from protocol.errors import Conflict, NotFound


@pytest.fixture
def here(tmp_path: Path) -> Iterator[SteeredRound]:
    running = SteeredRound(tmp_path, PLAN, count=3)
    yield running
    running.database.close()


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[SteeredRound]:
    running = SteeredRound(tmp_path, SECRET_PLAN, count=4)
    yield running
    running.database.close()


def do(here: SteeredRound, order: AdminAct) -> None:
    act = {
        PauseRound: here.steering.pause,
        ResumeRound: here.steering.resume,
        ExtendRound: here.steering.extend,
        PublishRound: here.steering.publish,
        QuarantineContribution: here.steering.quarantine,
        AcceptContribution: here.steering.accept,
        CancelRound: here.ledger.cancel,
        RemoveContribution: here.ledger.remove,
    }[type(order)]
    act(order, "0x", AT)  # type: ignore[operator]


def pause(here: SteeredRound) -> None:
    do(here, here.order(PauseRound, reason="The disk is full."))


def resume(here: SteeredRound) -> None:
    do(here, here.order(ResumeRound))


def set_aside(here: SteeredRound, contribution_id: str) -> None:
    do(here, here.order(QuarantineContribution, contribution_id=contribution_id, reason="Odd norm."))


def accept(here: SteeredRound, contribution_id: str) -> None:
    do(here, here.order(AcceptContribution, contribution_id=contribution_id))


# Pause ----------------------------------------------------------------------------------------------------------------


def test_a_paused_round_stands_still_and_keeps_what_is_sent(here: SteeredRound) -> None:
    task, deadline = here.task(), here.ledger.facts(here.round_id).deadline
    here.contribute(0)
    made = here.made(1)
    pause(here)
    assert here.exchange.next_task() is None, "nobody is asked for anything new"
    here.ledger.receive(here.round_id, here.members[1].grant.node_key, made, here.layers)
    assert here.exchange.wanted(2, task), "a machine that is at work may still answer"
    assert here.wait(10 * here.plan.deadline_seconds) == RoundState.TRAINING
    resume(here)
    assert here.ledger.facts(here.round_id).deadline == deadline + 10 * here.plan.deadline_seconds
    assert here.task().task_id == task.task_id
    assert len(here.states()) == 2
    assert here.wait(here.plan.deadline_seconds) == RoundState.MERGING


def test_no_step_that_was_due_before_a_pause_is_taken_within_it(here: SteeredRound) -> None:
    here.contribute(0)
    pause(here)
    for taken in (
        lambda: here.ledger.move(here.round_id, Step(RoundState.MERGING, "")),
        lambda: here.ledger.set_candidates(here.round_id, [], "0"),
        here.publish,
    ):
        with pytest.raises(Conflict, match="is paused"):
            taken()


def test_the_time_to_score_waits_as_well(here: SteeredRound) -> None:
    for number in range(3):
        here.contribute(number)
    here.go()
    assert here.merge() == RoundState.SCORING
    here.score(0)
    pause(here)
    here.now += 1000
    here.score(1)
    resume(here)
    assert here.go() == RoundState.SCORING
    assert here.wait(60) == RoundState.PUBLISHING


def test_the_time_to_answer_in_a_secret_sum_waits_as_well(secret: SteeredRound) -> None:
    with secret.database.reading() as session:
        since = session.get_one(SecretSumRow, secret.round_id).since
    pause(secret)
    secret.now += 500
    resume(secret)
    with secret.database.reading() as session:
        assert session.get_one(SecretSumRow, secret.round_id).since == since + 500


def test_a_round_is_paused_once_and_resumed_once(here: SteeredRound) -> None:
    with pytest.raises(Conflict, match="is not paused"):
        resume(here)
    pause(here)
    with pytest.raises(Conflict, match="paused already"):
        pause(here)
    for kind, more in ((ExtendRound, {"deadline": here.now + 10**5}), (PublishRound, {})):
        with pytest.raises(Conflict, match="Resume it first"):
            do(here, here.order(kind, **more))
    do(here, here.order(CancelRound, reason="It was a mistake."))
    assert here.state == RoundState.CANCELLED
    with pytest.raises(Conflict, match="has ended"):
        resume(here)


def test_a_removal_is_not_paused(here: SteeredRound) -> None:
    released(here)
    first = min(here.states())
    removal = here.ledger.end_contributions([Lapse(first, "0x", None, "Sold.")], AT)
    assert removal
    with pytest.raises(Conflict, match="removal is not paused"):
        do(here, here.order(PauseRound, round_id=removal, reason="No."))


# Extend ---------------------------------------------------------------------------------------------------------------


def test_a_round_in_training_waits_until_its_later_deadline(here: SteeredRound) -> None:
    here.contribute(0)
    here.contribute(1)
    do(here, here.order(ExtendRound, deadline=here.now + 2 * here.plan.deadline_seconds))
    assert here.wait(here.plan.deadline_seconds) == RoundState.TRAINING
    assert here.wait(here.plan.deadline_seconds) == RoundState.MERGING
    [told] = here.told("round.extended")
    assert told.body["deadline"] - told.body["before"] == here.plan.deadline_seconds


def test_a_deadline_is_only_ever_moved_to_later_while_a_grant_is_good(here: SteeredRound) -> None:
    now, ends = here.ledger.facts(here.round_id).deadline, here.members[0].grant.expires
    for deadline, why in ((now, "not later"), (now - 1, "not later"), (ends + 1, "No grant")):
        with pytest.raises(Conflict, match=why):
            do(here, here.order(ExtendRound, deadline=deadline))
    do(here, here.order(ExtendRound, deadline=ends))
    for number in range(3):
        here.contribute(number)
    with pytest.raises(Conflict, match="No grant") as refused:
        do(here, here.order(ExtendRound, deadline=ends + 1))
    assert "waits for nobody" in refused.value.hint
    here.go()
    with pytest.raises(Conflict, match="only training"):
        do(here, here.order(ExtendRound, deadline=ends + 2))


# Publish --------------------------------------------------------------------------------------------------------------


def test_an_admin_ends_the_wait_for_contributions_at_quorum_and_not_before(here: SteeredRound) -> None:
    here.contribute(0)
    with pytest.raises(Conflict, match="has 1 contribution, and the quorum is 2"):
        do(here, here.order(PublishRound))
    here.contribute(1)
    do(here, here.order(PublishRound))
    assert here.state == RoundState.MERGING
    with pytest.raises(Conflict, match="waits for no member"):
        do(here, here.order(PublishRound))
    assert here.merge() == RoundState.SCORING
    with pytest.raises(Conflict, match="Nobody has scored"):
        do(here, here.order(PublishRound))
    here.score(1)
    do(here, here.order(PublishRound))
    assert here.state == RoundState.PUBLISHING
    assert ADMIN in here.told("round.publishing")[0].body["message"]


def test_nobody_hurries_a_secret_sum(secret: SteeredRound) -> None:
    with pytest.raises(Conflict, match="ends each exchange by itself"):
        do(secret, secret.order(PublishRound))


# Set aside and accept -------------------------------------------------------------------------------------------------


def released(here: SteeredRound) -> list[str]:
    made = [here.contribute(number) for number in range(3)]
    here.go()
    here.merge()
    for number in range(3):
        here.score(number)
    here.go()
    here.publish()
    return made


def test_what_is_set_aside_is_kept_not_merged_and_not_asked_for_again(here: SteeredRound) -> None:
    first, *_ = (here.contribute(number) for number in range(3))
    set_aside(here, first)
    assert not here.exchange.wanted(0, here.task())
    assert here.go() == RoundState.MERGING
    assert {one.contribution_id for one in here.ledger.live_contributions(here.round_id)} == set(here.states()) - {
        first
    }
    assert here.merge() == RoundState.SCORING
    accept(here, first)
    assert here.go() == RoundState.MERGING, "it is merged again, with all"
    assert here.merge() == RoundState.SCORING and first in here.merged()


def test_a_candidate_that_holds_what_is_set_aside_is_merged_again_without_it(here: SteeredRound) -> None:
    first, *_ = [here.contribute(number) for number in range(3)]
    here.go()
    here.merge()
    set_aside(here, first)
    assert here.go() == RoundState.MERGING
    assert here.merge() == RoundState.SCORING and first not in here.merged()
    for number in (1, 2):
        here.score(number)
    assert here.go() == RoundState.PUBLISHING
    here.publish()
    assert here.states()[first] == "quarantined"
    accept(here, first)
    assert here.states()[first] == "live", "the next round merges it"


def test_what_is_set_aside_does_not_make_a_quorum_and_the_round_waits_for_its_acceptance(here: SteeredRound) -> None:
    first = here.contribute(0)
    here.contribute(1)
    here.exchange.receive(here.task(), 2, {"declined": "No."})
    set_aside(here, first)
    assert here.go() == RoundState.TRAINING
    with pytest.raises(Conflict, match="the quorum is 2"):
        do(here, here.order(PublishRound))
    accept(here, first)
    assert here.go() == RoundState.MERGING
    with pytest.raises(Conflict, match="its quorum is 2") as refused:
        set_aside(here, first)
    assert "Pause the round" in refused.value.hint


def test_at_the_deadline_what_is_set_aside_is_named_among_the_missing(here: SteeredRound) -> None:
    set_aside(here, here.contribute(0))
    here.contribute(1)
    assert here.wait(here.plan.deadline_seconds) == RoundState.FAILED
    [told] = here.told("round.failed")
    assert f"{here.members[0].grant.member} (set aside by an admin)" in told.body["message"]


def test_what_is_released_is_removed_and_not_set_aside(here: SteeredRound) -> None:
    first, *_ = released(here)
    with pytest.raises(Conflict, match="in a release already") as refused:
        set_aside(here, first)
    assert "Remove it" in refused.value.hint
    with pytest.raises(Conflict, match="only what is set aside"):
        accept(here, first)


def test_what_is_set_aside_ends_like_any_other_and_is_not_accepted_then(here: SteeredRound) -> None:
    first = here.contribute(0)
    set_aside(here, first)
    with pytest.raises(Conflict, match="is quarantined already"):
        set_aside(here, first)
    do(here, here.order(RemoveContribution, contribution_id=first, reason="Not theirs."))
    assert here.states()[first] == "dead"
    with pytest.raises(Conflict, match="is dead"):
        accept(here, first)
    with pytest.raises(NotFound, match="no contribution"):
        set_aside(here, "0" * 16)


# Too few --------------------------------------------------------------------------------------------------------------


def test_a_round_without_quorum_says_who_was_missing_and_why(here: SteeredRound) -> None:
    zero, one, two = (member.grant.member for member in here.members)
    here.exchange.receive(here.task(), 0, {"declined": "No room on the disk."})
    here.exchange.asked(here.task(), 1)
    assert here.wait(here.plan.deadline_seconds) == RoundState.FAILED
    [told] = here.told("round.failed")
    for said in (
        "The deadline has passed with 0 of 2 contributions. The quorum is 2.",
        f"{zero} (the member declined: No room on the disk)",
        f"{one} (has not answered)",
        f"{two} (its machine was not seen)",
    ):
        assert said in told.body["message"], told.body["message"]
    assert {each["member"] for each in told.body["missing"]} == {zero, one, two} and told.body["quorum"] == 2


def test_a_machine_that_kept_failing_is_named_with_its_own_words(here: SteeredRound) -> None:
    here.exchange.asked(here.task(), 1)
    here.exchange.failed(here.task(), 1, "Out of memory.")
    here.wait(here.plan.deadline_seconds)
    [told] = here.told("round.failed")
    assert f"{here.members[1].grant.member} (its machine failed: out of memory)" in told.body["message"]


def test_a_secret_sum_without_quorum_names_who_did_not_answer(secret: SteeredRound) -> None:
    task = secret.task()
    for number in range(2):
        secret.exchange.receive(task, number, secret.reply(number, task))
    assert secret.wait(secret.plan.deadline_seconds) == RoundState.FAILED
    [told] = secret.told("round.failed")
    missing = {each["member"] for each in told.body["missing"]}
    assert missing == {member.grant.member for member in secret.members[2:]}
