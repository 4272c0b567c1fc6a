"""How far a machine is: what the message may say, and who may have said it. Everything here is real but the clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dao_parts import Dao, two_members
from pydantic import ValidationError
from werkzeug.test import TestResponse

from coordinator.database import AnswerRow, EventRow, ProgressRow
from coordinator.rounds.progress import LEAST_SECONDS, OLD_SECONDS, Reached, reached
from coordinator.rounds.queries import round_row
from protocol import node_key
from protocol.progress import Progress, Stage


@pytest.fixture
def dao(tmp_path: Path) -> Iterator[Dao]:
    there = Dao(tmp_path)
    yield there
    there.service.database.close()


def message(dao: Dao, wallet: str, round_id: str, **changes: Any) -> Progress:
    """Alice's, say, at step 120 of 240; as late as the DAO's clock says."""
    given = {
        "round_id": round_id,
        "node_key": dao.members[wallet].node_key,
        "stage": Stage.TRAINING,
        "step": 120,
        "steps": 240,
        "seconds_left": 40,
        "at": dao.now * 1000,
    }
    return Progress(**{**given, **changes})


def tell(dao: Dao, told: Progress, signer: str, to: str = "", **headers: str) -> TestResponse:
    """The message, signed by this member's machine and sent to its round's address."""
    signature = node_key.sign(dao.folder / signer, told.canonical())
    body = {"progress": told.model_dump(mode="json"), "signature": signature}
    return dao.client.post(f"/api/v1/rounds/{to or told.round_id}/progress", json=body, headers=headers)


def known(dao: Dao, round_id: str) -> dict[str, Reached]:
    with dao.service.database.reading() as session:
        return reached(session, round_row(session, round_id), dao.now)


# What it may say ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [{"loss": 0.5}, {"name": "gpu-box"}, {"path": "/home/a"}, {"note": "My cat.png"}])
def test_a_message_holds_counters_and_nothing_else(said: dict[str, Any]) -> None:
    told = {"round_id": "r", "node_key": "02" + "a" * 96, "stage": "training", "step": 1, "steps": 2}
    told |= {"seconds_left": None, "at": 3}
    assert Progress.model_validate(told)
    with pytest.raises(ValidationError):
        Progress.model_validate({**told, **said})


@pytest.mark.parametrize(
    "said", [{"stage": "my cat"}, {"step": -1}, {"steps": 10**12}, {"step": 0.5}, {"seconds_left": -1}, {"at": 2**60}]
)
def test_a_counter_that_is_none_is_refused(said: dict[str, Any]) -> None:
    told = {"round_id": "r", "node_key": "02" + "a" * 96, "stage": "training", "step": 1, "steps": 2}
    with pytest.raises(ValidationError):
        Progress.model_validate({**told, "seconds_left": 3, "at": 3, **said})


# Who may say it -------------------------------------------------------------------------------------------------------


def test_the_newest_message_of_a_machine_counts(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    first = tell(dao, message(dao, alice, round_id), alice)
    assert (first.status_code, first.json) == (200, {"round_id": round_id, "next_in": LEAST_SECONDS})
    dao.now += 10
    assert tell(dao, message(dao, alice, round_id, step=150, seconds_left=None), alice).status_code == 200
    dao.now += 3
    assert known(dao, round_id) == {dao.members[alice].node_key: Reached(Stage.TRAINING, 150, 240, None, 3)}


def test_a_message_that_another_key_signed_or_that_was_changed_is_refused(dao: Dao) -> None:
    alice, bob = two_members(dao)
    round_id = dao.start_round()
    told = message(dao, alice, round_id)
    signature = node_key.sign(dao.folder / alice, told.canonical())
    changed = {"progress": told.model_copy(update={"step": 239}).model_dump(mode="json"), "signature": signature}
    for refused in (tell(dao, told, bob), dao.client.post(f"/api/v1/rounds/{round_id}/progress", json=changed)):
        assert (refused.status_code, refused.json["code"]) == (403, "not-allowed")
        assert "not signed with the node key" in refused.json["detail"]
    assert known(dao, round_id) == {}


def test_an_older_message_never_takes_the_place_of_a_newer(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    old = message(dao, alice, round_id, step=1)
    dao.now += 60
    assert tell(dao, message(dao, alice, round_id), alice).status_code == 200
    dao.now += 60
    again = tell(dao, old, alice)
    assert (again.status_code, again.json["code"]) == (409, "conflict")
    assert known(dao, round_id)[old.node_key].step == 120


def test_a_message_is_for_the_round_that_it_names(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    astray = tell(dao, message(dao, alice, "another"), alice, to=round_id)
    assert (astray.status_code, astray.json["code"]) == (400, "bad-input")
    nowhere = tell(dao, message(dao, alice, "another"), alice)
    assert (nowhere.status_code, nowhere.json["code"]) == (404, "not-found")


def test_a_machine_that_the_round_asks_nothing_of_is_not_heard(dao: Dao) -> None:
    two_members(dao)
    round_id = dao.start_round()
    node_key.create(dao.folder / "stranger")
    public = node_key.public_of(dao.folder / "stranger")
    told = message(dao, next(iter(dao.members)), round_id, node_key=public)
    for one in (told, told.model_copy(update={"stage": Stage.SCORING})):
        answer = tell(dao, one, "stranger")
        assert (answer.status_code, known(dao, round_id)) == (403 if one is told else 409, {})


def test_whoever_tells_too_often_is_told_to_wait(dao: Dao) -> None:
    alice, bob = two_members(dao)
    round_id = dao.start_round()
    assert tell(dao, message(dao, alice, round_id), alice).status_code == 200
    dao.now += LEAST_SECONDS - 1
    hasty = tell(dao, message(dao, alice, round_id, step=130), alice)
    assert (hasty.status_code, hasty.json["code"]) == (429, "too-many")
    assert tell(dao, message(dao, bob, round_id), bob).status_code == 200, "another machine has its own time"
    dao.now += 1
    assert tell(dao, message(dao, alice, round_id, step=130), alice).status_code == 200


# When it is worth something -------------------------------------------------------------------------------------------


def test_once_the_contribution_is_here_nobody_waits_for_progress(dao: Dao) -> None:
    alice, bob = two_members(dao)
    round_id = dao.start_round()
    assert tell(dao, message(dao, bob, round_id), bob).status_code == 200
    dao.contribute(round_id, alice)
    late = tell(dao, message(dao, alice, round_id, stage=Stage.STATISTICS), alice)
    assert (late.status_code, late.json["code"]) == (409, "conflict") and "contribution" in late.json["detail"]
    dao.contribute(round_id, bob)
    dao.step(round_id)
    assert known(dao, round_id) == {}, "the round does something else now"
    assert tell(dao, message(dao, bob, round_id, at=2**50), bob).status_code == 409


def test_whoever_scores_tells_until_the_scores_are_here(dao: Dao) -> None:
    alice, bob = two_members(dao)
    round_id = dao.start_round()
    for one in (alice, bob):
        dao.contribute(round_id, one)
    dao.step(round_id)
    live = dao.ledger.live_contributions(round_id)
    scoring = {"stage": Stage.SCORING, "step": 1, "steps": 5}
    assert tell(dao, message(dao, alice, round_id, **scoring), alice).status_code == 409, "still merging"
    dao.ledger.set_candidates(round_id, [one.contribution_id for one in live], "ab" * 32)
    assert tell(dao, message(dao, alice, round_id, **scoring), alice).status_code == 200
    assert tell(dao, message(dao, bob, round_id), bob).status_code == 409, "training is over"
    assert [one.stage for one in known(dao, round_id).values()] == [Stage.SCORING]


def test_progress_is_in_no_log_and_goes_with_its_round(dao: Dao) -> None:
    alice, bob = two_members(dao)
    first = dao.start_round()
    with dao.service.database.reading() as session:
        before = session.query(EventRow).count()
    keyed = tell(dao, message(dao, alice, first), alice, **{"Idempotency-Key": "again"})
    assert keyed.status_code == 200
    with dao.service.database.reading() as session:
        assert (session.query(EventRow).count(), session.query(AnswerRow).count()) == (before, 0)
    for one in (alice, bob):
        dao.contribute(first, one)
    dao.step(first)
    dao.publish(first)
    dao.now += 60
    second = dao.start_round()
    assert tell(dao, message(dao, alice, second), alice).status_code == 200
    with dao.service.database.reading() as session:
        assert [row.round_id for row in session.query(ProgressRow)] == [second]


def test_what_is_left_shrinks_while_a_machine_says_nothing_and_is_not_known_after_a_minute() -> None:
    told = Reached(Stage.TRAINING, 120, 240, 40, 0)
    assert [Reached(told.stage, 120, 240, 40, ago).left for ago in (0, 6, 50, OLD_SECONDS + 1)] == [40, 34, 0, None]
    assert Reached(told.stage, 120, 240, None, 0).left is None
    waits = Reached(told.stage, 240, 240, 1, 3600)
    assert (waits.left, waits.is_old) == (0, False), "who is done has nothing to tell while others train"
