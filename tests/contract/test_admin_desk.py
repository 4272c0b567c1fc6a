"""The admins' desk over HTTP and on a real chain: who may look, what a round would be, and what is ordered."""

from __future__ import annotations

import json
import os
import time
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from conftest import Chain
from eth_account import Account
from round_parts import PLAN, write_small_base
from test_coordinator_api import ADMIN, ALICE, BOB, CAROL, NOBODY, Coordinator, opened, policy_of, score, train
from test_coordinator_api import here as here  # the fixture

from contracts_abi.rpc import Rpc
from coordinator.database import ProgressRow
from coordinator.web.desk.plan_form import FIELDS, read, written
from coordinator.web.desk.seats import Seats
from coordinator.web.proposals import KINDS
from deploy.devchain.safes import Safes
from protocol import node_key
from protocol.errors import Unreachable
from protocol.grant import RoundPlan, sign
from protocol.policy import AdminSafe
from protocol.progress import Progress

pytestmark = pytest.mark.slow

ORIGIN = {"Origin": "https://nouns.example"}
BROWSER = {"Accept": "text/html,*/*;q=0.8"}
PAGES = ("", "/rounds/new", "/policy", "/removals", "/health")


def address(key: str) -> str:
    return str(Account.from_key(key).address)


class Desk:
    """A browser at the desk, signed in by a cookie as browsers are."""

    def __init__(self, here: Coordinator, key: str) -> None:
        self.here, self.session = here, {**here.sign_in(key), **BROWSER}

    def get(self, path: str = "", status: int = 200, **headers: str) -> str:
        answer = self.here.client.get(f"/admin{path}", headers={**self.session, **headers})
        assert answer.status_code == status, answer.get_data(as_text=True)
        return unescape(answer.get_data(as_text=True))

    def post(self, path: str, form: dict[str, str], status: int = 200, **headers: str) -> str:
        answer = self.here.client.post(f"/admin{path}", data=form, headers={**self.session, **ORIGIN, **headers})
        assert answer.status_code == status, answer.get_data(as_text=True)
        return unescape(answer.get_data(as_text=True))

    def order(self, kind: str, path: str, key: str = ADMIN, **fields: Any) -> Any:
        """What a button does: ask for the order, sign it, send it."""
        body = {"kind": kind, "fields": fields}
        asked = self.here.client.post("/api/v1/acts/typed-data", json=body, headers=self.session).json
        signature = sign(KINDS[kind].model_validate(asked["order"]), key)
        return self.here.client.post(f"/api/v1/{path}", json={kind: asked["order"], "signature": signature})


def plan(**changes: str) -> dict[str, str]:
    return {**written(PLAN), **changes}


# Who may look ---------------------------------------------------------------------------------------------------------


def test_who_is_not_signed_in_is_asked_to_sign_in(here: Coordinator) -> None:
    for page in (*PAGES, "/rounds/" + "ab" * 8, "/contributions/" + "ab" * 8):
        answer = here.client.get(f"/admin{page}", headers=BROWSER)
        assert answer.status_code == 401
        assert "Sign in with your wallet" in answer.get_data(as_text=True)
    assert here.client.get("/api/v1/health").status_code == 401
    assert here.client.post("/admin/rounds/new", data=plan()).status_code == 401


def test_a_member_is_told_who_is_admin_and_how_to_become_one(here: Coordinator) -> None:
    alice = Desk(here, ALICE)
    for page in PAGES:
        told = alice.get(page, 403)
        assert here.policy.admin.contract in told  # type: ignore[union-attr]
        assert "can make your wallet an admin" in told
    assert here.client.get("/api/v1/health", headers=alice.session).status_code == 403
    alice.post("/rounds/new", plan(), 403)
    alice.post("/health/pins", {}, 403)


