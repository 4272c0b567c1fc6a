"""``coterie train``: the member's own adapter without a round, what it will take, and a full disk on the way."""

import errno
import json
import os
from pathlib import Path

import pytest
from conftest import Chain
from test_node_work import Member, new_member, noun_uri
from typer.testing import CliRunner

from client.cli import app
from client.collection.dataset import Dataset
from client.config import load_settings
from client.local_training import ADAPTER, _plan
from protocol.adapter import load_adapter
from protocol.base import base_hash
from protocol.errors import BadInput
from protocol.grant import RoundPlan

SMALL = ["--steps", "2", "--batch", "2", "--rank", "2"]


def call(home: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["train", *words, "--home", str(home)], env={"COLUMNS": "200"})
    return result.output


@pytest.fixture
def member(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Member:
    monkeypatch.setenv("COTERIE_RPC_URL", chain.url)
    first = chain.commercial.functions.totalSupply().call()
    chain.admin.mint_with_uris(chain.commercial, [(chain.alice.address, noun_uri(n)) for n in range(4)])
    tokens = tuple(chain.token(chain.commercial, first + n) for n in range(4))
    home = tmp_path / "home"
    created = new_member(home, base_hash(load_settings(home).base), chain.commercial.address, tokens, declared=True)
    return Member(home, created.granted, chain.snapshot())


def test_without_a_grant_the_member_is_told_what_to_do(tmp_path: Path) -> None:
    said = call(tmp_path)
    assert f"There is no grant in {tmp_path} for the base in" in said
    assert "Join a DAO first" in said


def test_a_plan_that_cannot_be_is_told_in_a_sentence(tmp_path: Path) -> None:
    assert "--rank is wrong: Input should be less than or equal to 128." in call(tmp_path, "--rank", "1000")


def test_steps_that_were_asked_for_are_made_however_many_pictures_there_are() -> None:
    assert _plan({"steps": 400, "rank": None}).sized(1000).steps == 400
    assert _plan({"steps": None, "rank": 4}).sized(1000).steps == 4 * RoundPlan().steps


@pytest.mark.slow
def test_a_member_sees_what_training_takes_and_trains_alone(member: Member) -> None:
    said = call(member.home, "--dry-run", *SMALL)
    for words in ("3, 1 more are held out", "minutes of training", "GB", "MB", "CPU threads"):
        assert words in said
    assert not (member.home / "own").exists()
    (timing,) = json.loads((member.home / "timing.json").read_text()).values()
    assert timing["seconds_a_step"] > 0
    said = call(member.home, member.granted.grant.grant_id, *SMALL)
    file = member.home / "own" / member.granted.grant.grant_id / ADAPTER
    assert "Trained." in said and "own: training 2/2 loss" in said.replace("round ", "")
    assert {factors.rank for factors in load_adapter(file.read_bytes()).values()} == {2}
    assert not (member.home / "sent.jsonl").exists()


@pytest.mark.slow
def test_a_full_disk_is_told_in_a_sentence(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dataset: Dataset, folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Dataset, "save", full)
    with pytest.raises(BadInput, match="disk is full") as error:
        member.train()
    assert "goes on from its last checkpoint" in error.value.hint
