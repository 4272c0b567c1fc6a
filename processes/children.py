"""Child processes that never outlive their parent, however it ends.

The parent starts each child as the leader of a process group of its own and kills that group at the end. The
child watches for its parent's death and kills the group itself: PR_SET_PDEATHSIG would do so when the *thread*
that started the child ends, which is wrong under a threaded server, and it exists on Linux only.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PARENT = "COTERIE_PARENT"
WATCH_INTERVAL = 0.5  # seconds


class Child:
    """One running program and everything that it started, ended together."""

    def __init__(self, command: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> None:
        """Start ``command`` with exactly ``environment``; its output is appended to ``log_file``."""
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, PARENT: str(os.getpid())},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The leader's process id, which is the group's id too."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the leader runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Return when the leader has ended; then end what it left behind."""
        self._process.wait()
        self._kill_group()

    def stop(self, patience: float = 5.0) -> None:
        """Ask the leader to end, wait ``patience`` seconds, then kill the whole group."""
        if self.alive:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._kill_group()
        self._process.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    """Ask a process to end, and kill it after ``patience`` seconds; harmless when it has ended already."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_with_parent() -> None:
    """In a child: from now on, kill the own process group as soon as the parent is gone."""
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_INTERVAL)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
