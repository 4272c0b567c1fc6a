"""The member's settings, and the commands' way of saying what is wrong."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bases import EMBEDDED_BASE
from client.cli import app
from client.config import load_settings, remember
from client.coordinator_api import Dao
from client.progress import ProgressTail, ProgressWriter, Update
from protocol.contribution import TrainTask
from protocol.errors import BadInput
from protocol.grant import Grant, RoundPlan
from protocol.policy import Policy


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "RPC_URL", "BASE", "GATEWAYS", "THREADS", "COORDINATOR", "WALLET_KEY"):
        monkeypatch.delenv(f"COTERIE_{name}", raising=False)


def test_the_environment_comes_before_the_file_and_what_is_given_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "member.toml").write_text('rpc_url = "http://file"\nthreads = 3\ngateways = ["http://g"]\n')
    assert load_settings(tmp_path).rpc_url == "http://file"
    monkeypatch.setenv("COTERIE_RPC_URL", "http://environment")
    settings = load_settings(tmp_path)
    assert (settings.rpc_url, settings.threads, settings.gateways) == ("http://environment", 3, ("http://g",))
    assert load_settings(tmp_path, rpc_url="http://given").rpc_url == "http://given"
    assert settings.base == EMBEDDED_BASE


def test_the_home_folder_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "member.toml").write_text('coordinator = "http://dao"\n')
    monkeypatch.setenv("COTERIE_HOME", str(tmp_path))
    assert (load_settings().home, load_settings().coordinator) == (tmp_path, "http://dao")


def test_whether_web_servers_are_asked_is_the_members_own_and_no_documents(tmp_path: Path) -> None:
    assert load_settings(tmp_path).allow_https
    (tmp_path / "member.toml").write_text("allow_https = false\narweave_gateways = []\n")
    settings = load_settings(tmp_path)
    assert (settings.allow_https, settings.arweave_gateways) == (False, ())
    for document in (Policy, RoundPlan, TrainTask, Grant, Dao):
        assert not {"allow_https", "arweave_gateways"} & set(document.model_fields)


def test_what_was_given_once_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "member.toml").write_text("threads = 2\n")
    remember(load_settings(tmp_path, rpc_url='http://node/"key"'), "rpc_url", "gateways")
    again = load_settings(tmp_path)
    assert (again.rpc_url, again.threads) == ('http://node/"key"', 2)


@pytest.mark.parametrize(
    "text", ["rpcurl = 'x'", "threads = 0", "threads =", "arweave_gateways = ['http://127.0.0.1:1984']"]
)
def test_a_wrong_settings_file_is_told_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "member.toml").write_text(text)
    with pytest.raises(BadInput, match=r"member\.toml"):
        load_settings(tmp_path)


def test_progress_that_is_written_is_read_once_and_from_now_on(tmp_path: Path) -> None:
    writer = ProgressWriter(tmp_path)
    lines = [Update(round_id="r", stage="training", step=n, steps=3, loss=0.5, seconds=n) for n in range(1, 4)]
    writer.write(lines[0])
    tail = ProgressTail(tmp_path)
    assert tail.new() == []
    writer.write(lines[1])
    writer.write(lines[2])
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"round_id": "unfin')
    assert tail.new() == lines[1:]
    assert tail.new() == []


def test_errors_end_as_a_sentence_and_a_hint_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["nfts", "nonsense", "--home", str(tmp_path)])
    assert result.exit_code == 1
    assert "nonsense is no address of a coordinator." in result.output
    assert "Traceback" not in result.output


def test_help_speaks_to_someone_who_never_heard_of_federated_learning() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "Your pictures stay on your machine" in shown
    for command in ("join", "nfts", "pull", "status"):
        assert command in shown
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
