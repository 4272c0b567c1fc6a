"""The anvil process: a private Ethereum chain on a free loopback port, ended with its owner."""

from __future__ import annotations

import ctypes
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from contracts_abi.rpc import Rpc
from processes.children import end
from processes.ports import free_ports
from protocol.errors import NotFound, Unreachable

HERE = Path(__file__).parent
CHAIN_ID = 31337
SLOTS_IN_AN_EPOCH = 4
FINALITY = 2 * SLOTS_IN_AN_EPOCH
"""anvil calls the block this far below the latest one finalized: two epochs, as on mainnet, but of 4 slots, not 32.

anvil copies the whole state for every block, so 64 blocks over 60 on-chain images take 2 s and 100 MB.
"""

# Storing metadata of 12 kB costs 9 million gas: a mint may use a fifth of this (80 kB).
BLOCK_GAS = 300_000_000
START_S = 30.0
STOP_S = 5.0

# The first ten accounts of anvil's well-known mnemonic "test test test test test test test test test test test junk".
# Public knowledge: never send anything of value to them.
ANVIL_KEYS = (
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
    "0xdbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
)


class Anvil:
    """A running anvil, as a context manager; ``url`` answers inside the block and nothing is left after it.

    On Linux the kernel ends it even when this process is killed outright. That watch is kept on the thread that
    entered the block, so enter it from a thread that lives as long as the chain shall.
    """

    chain_id = CHAIN_ID

    def __init__(self) -> None:
        self.url = ""

    def __enter__(self) -> Self:
        binary = anvil_binary()
        self._folder = tempfile.TemporaryDirectory(prefix="coterie-anvil-")
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.rpc = Rpc(self.url)
        self._process = subprocess.Popen(
            [
                *(str(binary), "--silent", "--host", "127.0.0.1", "--port", str(port)),
                *("--chain-id", str(CHAIN_ID), "--accounts", "12", "--gas-limit", str(BLOCK_GAS)),
                *("--slots-in-an-epoch", str(SLOTS_IN_AN_EPOCH), "--cache-path", self._folder.name),
            ],
            stdin=subprocess.DEVNULL,
            preexec_fn=_ends_with_parent(),
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, by force if it does not go; harmless when it has ended already."""
        end(self._process, STOP_S)
        self._folder.cleanup()

    def mine(self, blocks: int) -> None:
        """Add ``blocks`` empty blocks; their timestamps do not run ahead of the clock."""
        self.rpc.call("anvil_mine", hex(blocks), "0x0")

    def finalize(self) -> int:
        """Mine until the present head is finalized; returns that head's number."""
        head = int(self.rpc.call("eth_blockNumber"), 16)
        self.mine(FINALITY)
        finalized = int(self.rpc.call("eth_getBlockByNumber", "finalized", False)["number"], 16)
        if finalized < head:
            raise Unreachable(
                f"anvil finalized block {finalized}, not {head}.", "Adapt FINALITY to this version of anvil."
            )
        return head

    def reorg(self, depth: int) -> None:
        """Replace the last ``depth`` blocks by empty ones."""
        self.rpc.call("anvil_reorg", depth, [])

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            if self._process.poll() is not None:
                raise Unreachable(f"anvil ended at once with status {self._process.returncode}.", "See its output.")
            try:
                self.rpc.call("eth_chainId")
                return
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def anvil_binary() -> Path:
    """The binary that npm's platform package brought; raises NotFound where npm has not run."""
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower(), platform.machine()
    )
    binary = HERE / f"node_modules/@foundry-rs/anvil-{sys.platform}-{machine}/bin/anvil"
    if not binary.exists():
        raise NotFound(f"There is no anvil at {binary}.", f'Run "npm ci --ignore-scripts" in {HERE}.')
    return binary


def _ends_with_parent() -> Callable[[], None] | None:
    """What the child runs before anvil so that the kernel ends it with its parent: Linux's PR_SET_PDEATHSIG."""
    if sys.platform != "linux":
        return None
    libc, pr_set_pdeathsig = ctypes.CDLL(None), 1
    return lambda: libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
