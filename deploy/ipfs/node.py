"""The IPFS node's process: a fresh repository, offline, on a free loopback port, ended with its owner."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from processes.children import end
from protocol.errors import NotFound, Unreachable

HERE = Path(__file__).parent
START_S = 60.0
STOP_S = 2.0


class IpfsNode:
    """A running node, as a context manager; ``api`` is its RPC's URL. Nothing is left after the block."""

    def __init__(self) -> None:
        self.api = ""

    def __enter__(self) -> Self:
        if not (HERE / "node_modules" / "ipfs-core").is_dir():
            raise NotFound(
                f"There is no js-ipfs in {HERE}.", f'Run "npm ci --omit=optional --ignore-scripts" in {HERE}.'
            )
        self._folder = tempfile.TemporaryDirectory(prefix="coterie-ipfs-", ignore_cleanup_errors=True)
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def stop(self) -> None:
        """End the process, by force if it does not go; harmless when it has ended already."""
        end(self._process, STOP_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(HERE / "daemon.mjs"), str(Path(self._folder.name) / "repo")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        too_late = threading.Timer(START_S, self._process.kill)
        too_late.start()
        try:
            line = self._process.stdout.readline() if self._process.stdout else b""
        finally:
            too_late.cancel()
        if not line:
            self.stop()
            raise Unreachable("The IPFS node did not start.", "See its output.")
        self.api = str(json.loads(line)["api"])
