"""Flower as the transport: a real SuperLink and real SuperNodes on loopback."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.node.supernode import SuperNodeProcess
from coordinator.flower.superlink import SuperLinkProcess
from protocol.errors import Conflict, NotAllowed, Unreachable

flower = pytest.importorskip("coordinator.flower.link")
member = pytest.importorskip("client.node.link")

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000
pytestmark = pytest.mark.slow

# The installed halves of both sides, as small as they can be. They run in the processes that Flower starts.
EXCHANGE = """
    import hashlib, os
    from pathlib import Path
    from coordinator.flower.exchange import Task

    class FolderExchange:
        interval = 0.2

        def __init__(self, folder):
            self.folder = folder
            self.masks = folder.name.startswith("mask")
            kind = "mask" if self.masks else "train"
            self.task = Task(kind, "t1", {"model": bytes(1_000_000), "steps": 3, "rate": 0.5, "name": "nouns"})

        def next_task(self):
            return self.task

        def own_part(self, node_id, task):
            return {"for": str(node_id)}

        def wanted(self, node_id, task):
            return not (self.folder / str(node_id)).exists()

        def receive(self, task, node_id, reply):
            assert (reply["kind"], reply["steps"]) == ("mask" if self.masks else "train", 3)
            assert reply["for"] == str(node_id), "a node answered to what was meant for another"
            (self.folder / "new").write_bytes(reply["delta"])
            (self.folder / "new").rename(self.folder / str(node_id))

        def asked(self, task, node_id):
            pass

        def failed(self, task, node_id, reason):
            (self.folder / f"failed-{node_id}").write_text(reason)

        def finished(self):
            return (self.folder / "finished").exists()

    def exchange_for(round_id):
        return FolderExchange(Path(os.environ["ROUNDS"]) / round_id)
"""
HANDLER = """
    import os
    from protocol.errors import BadInput

    class Handler:
        def __init__(self, home):
            self.home = home

        def handle(self, kind, body):
            if (self.home / "fails").exists():
                raise BadInput("The dataset has no images.", "Choose more tokens.")
            assert len(body["model"]) == 1_000_000 and body["rate"] == 0.5 and body["name"] == "nouns"
            return {"delta": os.urandom(1_000_000), "kind": kind, "steps": body["steps"], "for": body["for"]}

    def handler_for(home):
        return Handler(home)
"""


def wait_until(true: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def make_key(home: Path) -> bytes:
    """Write a node key into the member's home; its public half."""
    home.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP384R1())
    encoding, bare = serialization.Encoding.PEM, serialization.NoEncryption()
    (home / "node.pem").write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, bare))
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Dao:
    """A SuperLink, and members who may join it."""

    folder: Path
    superlink: SuperLinkProcess
    control: "flower.SuperLinkControl"
    nodes: dict[str, SuperNodeProcess] = field(default_factory=dict)

    def join(self, name: str, registered: bool = True) -> int:
        home = self.folder / name
        public_key = make_key(home)
        node_id = self.control.register_node(public_key) if registered else 0
        certificate = self.superlink.root_certificate
        node = SuperNodeProcess(home, self.superlink.address, certificate, home / "node.pem", "handler:handler_for")
        self.nodes[name] = node
        node.start()
        return node_id

    def round_folder(self, round_id: str) -> Path:
        folder = self.folder / "rounds" / round_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the installed halves, importable by every process started meanwhile."""
    folder = tmp_path_factory.mktemp("flower")
    (folder / "exchange.py").write_text(textwrap.dedent(EXCHANGE))
    (folder / "handler.py").write_text(textwrap.dedent(HANDLER))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", f"{ROOT}:{folder}")
        environment.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        environment.setenv("ROUNDS", str(folder / "rounds"))
        yield folder


@pytest.fixture(scope="module")
def dao(workplace: Path) -> Iterator[Dao]:
    superlink = SuperLinkProcess(workplace / "data", "exchange:exchange_for")
    with superlink:
        dao = Dao(workplace, superlink, flower.SuperLinkControl(superlink.address, superlink.root_certificate))
        try:
            yield dao
        finally:
            for node in dao.nodes.values():
                node.stop()


def test_a_task_reaches_every_registered_member_and_a_late_one_but_no_stranger(dao: Dao) -> None:
    folder = dao.round_folder("r1")
    first, second = dao.join("first"), dao.join("second")
    dao.join("stranger", registered=False)
    run_id = dao.control.start_run("r1")
    wait_until(lambda: (folder / str(first)).exists() and (folder / str(second)).exists())
    assert (folder / str(first)).stat().st_size == MEGABYTE
    assert (folder / str(first)).read_bytes() != (folder / str(second)).read_bytes()

    late = dao.join("late")
    wait_until(lambda: (folder / str(late)).exists())
    assert {path.name for path in folder.iterdir()} == {str(first), str(second), str(late)}
    assert "Failed to activate" in dao.nodes["stranger"].log_file.read_text()

    (folder / "finished").touch()
    wait_until(lambda: dao.control.runs()[run_id] == "completed")
    dao.control.stop_run(run_id)  # nothing left to stop, and no error
    dao.nodes["stranger"].stop()
    dao.nodes["late"].stop()


def test_an_exchange_of_a_secret_sum_reaches_the_members_with_what_is_for_each_alone(dao: Dao) -> None:
    folder = dao.round_folder("masked")
    run_id = dao.control.start_run("masked")
    wait_until(lambda: len(list(folder.glob("[0-9]*"))) >= 2)
    assert not list(folder.glob("failed-*"))
    dao.control.stop_run(run_id)


def test_a_member_who_cannot_do_the_task_says_why_in_one_sentence(dao: Dao) -> None:
    (dao.folder / "first" / "fails").touch()
    folder = dao.round_folder("r2")
    (folder / str(dao.control.register_node(public_key_of(dao, "second")))).touch()
    run_id = dao.control.start_run("r2")
    wait_until(lambda: any(folder.glob("failed-*")))
    assert next(folder.glob("failed-*")).read_text() == "The dataset has no images. Choose more tokens."
    dao.control.stop_run(run_id)
    assert dao.control.runs()[run_id] == "stopped"


def test_registering_twice_is_fine_and_an_unregistered_key_stays_out(dao: Dao) -> None:
    public_key = make_key(dao.folder / "leaver")
    node_id = dao.control.register_node(public_key)
    assert dao.control.register_node(public_key) == node_id
    dao.control.unregister_node(node_id)
    assert public_key not in dao.control.nodes()
    with pytest.raises(Conflict):
        dao.control.register_node(public_key)


def public_key_of(dao: Dao, name: str) -> bytes:
    key = serialization.load_pem_private_key((dao.folder / name / "node.pem").read_bytes(), None)
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


HOSTILE = {
    "hostile/__init__.py": b"",
    "hostile/app.py": b"""
