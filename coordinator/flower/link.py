"""The coordinator's only module that imports ``flwr`` (written against 1.41).

Three parts: ``SuperLinkControl`` (runs and node keys), the relay's ``Line`` over Flower's grid, and two programs:
the SuperLink, which also starts the runs, and the ServerApp of one run. Whoever reaches the SuperLink's control
API can start a run; a stock SuperLink would then run that caller's code. Here a run is only ever ``server_app``.
"""

import argparse
import hashlib
import importlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import NodeStatus, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient

from coordinator.flower.exchange import Body, Task, load_exchange
from coordinator.flower.relay import Reply, relay
from processes.children import PARENT, end_with_parent
from protocol.errors import Conflict, NotAllowed, Unreachable

EXCHANGE = "COTERIE_EXCHANGE"
TOKEN = "COTERIE_TASK_TOKEN"  # noqa: S105 - the name of a variable
POLL_INTERVAL = 0.5  # seconds between two looks for a run that was started
MESSAGE_LIFE = 7 * 24 * 3600.0  # seconds; rounds last days at most, and a lost message is sent again
MESSAGE_TYPES = {"train": "train", "score": "evaluate", "mask": "query"}
ENDED = {"completed", "failed", "stopped"}
LOST = {ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE}

FAB_PROJECT = b"""\
[project]
name = "coterie-round"
version = "1.0.0"
description = "Names the installed apps of both sides; carries no code."
license = { text = "Apache-2.0" }
dependencies = []

[tool.flwr.app]
publisher = "coterie"

[tool.flwr.app.components]
serverapp = "coordinator.flower.link:server_app"
clientapp = "client.node.link:client_app"

[tool.flwr.app.config]
round = ""
"""

log = logging.getLogger(__name__)
server_app = ServerApp()


@server_app.main()  # type: ignore[untyped-decorator]
def run_round(grid: Grid, context: Context) -> None:
    """Relay between the connected nodes and the round that the run was started for."""
    relay(GridLine(grid), load_exchange(os.environ[EXCHANGE], str(context.run_config["round"])))


def code_free_fab() -> bytes:
    """The app bundle of every run: a zip of one ``pyproject.toml``. The same bytes each time."""
    return bytes(build_fab_from_files({"pyproject.toml": FAB_PROJECT})[0])


class GridLine:
    """``relay.Line`` over Flower's grid."""

    def __init__(self, grid: Grid) -> None:
        """``grid`` is that of the run."""
        self._grid = grid

    def connected(self) -> dict[int, str]:
        """Online nodes, each with the moment at which it was last activated."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def send(self, task: Task, parts: Mapping[int, Body]) -> dict[str, int]:
        """One message to each node, all in one request; equal contents travel to the SuperLink once."""
        shared = RecordDict({"body": ConfigRecord(task.body)})
        messages = [
            Message(
                RecordDict({"body": ConfigRecord(task.body | own)}) if own else shared,
                node_id,
                MESSAGE_TYPES[task.kind],
                ttl=MESSAGE_LIFE,
                group_id=task.task_id,
            )
            for node_id, own in parts.items()
        ]
        pushed = zip(self._grid.push_messages(messages), parts, strict=True)
        return {message_id: node_id for message_id, node_id in pushed if message_id}

    def replies(self, deliveries: Collection[str]) -> Iterable[Reply]:
        """What has come in; an error made by the SuperLink itself means that the message is lost."""
        if not deliveries:
            return
        for message in self._grid.pull_messages(list(deliveries)):
            delivery = message.metadata.reply_to_message_id
            if message.has_error():
                error = message.error
                yield Reply(delivery, None, error.reason or "The node gave no reason.", error.code in LOST)
            elif "body" in message.content:
                yield Reply(delivery, dict(message.content["body"]))
            else:
                yield Reply(delivery, None, "The node's reply has no body.")


class SuperLinkControl:
    """Starts and stops runs, registers and forgets node keys. Thread-safe: a connection for every call.

    Every method raises ``Unreachable`` when the SuperLink does not answer, ``Conflict`` when it refuses.
    """

    def __init__(self, address: str, root_certificate: bytes | Path) -> None:
        """``address`` is host:port; the certificate PEM, or the path of a PEM file that is there at the first call."""
        self._address = address
        self._root_certificate = root_certificate

    def start_run(self, round_id: str) -> int:
        """Start the relay of a round; its run id."""
        fab = code_free_fab()
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(fab).hexdigest(), content=fab),
            override_config=user_config_to_proto({"round": round_id}),
        )
        with self._calling() as control:
            run_id = int(control.StartRun(request).run_id)
        if not run_id:
            raise Conflict("The SuperLink did not start the run.", "Its log says why.")
        return run_id

    def stop_run(self, run_id: int) -> None:
        """End a run's relay, if it has not ended yet. What the nodes still send for it is dropped."""
        if self.runs().get(run_id) in ENDED:
            return
        with self._calling() as control:
            control.StopRun(StopRunRequest(run_id=run_id))

    def runs(self) -> dict[int, str]:
        """Run id → ``pending``, ``starting``, ``running``, ``completed``, ``failed`` or ``stopped``.

        After a kill of the SuperLink its runs look ``running`` for some minutes: stop them and start new ones.
        """
        with self._calling() as control:
            found = control.ListRuns(ListRunsRequest()).run_dict
        return {run_id: run.status.sub_status or run.status.status for run_id, run in found.items()}

    def register_node(self, public_key: bytes) -> int:
        """Let the SuperNode with this EC public key (SubjectPublicKeyInfo PEM) in; its node id.

        Registering it again changes nothing and gives the same id, until it is unregistered.
        """
        try:
            with self._calling() as control:
                return int(control.RegisterNode(RegisterNodeRequest(public_key=public_key)).node_id)
        except Conflict:
            node_id = self.nodes().get(public_key)
            if node_id is None:
                raise
            return node_id

    def unregister_node(self, node_id: int) -> None:
        """Shut this node out for good: its key cannot be registered again."""
        with self._calling() as control:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> dict[bytes, int]:
        """Public key → node id of every registered node."""
        with self._calling() as control:
            found = control.ListNodes(ListNodesRequest()).nodes_info
        return {node.public_key: node.node_id for node in found if node.status != NodeStatus.UNREGISTERED}

    def last_seen(self) -> dict[int, tuple[bool, int | None]]:
        """Node id → whether it is connected now, and since when (Unix seconds); None where it never was."""
        with self._calling() as control:
            found = control.ListNodes(ListNodesRequest()).nodes_info
        return {node.node_id: _connection(node) for node in found if node.status != NodeStatus.UNREGISTERED}

    @contextmanager
    def _calling(self) -> Iterator[ControlHttpClient]:
        certificate = self._root_certificate
        pem = certificate.read_bytes() if isinstance(certificate, Path) else certificate
        control = ControlHttpClient.from_server_address(
            server_address=self._address, insecure=False, root_certificates=pem, interceptors=[]
        )
        try:
            yield control
        except httpx.HTTPStatusError as answer:
            error = FlowerError.from_json(answer.response.text)
            raise Conflict(f"The SuperLink refused: {error.message if error else answer}") from answer
        except httpx.HTTPError as error:
            raise Unreachable("The SuperLink does not answer.", "Is the coordinator running?") from error
        finally:
            control.close()


