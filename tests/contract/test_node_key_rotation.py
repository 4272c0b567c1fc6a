"""A machine changes its node key: a new grant for the new one, and the old one is shut out on its own word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Chain
from flask.testing import FlaskClient
from round_parts import write_small_base
from test_coordinator_api import ALICE, BOB, Coordinator, problem
from typer.testing import CliRunner, Result
from werkzeug.serving import make_server

from client.cli import app as commands
from client.node.rotation import begin_rotation, put_aside, undo_rotation
from client.wallet.grant import stored_grants
from coordinator.config import CoordinatorSettings
from coordinator.web.app import create_app
from processes.ports import free_ports
from protocol import node_key
from protocol.node_key import RetireKey

pytestmark = pytest.mark.slow


class Here(Coordinator):
    """The same, and whoever was shut out is remembered."""

    def __init__(self, chain: Chain, folder: Path, base: Path, uri: str = "https://nouns.example") -> None:
        super().__init__(chain, folder, base)
        self.service.database.close()
        self.shut_out: list[int] = []
        settings = self.settings.model_copy(update={"uri": uri})
        self.settings = CoordinatorSettings.model_validate(settings.model_dump())
        self.app = create_app(self.settings, self.registered, self.shut_out.append)
        self.client: FlaskClient = self.app.test_client()


@pytest.fixture
def here(chain: Chain, tmp_path: Path) -> Iterator[Here]:
    chain.anvil.finalize()
    coordinator = Here(chain, tmp_path, write_small_base(tmp_path / "base"))
    yield coordinator
    coordinator.service.database.close()


def retire(here: Here, signer: Path, newer: Path, **changes: str) -> Any:
    fields = {"dao": here.policy.dao, "old": node_key.public_of(signer), "new": node_key.public_of(newer)}
    order = RetireKey(**{**fields, **changes})
    body = {"retire_key": order.model_dump(mode="json"), "signature": node_key.sign(signer, order.canonical())}
    return here.client.post("/api/v1/node-keys/retire", json=body)


def test_an_old_key_is_shut_out_only_after_a_grant_for_the_new_one(here: Here, tmp_path: Path) -> None:
    old, new = here.node_key(ALICE), tmp_path / "new.pem"
    node_key.create(new)
    assert "No grant names" in problem(retire(here, old, new), 404, "not-found")
    here.join(ALICE)
    assert "newer grant" in problem(retire(here, old, new), 409, "conflict")
    tokens = (here.chain.token(here.chain.cc0, 0),)
    assert here.give(here.grant(ALICE, tokens, warrant="", node_key=node_key.public_of(new)), ALICE).status_code == 201
    assert retire(here, old, new).status_code == 200
    assert here.shut_out == [here.node_id(ALICE)]


def test_nobody_elses_word_shuts_a_key_out(here: Here, tmp_path: Path) -> None:
    here.join(ALICE)
    here.join(BOB)
    alices, bobs = here.node_key(ALICE), here.node_key(BOB)
    assert "newer grant" in problem(retire(here, alices, bobs), 409, "conflict")
    forged = retire(here, bobs, alices, old=node_key.public_of(alices), new=node_key.public_of(bobs))
    assert "not signed with the old" in problem(forged, 403, "not-allowed")
    assert "another DAO" in problem(retire(here, alices, bobs, dao="Other"), 403, "not-allowed")
    assert here.shut_out == []


def test_a_key_that_was_put_aside_comes_back_where_no_grant_came(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    node_key.create(path)
    first = node_key.public_of(path)
    old = begin_rotation(path)
    assert old == put_aside(path) and node_key.public_of(old) == first != node_key.public_of(path)
    second = node_key.public_of(path)
    assert begin_rotation(path) == old and node_key.public_of(old) == first, "a rotation that was cut off goes on"
    assert node_key.public_of(path) == second
    undo_rotation(path)
    assert node_key.public_of(path) == first and not old.exists()


def test_rotate_key_leaves_a_new_key_with_a_grant_and_no_old_one(chain: Chain, tmp_path: Path) -> None:
    chain.anvil.finalize()
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    here = Here(chain, tmp_path, write_small_base(tmp_path / "base"), url)
    home, base = tmp_path / "home", str(tmp_path / "base")

    def run(key: str, *arguments: str) -> Result:
        variables = {"COTERIE_WALLET_KEY": key, "COTERIE_BASE": base, "COLUMNS": "200"}
        options = ["--home", str(home), "--rpc", chain.url]
        return CliRunner().invoke(commands, [*arguments, *options], env=variables)

    server = make_server("127.0.0.1", port, here.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        early = run(ALICE, "rotate-key", url, "--yes")
        assert early.exit_code == 1 and "Join first" in early.output
        first = node_key.public_of(home / "node.pem")
        with pytest.MonkeyPatch.context() as patch:
            told: list[bool] = []
            # no SuperLink runs here
            patch.setattr("client.cli._run_node", lambda api, dao, settings: told.append(settings.tell_progress))
            assert run(ALICE, "join", url, "--yes", "--no-progress").exit_code == 0
            assert told == [False]
        done = run(ALICE, "rotate-key", url, "--yes")
    finally:
        server.shutdown()
        thread.join()
        here.service.database.close()
    assert done.exit_code == 0, done.output
    now = node_key.public_of(home / "node.pem")
    assert now != first and node_key.fingerprint(now) in done.output
    assert not put_aside(home / "node.pem").exists()
    assert now in {stored.grant.node_key for stored in stored_grants(home)}
    assert len(here.shut_out) == 1
