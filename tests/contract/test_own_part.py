"""A member's own page over a database that the real ledger has filled; the chain and the SuperLink do not answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dao_parts import (
    NOUNS,
    PERSONAL,
    PLAN,
    POLICY,
    URI,
    Dao,
    Links,
    published,
    snapshot,
    sold,
    token,
    two_members,
)
from eth_account import Account
from eth_account.messages import encode_defunct
from flask.testing import FlaskClient

from coordinator.database import DeviceRow, RoundRow
from coordinator.identity import devices, members
from coordinator.rounds.progress import note
from coordinator.web.own.part import SOON_SECONDS, Holding, OwnPart, Seen, cards, own_part, weave
from coordinator.web.public.history import Memory
from deploy.devchain.anvil import ANVIL_KEYS
from protocol.acts import PauseRound, QuarantineContribution, RevokeGrant
from protocol.adapter import load_adapter
from protocol.grant import sign
from protocol.modes import Mode
from protocol.progress import Progress

ALICE_KEY, BOB_KEY, OTHER_KEY = ANVIL_KEYS[1:4]
ALICE, BOB, OTHER = (Account.from_key(key).address for key in (ALICE_KEY, BOB_KEY, OTHER_KEY))


@pytest.fixture
def dao(tmp_path: Path) -> Iterator[Dao]:
    there = Dao(tmp_path)
    yield there
    there.service.database.close()


def signed_in(dao: Dao, key: str) -> FlaskClient:
    """A browser in which this wallet has signed in."""
    client = dao.app.test_client()
    text = client.post("/api/v1/session/text", json={"address": Account.from_key(key).address}).json["message"]
    signature = "0x" + bytes(Account.sign_message(encode_defunct(text=text), key).signature).hex()
    body = {"message": text, "signature": signature}
    assert client.post("/api/v1/session/browser", json=body, headers={"Origin": URI}).status_code == 200
    return client


def text_of(answer: Any) -> str:
    """What a reader sees of a page."""
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.text))


def part_of(dao: Dao, *wallets: str, seen: dict[int, Seen] | None = None) -> OwnPart:
    with dao.service.database.reading() as session:
        return own_part(session, Memory(), wallets, POLICY, dao.service.base_hash, dao.now, seen or {})


def revoke(dao: Dao, wallet: str, key: str) -> None:
    grant = dao.members[wallet]
    order = RevokeGrant(
        dao=POLICY.dao,
        chain_id=POLICY.chain_id,
        nonce=f"nonce-of-{wallet}",
        expires=dao.now + 600,
        member=wallet,
        grant_hash=grant.digest(),
    )
    dao.ledger.revoke(order, sign(order, key), snapshot(200))


def contribution_of(dao: Dao, wallet: str) -> str:
    return part_of(dao, wallet).contributions[0].contribution_id


# Who sees what --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/me", "/me/nfts", "/me/machines"])
def test_whoever_is_signed_out_reads_what_taking_part_means_and_nothing_of_anybody(dao: Dao, path: str) -> None:
    published(dao)
    page = text_of(dao.client.get(path))
    assert "What taking part means" in page and "no picture ever leaves it" in page
    assert ALICE[-4:] not in page and "Your grants" not in page


def test_the_adapter_is_its_member_s_alone(dao: Dao) -> None:
    published(dao)
    path = f"/api/v1/contributions/{contribution_of(dao, ALICE)}/adapter"
    assert dao.client.get(path).status_code == 401
    other = signed_in(dao, BOB_KEY).get(path)
    assert other.status_code == 404 and "You have no contribution" in other.json["detail"]
    own = signed_in(dao, ALICE_KEY).get(path)
    assert own.headers["Cache-Control"] == "private, no-store"
    assert re.fullmatch(r"attachment; filename=\S+\.safetensors", own.headers["Content-Disposition"])
    assert own.data == next((dao.service.settings.contributions / path.split("/")[4]).glob("adapter*")).read_bytes()
    assert load_adapter(own.data)


def test_any_linked_wallet_gets_the_adapter_and_sees_one_member(dao: Dao) -> None:
    published(dao)
    with dao.service.database.writing() as session:
        members.link(session, ALICE, OTHER, dao.now)
    client = signed_in(dao, OTHER_KEY)
    assert client.get(f"/api/v1/contributions/{contribution_of(dao, ALICE)}/adapter").status_code == 200
    page = text_of(client.get("/me"))
    assert "50.0% of the newest release is yours" in page
    assert "sign in with that wallet to renew it" in page


@pytest.mark.parametrize(("mode", "why"), [(Mode.SECAGG, "secret sum"), (Mode.DP, "with noise")])
def test_in_a_private_round_there_is_no_adapter_here_and_the_page_says_why(dao: Dao, mode: Mode, why: str) -> None:
    published(dao)
    with dao.service.database.writing() as session:
        for row in session.query(RoundRow):
            row.plan = PLAN.model_copy(update={"mode": mode}).canonical().decode()
    client = signed_in(dao, ALICE_KEY)
    refused = client.get(f"/api/v1/contributions/{contribution_of(dao, ALICE)}/adapter")
    assert refused.status_code == 404
    assert "your machine" in refused.json["detail"] and "coterie adapter" in refused.json["hint"]
    page = text_of(client.get("/me"))
    assert why in page and "Download it" not in page


# Where one stands -----------------------------------------------------------------------------------------------------


def test_each_state_of_a_member_has_one_next_step(dao: Dao) -> None:
    assert part_of(dao, ALICE).standing == "new"
    two_members(dao)
    assert part_of(dao, ALICE).standing == "soon"  # the grants of these tests last for hours
    round_id = dao.start_round()
    assert part_of(dao, ALICE).standing == "trains"
    key = dao.members[ALICE].node_key
    dao.ledger.note_failure(round_id, key, "The graphics card has too little memory.")
    assert part_of(dao, ALICE).standing == "failed"
    page = text_of(signed_in(dao, ALICE_KEY).get("/me"))
    assert "Your machine needs you" in page and "The graphics card has too little memory." in page
    dao.contribute(round_id, ALICE)
    assert part_of(dao, ALICE).standing == "contributed"
    dao.ledger.decline(round_id, dao.members[BOB].node_key, "Too few pictures.")
    bob = part_of(dao, BOB)
    assert bob.standing == "declined" and "Too few pictures." in bob.nodes[0].reason
    newcomer = dao.join(OTHER_KEY, (token(NOUNS, 9),))
    assert part_of(dao, newcomer).standing == "late"


def test_what_an_admin_sets_aside_or_pauses_is_told_with_the_reason(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    dao.contribute(round_id, alice)
    by_admin = {
        "dao": POLICY.dao,
        "chain_id": POLICY.chain_id,
        "expires": dao.now + 600,
        "admin": Account.from_key(ANVIL_KEYS[0]).address,
        "reason": "Its captions are wrong.",
    }
    aside = QuarantineContribution(**by_admin, nonce="set-aside", contribution_id=contribution_of(dao, ALICE))
    dao.service.steering.quarantine(aside, sign(aside, ANVIL_KEYS[0]), snapshot(102))
    pause = PauseRound(**by_admin, nonce="pause-it", round_id=round_id)
    dao.service.steering.pause(pause, sign(pause, ANVIL_KEYS[0]), snapshot(102))
    part = part_of(dao, ALICE)
    assert (part.standing, part.contributions[0].mark, part.grants[0].live_contributions) == ("contributed", "aside", 1)
    page = text_of(signed_in(dao, ALICE_KEY).get("/me"))
    assert "set aside by an admin" in page and "Its captions are wrong." in page
    assert "which an admin has paused" in page


def test_a_grant_for_other_rules_or_past_its_end_counts_no_more(dao: Dao) -> None:
    two_members(dao)
    with dao.service.database.reading() as session:
        other = own_part(session, Memory(), [ALICE], POLICY, "ab" * 32, dao.now, {})
    assert (other.standing, other.grants[0].state, other.nodes[0].doing) == ("outdated", "outdated", "out")
    dao.now += 10_001
    assert (part_of(dao, ALICE).standing, part_of(dao, ALICE).grants[0].state) == ("ended", "expired")
    page = text_of(signed_in(dao, ALICE_KEY).get("/me"))
    assert f"coterie join {URI}" in page and "No grant of yours is in force" in page


def test_of_two_linked_wallets_the_older_grant_rests(dao: Dao) -> None:
    two_members(dao)
    dao.now += 10
    dao.join(OTHER_KEY, (token(NOUNS, 9),))
    with dao.service.database.writing() as session:
        members.link(session, ALICE, OTHER, dao.now)
    states = {one.grant.member: one.state for one in part_of(dao, ALICE, OTHER).grants}
    assert states == {ALICE: "resting", OTHER: "live"}


def tell(dao: Dao, wallet: str, round_id: str) -> None:
    """This member's machine has trained half of its steps."""
    public = dao.members[wallet].node_key
    told = Progress(
        round_id=round_id, node_key=public, stage="training", step=120, steps=240, seconds_left=40, at=dao.now * 1000
    )
    with dao.service.database.writing() as session:
        note(session, told, dao.now)