import os, pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

def mark(side):
    (pathlib.Path(os.environ["ROUNDS"]).parent / f"hostile-{side}").write_text("ran")

client_app = ClientApp()

@client_app.train()
def train(message, context):
    mark("client")
    return Message(RecordDict({"body": ConfigRecord({})}), reply_to=message)

server_app = ServerApp()

@server_app.main()
def main(grid, context):
    mark("server")
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    reply, = grid.send_and_receive([Message(RecordDict({"body": ConfigRecord({})}), nodes[0], "train")])
    (pathlib.Path(os.environ["ROUNDS"]).parent / "hostile-reply").write_text(reply.error.reason)
""",
}


def hostile_fab() -> bytes:
    project = flower.FAB_PROJECT.replace(b"coordinator.flower.link", b"hostile.app")
    project = project.replace(b"client.node.link", b"hostile.app")
    return flower.build_fab_from_files({"pyproject.toml": project, **HOSTILE})[0]


def start_hostile_run(control: "flower.SuperLinkControl") -> int:
    fab = hostile_fab()
    with control._calling() as calling:
        bundle = flower.Fab(hash_str=hashlib.sha256(fab).hexdigest(), content=fab)
        return calling.StartRun(flower.StartRunRequest(fab=bundle)).run_id


def test_our_superlink_runs_nobody_elses_app(dao: Dao) -> None:
    run_id = start_hostile_run(dao.control)
    wait_until(lambda: dao.control.runs()[run_id] == "failed")
    assert not (dao.folder / "hostile-server").exists()


class HostileSuperLink(SuperLinkProcess):
    """Flower's own SuperLink, which runs the server half of whatever app it is given."""

    def _command(self) -> list[str]:
        arguments = super()._command()[4:]
        at = arguments.index("--isolation")
        return [str(Path(sys.executable).with_name("flower-superlink")), *arguments[:at], *arguments[at + 4 :]]


def test_a_member_refuses_an_app_that_carries_code_and_never_runs_it(workplace: Path) -> None:
    with HostileSuperLink(workplace / "hostile", "nobody:home") as superlink:
        dao = Dao(workplace, superlink, flower.SuperLinkControl(superlink.address, superlink.root_certificate))
        dao.join("victim")
        try:
            start_hostile_run(dao.control)
            wait_until(lambda: (workplace / "hostile-reply").exists())
        finally:
            dao.nodes["victim"].stop()
    assert "code from the network never runs" in (workplace / "hostile-reply").read_text()
    assert (workplace / "hostile-server").exists(), "the hostile coordinator was hostile indeed"
    assert not (workplace / "hostile-client").exists()


def test_only_the_code_free_app_is_accepted() -> None:
    member.refuse_code(flower.code_free_fab())
    other_app = flower.FAB_PROJECT.replace(b"client.node.link:client_app", b"os:abort")
    for fab in (
        b"no zip",
        bytes(100_000),
        hostile_fab(),
        flower.build_fab_from_files({"pyproject.toml": other_app})[0],
    ):
        with pytest.raises(NotAllowed):
            member.refuse_code(fab)


def test_registrations_survive_a_restart_of_the_superlink(workplace: Path) -> None:
    superlink = SuperLinkProcess(workplace / "restarted", "exchange:exchange_for")
    control = flower.SuperLinkControl(superlink.address, superlink.root_certificate)
    with superlink:
        node_id = control.register_node(public_key := make_key(workplace / "registered"))
    with pytest.raises(Unreachable):
        control.runs()
    with superlink:
        assert control.nodes() == {public_key: node_id}


PARENT = """
    import sys, time
    from pathlib import Path
    from client.node.supernode import SuperNodeProcess
    from coordinator.flower.superlink import SuperLinkProcess
    folder = Path(sys.argv[1])
    superlink = SuperLinkProcess(folder, "exchange:exchange_for")
    superlink.start()
    node = SuperNodeProcess(folder, superlink.address, superlink.root_certificate, folder / "node.pem")
    node.start()
    print(superlink._child.pid, node._child.pid, flush=True)
    time.sleep(600)
"""


def test_a_killed_parent_leaves_no_process_behind(workplace: Path) -> None:
    folder = workplace / "orphans"
    make_key(folder)
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(running(pid) for pid in children), 10)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
