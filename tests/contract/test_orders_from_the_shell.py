"""Orders given at a shell, to a coordinator that really listens: an admin's, a Safe's, and a member's revocation."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Chain
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from round_parts import PLAN, write_small_base
from test_coordinator_api import ADMIN, ALICE, BOB, Coordinator, policy_of, train
from typer.testing import CliRunner
from web3.contract import Contract
from werkzeug.serving import make_server

from client.cli import app as member_commands
from client.coordinator_api import CoordinatorApi
from client.wallet.grant import StoredGrant, stored_grants
from client.wallet.key import Wallet
from coordinator.cli import app as dao_commands
from coordinator.rounds.transitions import RoundState
from deploy.devchain.anvil import ANVIL_KEYS
from deploy.devchain.safes import Safes, safe_signature
from protocol.errors import NotSignedIn
from protocol.policy import AdminSafe

pytestmark = pytest.mark.slow

ONE, TWO, THREE = ANVIL_KEYS[6:9]


class Shell:
    """A coordinator on a port of loopback, and its commands."""

    def __init__(self, here: Coordinator, url: str) -> None:
        self.here = here
        self.url = url
        self.config = here.folder / "coordinator.toml"
        self.config.write_text(self.config.read_text().replace("https://nouns.example", url))

    def dao(self, *words: str, key: str = "") -> str:
        """What ``coterie-coordinator`` prints; its error, where it ends with one."""
        return self._run(dao_commands, [*words, "--config", str(self.config)], key)

    def member(self, *words: str, key: str = "") -> str:
        return self._run(member_commands, [*words, "--home", str(self.here.folder / "home")], key)

    def _run(self, commands: object, words: list[str], key: str) -> str:
        environment = {"COTERIE_WALLET_KEY": key} if key else {"COTERIE_WALLET_KEY": None}
        done = CliRunner().invoke(commands, words, env=environment)  # type: ignore[arg-type]
        return " ".join(done.output.split())


def shell(chain: Chain, folder: Path, admin: AdminSafe | None = None) -> Iterator[Shell]:
    chain.anvil.finalize()
    policy = policy_of(chain)
    policy = policy.model_copy(update={"admin": admin}) if admin else policy
    here = Coordinator(chain, folder, write_small_base(folder / "base"), policy)
    server = make_server("127.0.0.1", 0, here.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before = dict(os.environ)
    try:
        yield Shell(here, f"http://127.0.0.1:{server.port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        here.service.database.close()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def there(chain: Chain, tmp_path: Path) -> Iterator[Shell]:
    yield from shell(chain, tmp_path)


def plan_file(folder: Path) -> str:
    (folder / "plan.toml").write_text(f"quorum = {PLAN.quorum}\n")
    return str(folder / "plan.toml")


def test_an_admin_starts_removes_and_cancels_with_a_reason(there: Shell) -> None:
    here = there.here
    granted = {key: here.join(key) for key in (ALICE, BOB)}
    start = ["round", "start", "--plan", plan_file(here.folder)]
    assert "COTERIE_WALLET_KEY is not set" in there.dao(*start)
    assert "does not hold the admin role" in there.dao(*start, key=ALICE)
    round_id = there.dao(*start, key=ADMIN)
    assert here.ledger.facts(round_id).state is RoundState.OPEN
    here.worker().tick()
    train(here, round_id, granted)
    first = here.client.get(f"/api/v1/rounds/{round_id}").json["contributions"][0]
    said = there.dao("contribution", "remove", first["contribution_id"], "--reason", "Not theirs.", key=ADMIN)
    assert said == first["contribution_id"]
    second = here.client.get(f"/api/v1/rounds/{round_id}").json["contributions"][1]["contribution_id"]
    for words in (
        ("contribution", "quarantine", second, "--reason", "An odd norm."),
        ("contribution", "accept", second),
        ("round", "pause", round_id, "--reason", "The disk is full."),
        ("round", "resume", round_id),
    ):
        assert there.dao(*words, key=ADMIN) in (round_id, second)
    assert "is no date" in there.dao("round", "extend", round_id, "--deadline", "soon", key=ADMIN)
    assert "not later" in there.dao("round", "extend", round_id, "--deadline", "2020-01-01", key=ADMIN)
    assert "quorum is 2" in there.dao("round", "publish", round_id, key=ADMIN)
    assert there.dao("round", "cancel", round_id, "--reason", "Enough.", key=ADMIN) == round_id
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    assert shown["state"] == RoundState.CANCELLED and "Enough." in shown["reason"]
    assert "cancelled" in there.dao("round", "cancel", round_id, "--reason", "Again.", key=ADMIN)


def test_a_member_s_client_signs_in_with_the_nonce_that_it_asked_for(there: Shell) -> None:
    there.here.service.settings = there.here.settings.model_copy(update={"uri": there.url})
    api, other = CoordinatorApi(there.url), CoordinatorApi(there.url)
    api.sign_in(Wallet.from_key(ALICE), api.dao())
    assert api.verdicts().wallet == Account.from_key(ALICE).address
    with pytest.raises(NotSignedIn):
        other.verdicts()


def test_what_cannot_be_an_order_is_said_before_anything_is_sent(there: Shell) -> None:
    assert "round_id" in there.dao("round", "cancel", "x", "--reason", "r", key=ADMIN)
    assert "no Ethereum address" in there.dao("round", "start", "--admin", "me", "--out", "x.json")
    assert "signs elsewhere" in there.dao("round", "start", "--admin", "0x" + "11" * 20)
    (there.here.folder / "kept.json").write_text("{}")
    kept = str(there.here.folder / "kept.json")
    assert "cannot be written" in there.dao("round", "start", "--out", kept, key=ADMIN)
    assert "holds no order" in there.dao("send", kept, "--signature", "0x")


def test_a_safe_s_order_is_written_signed_by_its_owners_and_sent(chain: Chain, tmp_path: Path) -> None:
    safes = Safes(chain.admin)
    safe: Contract = safes.deploy(safes.plan([Account.from_key(key).address for key in (ONE, TWO, THREE)], 2, salt=31))
    for there in shell(chain, tmp_path, AdminSafe(safe=safe.address)):
        here, file = there.here, str(tmp_path / "order.json")
        for key in (ALICE, BOB):
            here.join(key)
        start = ["round", "start", "--plan", plan_file(tmp_path), "--admin", safe.address]
        assert "coterie-coordinator send" in there.dao(*start, "--out", file)
        signable = encode_typed_data(full_message=json.loads(Path(file).read_text())["typed_data"])
        digest = keccak(b"\x19" + signable.version + signable.header + signable.body)
        one, both = (safe_signature(safe.address, digest, keys) for keys in ([ONE], [ONE, TWO]))
        assert safe.address in there.dao("send", file, "--signature", one)
        assert "round_id" in there.dao("send", file, "--signature", both)
        assert here.client.get("/api/v1/rounds").json[0]["state"] == RoundState.OPEN
        assert "given before" in there.dao("send", file, "--signature", both)


def test_a_member_revokes_from_the_shell_what_the_machine_keeps_or_by_its_id(there: Shell) -> None:
    here, home = there.here, there.here.folder / "home"
    first = here.grant(ALICE, (here.chain.token(here.chain.cc0, 0),), warrant="")
    second = here.grant(ALICE, first.tokens, warrant="", expires=first.expires + 1)
    for grant in (first, second):
        assert here.give(grant, ALICE).status_code == 201
    StoredGrant(grant=second, signature="0x", policy=here.policy, coordinator=there.url, gateways=()).save(home)
    revoke = ["revoke", there.url, "--yes"]
    assert "keeps no grant" in there.member(*revoke, key=BOB)
    assert Account.from_key(ALICE).address in there.member(*revoke, second.grant_id, key=BOB)
    assert "is no grant's id" in there.member(*revoke, "../dao", key=ALICE)
    assert "There is no grant" in there.member(*revoke, "ab" * 8, key=ALICE)
    assert "Revoked. It was in no published model." in there.member(*revoke, key=ALICE)
    assert stored_grants(home) == [] and (home / "grants" / f"{second.grant_id}.revoked").is_file()
    assert "Revoked." in there.member(*revoke, first.grant_id, key=ALICE)
    assert all(here.client.get(f"/api/v1/grants/{g.grant_id}").json["revoked_at"] for g in (first, second))
    assert "revoked already" in there.member(*revoke, first.grant_id, key=ALICE)
    assert "revocation" in (home / "sent.jsonl").read_text()