def test_a_member_sees_how_far_their_own_machine_is_and_no_other(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    tell(dao, alice, round_id)
    dao.now += 6
    for path in ("/me", "/me/machines"):
        page = signed_in(dao, ALICE_KEY).get(path)
        assert "training, step 120 of 240, about 34 seconds left, told 6 seconds ago" in text_of(page)
        assert '<progress max="240" value="120"' in page.text
        assert "120 of 240" not in text_of(signed_in(dao, BOB_KEY).get(path))
    dao.contribute(round_id, alice)
    assert "120 of 240" not in text_of(signed_in(dao, ALICE_KEY).get("/me"))


def test_parts_of_the_page_refresh_themselves_faster_while_a_round_moves_and_stay_when_the_session_ends(
    dao: Dao,
) -> None:
    two_members(dao)
    client = signed_in(dao, ALICE_KEY)
    assert client.get("/me").text.count("every 60s") == 2
    dao.start_round()
    page = client.get("/me").text
    assert page.count("every 10s") == 2 and 'hx-select="#standing"' in page
    for path in ("/me", "/me/machines"):
        assert client.get(path, headers={"HX-Request": "true"}).status_code == 200
        assert dao.client.get(path, headers={"HX-Request": "true"}).status_code == 401


# Grants, machines, contributions --------------------------------------------------------------------------------------


def test_after_a_revocation_the_page_says_what_came_of_it(dao: Dao) -> None:
    published(dao)
    before = text_of(signed_in(dao, ALICE_KEY).get("/me"))
    assert "merged again without it, exactly as if it had never been in" in before and "Sign the revocation" in before
    revoke(dao, ALICE, ALICE_KEY)
    client = signed_in(dao, ALICE_KEY)
    page = text_of(client.get("/me"))
    assert "1 contribution ended with it. Round 2 makes the collective again without: under way" in page
    assert "Sign the revocation" not in page and "The member revoked the grant." in page
    dao.publish(part_of(dao, ALICE).grants[0].removal and next(iter(dao.ledger.active())))
    page = text_of(client.get("/me"))
    assert "Round 2 makes the collective again without: published" in page
    assert "nothing in the newest release is yours" in page
    assert [round(one.share, 2) for one in part_of(dao, ALICE).shares] == [0.5, 0.0]
    assert [round(one.share, 2) for one in part_of(dao, BOB).shares] == [0.5, 1.0]


def test_a_contribution_tells_its_share_its_releases_and_why_it_ended(dao: Dao) -> None:
    published(dao)
    [made] = part_of(dao, BOB).contributions
    assert (made.mark, made.share, made.releases, made.norm) == ("merged", 0.5, (1,), 1.0)
    sold(dao)
    page = text_of(signed_in(dao, BOB_KEY).get("/me"))
    assert "removed" in page and "ends for the seller with the transfer" in page
    assert part_of(dao, BOB).contributions[0].mark == "removed"


def test_a_machine_has_its_name_and_whether_it_is_connected(dao: Dao) -> None:
    two_members(dao)
    grant = dao.members[ALICE]
    with dao.service.database.writing() as session:
        session.add(
            DeviceRow(
                device_code_sha256="ab",
                user_code="BCDFGHJK",
                node_key=grant.node_key,
                name="gpu-box",
                source="203.0.113.9",
                expires=dao.now,
                interval=3,
                state="granted",
                grant_id=grant.grant_id,
            )
        )
        devices.open_device(session, grant.node_key, "another", "198.51.100.1", dao.now + devices.LIFE_SECONDS)
        assert session.get_one(DeviceRow, "ab").source == ""  # the name stays, not where it asked from
    [node] = part_of(dao, ALICE, seen={1: Seen(connected=False, since=dao.now)}).nodes
    assert (node.name, node.doing, node.seen and node.seen.connected) == ("gpu-box", "idle", False)
    page = text_of(signed_in(dao, ALICE_KEY).get("/me/machines"))
    assert "gpu-box" in page and "cannot be said just now" in page and "coterie rotate-key" in page


def test_a_grant_is_called_near_its_end_for_two_weeks(dao: Dao) -> None:
    two_members(dao)
    dao.now = dao.members[ALICE].expires - SOON_SECONDS
    assert not part_of(dao, ALICE).grants[0].ends_soon
    dao.now += 1
    assert part_of(dao, ALICE).grants[0].ends_soon


# NFTs -----------------------------------------------------------------------------------------------------------------


def test_while_the_chain_is_silent_the_cards_are_what_the_last_round_knew(dao: Dao) -> None:
    published(dao)
    client = signed_in(dao, ALICE_KEY)
    whole = client.get("/me/nfts")
    page = text_of(whole)
    assert "The chain cannot be asked just now" in page and "Try again" in page
    assert "Excluded because: " in page and "CBE-PERSONAL does not allow derivatives" in page
    assert "Included because: " in page and "nouns.wtf says so" in page
    assert "round 1 (kept for scoring), in release 1" in page
    part = client.get("/me/nfts", headers={"HX-Request": "true"})
    assert "<html" not in part.text and part.text.count('<li class="card') == whole.text.count('<li class="card')


def test_a_card_is_the_holder_s_rather_than_the_delegate_s_and_patterns_differ(dao: Dao) -> None:
    two_members(dao)
    vault = "0x" + "9" * 40
    verdict = dao.verdict(token(NOUNS, 1))
    shown = cards(
        [
            Holding(verdict, vault, in_vault=True),
            Holding(verdict, ALICE),
            Holding(dao.verdict(token(PERSONAL, 1)), ALICE),
        ],
        part_of(dao, ALICE),
    )
    assert [(one.verdict.allow, one.holder, one.grant is not None) for one in shown] == [
        (True, ALICE, True),
        (False, ALICE, False),
    ]
    assert len({weave(token(NOUNS, number)) for number in range(200)}) == 200
    assert weave(token(NOUNS, 7)) == weave(token(NOUNS, 7))


def test_the_pages_ask_nothing_of_anyone_else_and_run_no_script_of_their_own(dao: Dao) -> None:
    published(dao)
    client = signed_in(dao, ALICE_KEY)
    for path in ("/me", "/me/nfts", "/me/machines"):
        links = Links(client.get(path).text)
        assert all(target.startswith(("/", "#")) for target in links.targets), links.targets
        assert {one for one in links.blocked if " " in one or one in ("style", "iframe")} == set()