def _connection(node: NodeInfo) -> tuple[bool, int | None]:
    if not node.last_activated_at:
        return False, None
    if node.status == NodeStatus.ONLINE:
        return True, int(datetime.fromisoformat(node.last_activated_at).timestamp())
    return False, int(node.online_until)


def _run_superlink(arguments: Sequence[str]) -> None:
    """Run Flower's SuperLink with these arguments and start a program for every run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port")
    parser.add_argument("--ssl-ca-certfile", type=Path)
    parser.add_argument("--superexec-auth-secret-file", type=Path)
    known, _ = parser.parse_known_args(arguments)
    launcher = threading.Thread(
        target=_launch_runs,
        args=(f"{known.host}:{known.port}", known.ssl_ca_certfile, known.superexec_auth_secret_file.read_bytes()),
        daemon=True,
    )
    launcher.start()
    flower_superlink = importlib.import_module("flwr.superlink.cli.flower_superlink").flower_superlink
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()


def _launch_runs(address: str, root_certificate: Path, secret: bytes) -> None:
    try:
        _watch_for_runs(address, root_certificate, secret)
    except Exception:
        log.exception("no run can be started any more")
        os._exit(1)  # better no SuperLink than one that does nothing


def _watch_for_runs(address: str, root_certificate: Path, secret: bytes) -> None:
    runtime = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=root_certificate.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    running: list[subprocess.Popen[bytes]] = []
    while True:
        answer = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        if answer.token:
            command = [sys.executable, "-m", "coordinator.flower", "run", address, str(root_certificate)]
            environment = {**os.environ, PARENT: str(os.getpid()), TOKEN: answer.token}
            running.append(subprocess.Popen(command, env=environment))
        running = [run for run in running if run.poll() is None]  # also reaps the ended ones
        time.sleep(POLL_INTERVAL)


def _run_server_app(address: str, root_certificate: Path) -> None:
    """Run one run: fetch it from the SuperLink, check that its FAB is ours, relay."""
    # The package has a function of the same name, which hides the module from an import statement.
    program: Any = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    install = program.install_from_fab

    def install_if_ours(fab: bytes, **options: bool) -> Any:
        if fab != code_free_fab():
            raise NotAllowed("A run was started with a foreign app; only the coordinator's own runs here.")
        return install(fab, **options)

    program.install_from_fab = install_if_ours
    program.run_serverapp(
        runtime_api_address=address,
        log_queue=Queue(),
        token=os.environ.pop(TOKEN),
        insecure=False,
        certificates=root_certificate.read_bytes(),
    )


def main() -> None:
    """``superlink ARGUMENTS…`` or ``run ADDRESS ROOT_CERTIFICATE``."""
    end_with_parent()
    program, *arguments = sys.argv[1:]
    if program == "superlink":
        _run_superlink(arguments)
    else:
        address, root_certificate = arguments
        _run_server_app(address, Path(root_certificate))
