"""The demo's programs: each with a log of its own, watched while the demo waits, ended with all that they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from protocol.errors import CoterieError

PATIENCE_S = 15.0
POLL_S = 0.25
TAIL_LINES = 25

T = TypeVar("T")


class DemoFailed(CoterieError):
    """The demo cannot go on; ``logs`` hold why."""

    code = "demo-failed"

    def __init__(self, message: str, logs: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.logs = tuple(logs)


class Running:
    """One long-running program, the leader of a session of its own: Ctrl-C reaches the demo alone, which ends it."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Sequence[Path]) -> None:
        """Output is appended to the first of ``logs``; the others are what its own children write."""
        self.name = name
        self.logs = tuple(logs)
        self.logs[0].parent.mkdir(parents=True, exist_ok=True)
        with self.logs[0].open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_asked_to_end_with_parent(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask_to_end(self) -> None:
        """Send SIGTERM; harmless when it has ended."""
        if self.alive:
            self._process.terminate()

    def stop(self) -> None:
        """Wait for the end that was asked for; after ``PATIENCE_S`` seconds kill the session's processes."""
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Processes:
    """All programs of one demo, ended last to first when the block is left, however it is left."""

    def __init__(self) -> None:
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running[1:]:  # members leave side by side, while their coordinator is still there
            process.ask_to_end()
        for process in reversed(self._running):
            process.stop()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._running]

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Sequence[Path]) -> Running:
        """Start a program that runs until the end."""
        process = Running(name, command, environment, logs)
        self._running.append(process)
        return process

    def wait_for(self, what: str, look: Callable[[], T | None], seconds: float) -> T:
        """What ``look`` gives, asked again and again until it is not None.

        Raises:
            DemoFailed: ``seconds`` have passed, or one of the programs has ended meanwhile.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found is not None:
                return found
            ended = next((process for process in self._running if not process.alive), None)
            if ended:
                raise DemoFailed(f"{ended.name} ended while the demo waited for {what}.", ended.logs)
            if time.monotonic() > deadline:
                logs = [log for process in self._running for log in process.logs]
                raise DemoFailed(f"After {seconds:.0f} s there is still no {what}.", logs)
            time.sleep(POLL_S)


def program(name: str) -> str:
    """A console script of this Python's environment: what a person would type."""
    script = Path(sys.executable).with_name(name)
    if not script.exists():
        raise DemoFailed(f"There is no {script}: the project is not installed there. Run make setup.")
    return str(script)


def environment(**variables: str) -> dict[str, str]:
    """This machine's environment without any settings of a real member or coordinator, and with ``variables``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COTERIE_")}
    calm = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**inherited, **calm, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", **variables}


def run(command: Sequence[str], variables: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """A program that answers and ends; its output as text. Raises DemoFailed when it takes too long."""
    try:
        return subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**environment(**variables), "COLUMNS": "1000"},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DemoFailed(f"{Path(command[0]).name} {command[1]} did not end within {seconds:.0f} s.") from error


def tail(log: Path) -> str:
    """The last lines of a log."""
    if not log.exists():
        return "(nothing was written)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def _asked_to_end_with_parent() -> Callable[[], None] | None:
    """What a child runs first, so that the kernel asks it to end when the demo is killed outright (Linux only)."""
    if sys.platform != "linux":
        return None
    libc, pr_set_pdeathsig = ctypes.CDLL(None), 1
    return lambda: libc.prctl(pr_set_pdeathsig, signal.SIGTERM)


def last_words(done: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """What a program that failed said, without empty lines."""
    yield from (line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