def test_an_admin_sees_every_page(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    for page in PAGES:
        assert "You sit here as" in admin.get(page)


def test_without_the_chain_nobody_is_taken_for_an_admin(here: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Desk(here, ADMIN)
    monkeypatch.setattr(here.service, "settings", here.settings.model_copy(update={"rpc_url": "http://127.0.0.1:9"}))
    for page in PAGES:
        told = admin.get(page, 503)
        assert "No answer" in told and "You sit here as" not in told
    assert here.client.get("/api/v1/health", headers=admin.session).status_code == 503


def test_a_seat_is_remembered_for_some_seconds_and_asked_again_after(here: Coordinator) -> None:
    now = [0.0]
    seats, asked = Seats(lambda: now[0]), []

    def rpc() -> Any:
        asked.append(now[0])
        return here.service.rpc

    for now[0] in (0.0, 10.0, 20.0):
        assert seats.of(rpc, here.policy, address(ADMIN)).signs
    assert asked == [0.0, 20.0]


def test_when_the_chain_falls_silent_an_admin_goes_on_looking_for_a_while(here: Coordinator) -> None:
    now = [0.0]
    seats = Seats(lambda: now[0])
    assert seats.of(lambda: here.service.rpc, here.policy, address(ADMIN)).signs
    now[0] = 599.0
    assert seats.of(lambda: Rpc("http://127.0.0.1:9"), here.policy, address(ADMIN)).signs
    now[0] = 601.0
    with pytest.raises(Unreachable):
        seats.of(lambda: Rpc("http://127.0.0.1:9"), here.policy, address(ADMIN))
    with pytest.raises(Unreachable):
        seats.of(lambda: Rpc("http://127.0.0.1:9"), here.policy, address(ALICE))


def test_an_owner_of_the_dao_s_safe_looks_and_is_told_how_the_safe_orders(chain: Chain, tmp_path: Path) -> None:
    safes = Safes(chain.admin)
    safe = safes.deploy(safes.plan([address(ADMIN), address(ALICE)], 2, salt=77)).address
    chain.anvil.finalize()
    policy = policy_of(chain).model_copy(update={"admin": AdminSafe(safe=safe)})
    there = Coordinator(chain, tmp_path, write_small_base(tmp_path / "base"), policy)
    owner = Desk(there, ALICE)
    assert "an owner of the Safe" in owner.get()
    there.join(ALICE)
    there.join(BOB)
    page = owner.post("/rounds/new", plan())
    assert f"round start --admin {safe} --out order.json" in page and "Sign and start the round" not in page
    assert safe in Desk(there, BOB).get("", 403)
    there.service.database.close()


def test_a_form_posted_by_another_site_does_nothing(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    admin.post("/health/pins", {}, 403, Origin="https://evil.example")
    admin.post("/rounds/new", plan(), 403, Origin="null")


# Planning -------------------------------------------------------------------------------------------------------------


def test_every_field_of_a_plan_is_in_the_form_and_comes_back_as_it_was() -> None:
    assert set(FIELDS) == set(RoundPlan.model_fields)
    for one in (RoundPlan(), PLAN, RoundPlan(prior_captions=("a head", ""), score_influence=True, seed=7)):
        assert read(written(one)) == (one, {})


def test_before_anybody_has_granted_the_rehearsal_says_so(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    assert "The chain is asked" in admin.get("/rounds/new"), "the page is there before the chain has answered"
    page = admin.post("/rounds/new", plan())
    assert "0 members would take part" in page.replace("<strong>", "").replace("</strong>", "")
    assert "Nobody has a grant" in page
    assert "the quorum is 2" in page
    assert "Sign and start the round" not in page


def test_the_rehearsal_says_who_with_what_and_what_is_denied(here: Coordinator) -> None:
    for key in (ALICE, BOB):
        here.join(key)
    page = Desk(here, ADMIN).post("/rounds/new", plan(), **{"HX-Request": "true"})
    assert "<html" not in page, "htmx asks for the part alone"
    assert "2 members</strong> would take part with 12 tokens" in page
    assert page.count("takes part") == 2
    assert "Personal Nouns #0 #1 #2: " in page and "does not allow derivatives" in page
    assert "CBE-COMMERCIAL" in page, "the terms of the release"
    assert "Sign and start the round" in page


def test_the_rehearsal_asks_for_more_members_than_there_are(here: Coordinator) -> None:
    here.join(ALICE)
    page = Desk(here, ADMIN).post("/rounds/new", plan(quorum="3"))
    assert "1 member may take part at this block, and the quorum is 3." in page
    assert "Sign and start the round" not in page


def test_what_cannot_be_read_is_said_at_its_field(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    hostile = {
        "rank": "<script>alert(1)</script>",
        "steps": "-1",
        "learning_rate": "nan",
        "mode": "magic",
        "gains": "1,x",
    }
    page = admin.post("/rounds/new", plan(**hostile))
    assert 'value="<script>' in page and "<script>alert" not in page.replace('value="<script>alert', "")
    assert page.count("This is a whole number, without a sign.") >= 2
    assert "The plan cannot be read yet." in page
    assert "Sign and start the round" not in page
    page = admin.post("/rounds/new", plan(rank="4000", mode="magic"))
    assert "This has to be less than or equal to 128." in page
    assert "This has to be 'open', 'secagg' or 'dp'." in page
    admin.post("/rounds/new", {})
    admin.post("/rounds/new", plan(steps="9" * 5000, prior_captions="x" * 30_000))


def test_a_mode_that_the_policy_does_not_admit_cannot_be_started(here: Coordinator) -> None:
    for key in (ALICE, BOB, CAROL):
        here.join(key)
    page = Desk(here, ADMIN).post("/rounds/new", plan(mode="secagg"))
    assert "(the policy does not admit it)" in page
    assert "Sign and start the round" not in page


def test_the_plan_that_was_rehearsed_is_the_plan_that_is_signed(here: Coordinator) -> None:
    for key in (ALICE, BOB):
        here.join(key)
    admin = Desk(here, ADMIN)
    page = here.client.post("/admin/rounds/new", data=plan(steps="7"), headers={**admin.session, **ORIGIN})
    form = page.get_data(as_text=True).split('data-order="start_round"')[1]
    fields = json.loads(unescape(form.split("data-fields='")[1].split("'")[0]))
    answer = admin.order("start_round", "rounds", **fields)
    assert answer.status_code == 201, answer.json
    shown = admin.get(f"/rounds/{answer.json['round_id']}?done=start_round")
    assert "The round has started." in shown and '"steps": 7' in shown
    again = admin.get(f"/rounds/new?from={answer.json['round_id']}")
    assert "the plan of round 1" in again and 'name="steps" value="7"' in again
    assert "Round 1 is under way." in admin.post("/rounds/new", plan())


# A round --------------------------------------------------------------------------------------------------------------


def test_the_page_of_a_round_tells_who_has_come_and_who_is_awaited(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, {ALICE: granted[ALICE]})
    admin = Desk(here, ADMIN)
    page = admin.get(f"/rounds/{round_id}")
    assert 'aria-current="step">Training' in page
    assert "1 here, 1 awaited; it takes 2" in page
    assert "about 1 second each, by what it took before" in page
    assert "The contribution is here and checked." in page and "Asked, no answer yet." in page
    for button in ("Pause the round", "Cancel the round"):
        assert button in page
    assert "Publish with what is here" not in page, "the quorum is not met"
    part = admin.get(f"/rounds/{round_id}/now?shown=training", **{"HX-Request": "true"})
    assert "<html" not in part and "moved on" not in part
    assert "moved on" in admin.get(f"/rounds/{round_id}/now?shown=open")


def tell(here: Coordinator, key: str, round_id: str, ago: int = 0, **changes: Any) -> None:
    """This member's machine says that it trains, at step 120 of 240; so many seconds ago."""
    given = {"round_id": round_id, "node_key": node_key.public_of(here.node_key(key)), "stage": "training"}
    given |= {"step": 120, "steps": 240, "seconds_left": 3000, "at": time.time_ns() // 1_000_000}
    told = Progress.model_validate({**given, **changes})
    body = {"progress": told.model_dump(mode="json")}
    body["signature"] = node_key.sign(here.node_key(key), told.canonical())
    assert here.client.post(f"/api/v1/rounds/{round_id}/progress", json=body).status_code == 200
    with here.service.database.writing() as session:
        session.get_one(ProgressRow, (round_id, told.node_key)).told_at -= ago


def test_the_page_of_a_round_tells_how_far_each_machine_is(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB, CAROL)
    admin = Desk(here, ADMIN)
    assert "<progress" not in admin.get(f"/rounds/{round_id}")
    tell(here, ALICE, round_id)
    tell(here, BOB, round_id, ago=185, step=3)
    page = admin.get(f"/rounds/{round_id}/now", **{"HX-Request": "true"})
    assert page.count("<progress") == 2 and '<progress max="240" value="120"' in page
    assert page.count("It is at work.") == 1 and page.count("Asked, no answer yet.") == 2
    assert "training, step 120 of 240, about 50 minutes left, told" in page
    assert "training, step 3 of 240, told 3 minutes 5 seconds ago, and nothing since: it may be slow" in page
    assert ("past the deadline" in page) == (PLAN.deadline_seconds < 3000)
    assert "1 machine of those awaited tells how far it is; it has about 50 minutes of training left" in page
    for path in ("/", "/rounds", f"/rounds/{round_id}", f"/rounds/{round_id}/progress", "/log"):
        public = here.client.get(path, headers=BROWSER).get_data(as_text=True)
        assert "120 of 240" not in public and "<progress" not in public
    train(here, round_id, granted)
    assert "<progress" not in admin.get(f"/rounds/{round_id}"), "the contributions are here"


def test_whoever_still_gathers_pictures_leaves_the_end_of_training_open(here: Coordinator) -> None:
    round_id, _ = opened(here, ALICE, BOB)
    tell(here, ALICE, round_id)
    tell(here, BOB, round_id, stage="pictures", step=2, steps=3, seconds_left=None)
    page = Desk(here, ADMIN).get(f"/rounds/{round_id}")
    assert "2 machines of those awaited tell how far they are" in page and "the slowest" not in page
    assert "pictures, step 2 of 3, told" in page


def test_a_round_is_paused_and_resumed_by_orders(here: Coordinator) -> None:
    round_id, _ = opened(here, ALICE, BOB)
    admin = Desk(here, ADMIN)
    answer = admin.order("pause_round", f"rounds/{round_id}/pause", round_id=round_id, reason="Wrong <b>captions</b>")
    assert answer.status_code == 200, answer.json
    page = here.client.get(f"/admin/rounds/{round_id}?done=pause_round", headers=admin.session).get_data(as_text=True)
    assert "It stands still" in page and "Resume the round" in page and "Pause the round" not in page
    assert "Wrong &lt;b&gt;captions" in page and "<b>captions" not in page
    answer = admin.order("resume_round", f"rounds/{round_id}/resumption", round_id=round_id)
    assert answer.status_code == 200, answer.json
    assert "Pause the round" in admin.get(f"/rounds/{round_id}")


def test_a_deadline_is_extended_to_one_that_the_page_offers(here: Coordinator) -> None:
    for key in (ALICE, BOB):
        here.join(key)
    order = here.order(PLAN.model_copy(update={"deadline_seconds": 600}))
    round_id = here.start(order).json["round_id"]
    here.worker().tick()
    admin = Desk(here, ADMIN)
    page = admin.get(f"/rounds/{round_id}")
    assert "30 minutes, until" in page and "As long as a grant allows" in page and "1 day" not in page
    deadline = int(page.split('name="deadline"')[1].split('value="')[1].split('"')[0])
    answer = admin.order("extend_round", f"rounds/{round_id}/extension", round_id=round_id, deadline=deadline)
    assert answer.status_code == 200, answer.json


def test_contributions_are_compared_and_judged_one_by_one(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, granted)
    admin = Desk(here, ADMIN)
    page = admin.get(f"/rounds/{round_id}/alike", **{"HX-Request": "true"})
    assert "<html" not in page and page.count("·") == 2
    contribution_id = page.split("/admin/contributions/")[1].split('"')[0]
    page = admin.get(f"/contributions/{contribution_id}")
    assert "It counts" in page and "Quarantine the contribution" in page
    answer = admin.order(
        "quarantine_contribution",
        f"contributions/{contribution_id}/quarantine",
        contribution_id=contribution_id,
        reason="It looks like a copy.",
    )
    assert answer.status_code == 200, answer.json
    page = admin.get(f"/contributions/{contribution_id}")
    assert "It is set aside" in page and "It looks like a copy." in page
    assert "Accept the contribution" in page and "Remove the contribution" in page
    assert "set aside" in admin.get(f"/rounds/{round_id}")


def test_what_is_nowhere_is_said_to_be_nowhere(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    for path in ("/rounds/" + "ab" * 8, "/rounds/%3Cscript%3E/now", "/contributions/nothing", "/rounds/new?from=zz"):
        assert "Not here" in admin.get(path, 404)


# Policy ---------------------------------------------------------------------------------------------------------------


def draft(here: Coordinator, **changes: object) -> str:
    return json.dumps({**here.policy.model_dump(mode="json"), **changes})


def test_the_policy_in_force_is_where_a_draft_begins(here: Coordinator) -> None:
    page = Desk(here, ADMIN).get("/policy")
    assert "The draft is the policy in force" in page and here.policy.digest() in page


def test_a_draft_shows_what_it_would_change_and_why(here: Coordinator) -> None:
    here.join(ALICE)
    admin = Desk(here, ADMIN)
    page = admin.post("/policy", {"document": draft(here, accept_holder_warrant=False)})
    assert "Newly denied" in page and "Commercial Nouns #0 #1 #2" in page
    assert "is silent on training, and this policy accepts no holder's warrant" in page
    assert "1 member would have to sign a new grant" in page
    assert str(here.settings.policy) in page
    page = admin.post("/policy", {"document": draft(here, minimum_tokens=1)})
    assert "The draft is the policy in force" in page


def test_one_token_is_explained_level_by_level(here: Coordinator) -> None:
    contract = here.chain.personal.address
    page = Desk(here, ADMIN).post("/policy", {"document": draft(here), "token": f"{contract}/0"})
    assert "on-chain licence" in page and "says nothing" in page
    assert page.count("decides</span>") == 2
    assert "does not allow derivatives" in page
    for named, sentence in (("nonsense", "This names no token."), (f"eip155:1/erc721:{contract}/0", "on chain 1")):
        assert sentence in Desk(here, ADMIN).post("/policy", {"document": draft(here), "token": named})


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("", "no JSON"),
        ("[]", "no JSON object"),
        ("{", "line 1"),
        ('{"dao": 1, "dao": 2}', "twice"),
        ("[" * 200_000, "nested too deep"),
        ('{"version": 2}', "version 2"),
        ('{"dao": "<script>alert(1)</script>"}', "This is missing."),
    ],
)
def test_what_is_no_policy_is_told_in_sentences(here: Coordinator, document: str, sentence: str) -> None:
    page = Desk(here, ADMIN).post("/policy", {"document": document})
    assert "This is no policy yet" in page and sentence in page


def test_every_mistake_of_a_draft_is_told_at_its_place(here: Coordinator) -> None:
    wrong = draft(here, minimum_tokens=0, colour="red", collections=[{"contract": "0x12", "name": "N"}])
    page = Desk(here, ADMIN).post("/policy", {"document": wrong})
    for place in ("minimum_tokens:", "colour:", "collections, entry 1, contract:"):
        assert place in page


def test_a_draft_about_another_chain_is_read_and_not_asked_about(here: Coordinator) -> None:
    page = Desk(here, ADMIN).post("/policy", {"document": draft(here, chain_id=5)})
    assert "The draft is about chain 5" in page


def test_a_document_that_is_too_large_is_refused(here: Coordinator) -> None:
    Desk(here, ADMIN).post("/policy", {"document": "x" * 1_100_000}, 413)


# Health, and what waits -----------------------------------------------------------------------------------------------


def test_health_tells_of_every_part_to_people_and_programs(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    page = admin.get("/health")
    told = here.client.get("/api/v1/health", headers=admin.session).json
    names = [one["name"] for one in told["checks"]]
    assert names == ["Database", "Chain", "SuperLink", "Worker", "Places", "Disk", "Machines"]
    assert all(f"<strong>{name}.</strong>" in page for name in names)
    states = {one["name"]: one["state"] for one in told["checks"]}
    assert (states["Database"], states["SuperLink"], states["Worker"]) == ("good", "bad", "bad")
    here.worker().tick()
    told = here.client.get("/api/v1/health", headers=admin.session).json
    assert {one["name"]: one["state"] for one in told["checks"]}["Worker"] == "good"
    assert here.client.get("/healthz").json == {"status": "ok"}


def test_pins_are_looked_at_again_when_an_admin_asks(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    answer = here.client.post("/admin/health/pins", headers={**admin.session, **ORIGIN})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/admin/health?done=check_pins")
    assert "at its next tick" in admin.get("/health?done=check_pins")
    assert "<script>" not in admin.get("/health?done=%3Cscript%3E")


def test_a_worker_that_has_stopped_is_seen(here: Coordinator) -> None:
    here.worker().tick()
    old = time.time() - 600
    os.utime(here.settings.tick_file, (old, old))
    told = here.client.get("/api/v1/health", headers=Desk(here, ADMIN).session).json
    worker = next(one for one in told["checks"] if one["name"] == "Worker")
    assert worker["state"] == "bad" and "10 minutes ago" in worker["words"]


def test_the_desk_names_one_next_step(here: Coordinator) -> None:
    admin = Desk(here, ADMIN)
    here.worker().tick()
    page = admin.get()
    assert page.count('class="button"') == 1
    round_id, _ = opened(here, ALICE, BOB)
    assert round_id in admin.get()
    answer = admin.order("cancel_round", f"rounds/{round_id}/cancellation", round_id=round_id, reason="A test.")
    assert answer.status_code == 200, answer.json
    page = admin.get(f"/rounds/{round_id}?done=cancel_round")
    assert "The round has ended." in page and "Nothing can be ordered here any more." in page
    assert "A test." in page


def test_a_removal_is_in_the_queue_until_the_newest_release_does_without_it(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, {ALICE: granted[ALICE]})
    [contribution] = here.client.get(f"/api/v1/rounds/{round_id}").json["contributions"]
    contribution_id = contribution["contribution_id"]
    admin = Desk(here, ADMIN)
    assert "Nothing has ended." in admin.get("/removals")
    answer = admin.order(
        "remove_contribution",
        f"contributions/{contribution_id}/removal",
        contribution_id=contribution_id,
        reason="A court said so.",
    )
    assert answer.status_code == 200, answer.json
    page = admin.get("/removals")
    assert "A court said so." in page and "without it" in page
    assert NOBODY not in page


def test_presence_is_not_known_without_a_superlink(here: Coordinator) -> None:
    round_id, _ = opened(here, ALICE, BOB)
    page = Desk(here, ADMIN).get(f"/rounds/{round_id}")
    assert "the SuperLink does not answer" in page


def test_the_page_tells_whose_scores_are_awaited_and_what_each_scored(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, granted)
    here.worker().tick()
    for key in (ALICE, BOB):
        tell(here, key, round_id, stage="scoring", step=1, steps=3, seconds_left=None)
    score(here, round_id, {ALICE: granted[ALICE]})
    page = Desk(here, ADMIN).get(f"/rounds/{round_id}")
    assert 'aria-current="step">Scoring' in page
    assert page.count("scoring, step 1 of 3, told") == 1, "Bob's alone"
    assert "Its scores are here." in page and "Its scores are awaited." in page
    assert "0.5000 → 0.2500" in page and "50%" in page
    assert "Publish with what is here" in page, "one has scored, so it need not wait for the other"
