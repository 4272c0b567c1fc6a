"""The member's only module that imports ``flwr`` (written against 1.41).

Two programs: the SuperNode, which also starts the tasks, and the ClientApp of one task. A stock SuperNode runs
whatever Python the coordinator's FAB carries, as ClientApp or as agent. Here every task is run by this module's
own program, which refuses a FAB with anything in it but the name of the installed ``client_app``.
"""

import argparse
import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient

from client.node.tasks import INSTALLED_HANDLER, Body, load_handler
from processes.children import PARENT, end_with_parent
from processes.imports import uncollected
from protocol.errors import CoterieError, NotAllowed

HOME = "COTERIE_HOME"
HANDLER = "COTERIE_HANDLER"
POLL_INTERVAL = 0.5  # seconds between two looks for a task that the SuperNode has received

CLIENT_APP = "client.node.link:client_app"
FAB_LIMIT = 64 * 1024  # bytes; a code-free FAB has about 600
FAB_FILES = frozenset({"pyproject.toml", ".info/CONTENT"})

log = logging.getLogger(__name__)
client_app = ClientApp()


@client_app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Answer a training task."""
    return _answer("train", message)


@client_app.evaluate()  # type: ignore[untyped-decorator]
def score(message: Message, context: Context) -> Message:
    """Answer a scoring task."""
    return _answer("score", message)


@client_app.query()  # type: ignore[untyped-decorator]
def mask(message: Message, context: Context) -> Message:
    """Answer an exchange of a secret sum."""
    return _answer("mask", message)


def _answer(kind: str, message: Message) -> Message:
    try:
        reply = _handle(kind, dict(message.content["body"]))
    except CoterieError as error:
        return _refusal(message, str(error))
    except Exception as error:
        log.exception("the task failed")  # the text may name private files, so it stays here
        return _refusal(message, f"The member's client failed with {type(error).__name__}; its log says why.")
    return Message(RecordDict({"body": ConfigRecord(reply)}), reply_to=message)


def _handle(kind: str, body: Body) -> Body:
    reference = os.environ.get(HANDLER, INSTALLED_HANDLER)
    return load_handler(reference, Path(os.environ[HOME])).handle(kind, body)


def _refusal(message: Message, reason: str) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def refuse_code(fab: bytes) -> None:
    """Return if the FAB (a zip) carries nothing but the name of the installed ClientApp; else raise ``NotAllowed``."""
    if len(fab) > FAB_LIMIT:
        raise NotAllowed("The coordinator sent an app of more than 64 KiB; code from the network never runs here.")
    try:
        with zipfile.ZipFile(io.BytesIO(fab)) as archive:
            files = {entry.filename: entry.file_size for entry in archive.infolist()}
            if extra := sorted(set(files) - FAB_FILES):
                raise NotAllowed(f"The coordinator sent code ({extra[0]}); code from the network never runs here.")
            if sum(files.values()) > FAB_LIMIT:
                raise NotAllowed("The coordinator sent an app that unpacks to more than 64 KiB.")
            config = tomllib.loads(archive.read("pyproject.toml").decode())
        named = config["tool"]["flwr"]["app"]["components"]["clientapp"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise NotAllowed("The coordinator sent an app that cannot be read.") from error
    if named != CLIENT_APP:
        raise NotAllowed(f"The coordinator asked for {named} instead of the installed {CLIENT_APP}.")


def _run_supernode(arguments: Sequence[str]) -> None:
    """Run Flower's SuperNode with these arguments and start a program for every task it receives."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port")
    parser.add_argument("--superexec-auth-secret-file", type=Path)
    known, _ = parser.parse_known_args(arguments)
    secret = known.superexec_auth_secret_file.read_bytes()
    launcher = threading.Thread(target=_launch_tasks, args=(f"{known.host}:{known.port}", secret), daemon=True)
    launcher.start()

    flower_supernode = importlib.import_module("flwr.supernode.cli.flower_supernode").flower_supernode
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()
    # Flower logs a broken connection and returns, but its HTTP thread would keep the process for ever.
    os._exit(1)


def _launch_tasks(address: str, secret: bytes) -> None:
    try:
        _watch_for_tasks(address, secret)
    except Exception:
        log.exception("no task can be started any more")
        os._exit(1)  # the parent starts a whole SuperNode again


def _watch_for_tasks(address: str, secret: bytes) -> None:
    runtime = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    # Agent tasks are taken too, so that they are refused instead of blocking the node.
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP, TaskType.AGENT_APP])
    spare: subprocess.Popen[bytes] | None = None
    running: list[subprocess.Popen[bytes]] = []
    while True:
        answer = runtime.AcquireTask(request)
        if answer.token:
            ready = spare if spare and _runs(spare) else _start_spare(address)
            running, spare = [*running, _begin(ready, answer.token)], None
        running = [task for task in running if _runs(task)]  # also reaps the ended ones
        if not running and not (spare and _runs(spare)):
            spare = _start_spare(address)
        time.sleep(POLL_INTERVAL)


def _start_spare(address: str) -> subprocess.Popen[bytes]:
    """A task's program that has nothing to do yet: it imports everything, which takes longer than many a task."""
    command = [sys.executable, "-m", "client.node", "task", address]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, PARENT: str(os.getpid())})


def _begin(task: subprocess.Popen[bytes], token: str) -> subprocess.Popen[bytes]:
    """Give a waiting program its task, by a pipe that nobody else reads."""
    assert task.stdin
    with task.stdin as pipe, contextlib.suppress(BrokenPipeError):
        pipe.write(token.encode())
    return task


def _runs(task: subprocess.Popen[bytes]) -> bool:
    return task.poll() is None


def _run_task(address: str) -> None:
    """Import what tasks need, wait for one; then fetch it from the SuperNode, check its FAB, answer it."""
    program: Any = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    install = program.install_from_fab

    def install_if_code_free(fab: bytes, **options: bool) -> Any:
        refuse_code(fab)
        return install(fab, **options)

    program.install_from_fab = install_if_code_free
    with contextlib.suppress(Exception), uncollected():  # the task itself will fail by it, and say so
        importlib.import_module(os.environ.get(HANDLER, INSTALLED_HANDLER).partition(":")[0])
    if token := sys.stdin.read():
        program.run_clientapp(runtime_api_address=address, token=token, insecure=True)


def main() -> None:
    """``supernode ARGUMENTS…`` or ``task ADDRESS``."""
    end_with_parent()
    program, *arguments = sys.argv[1:]
    if program == "supernode":
        _run_supernode(arguments)
    else:
        _run_task(arguments[0])
