"""The real web server, in a process of its own on loopback, over a folder that is made for it."""

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from bench.web.filled import POLICY
from coordinator.config import CoordinatorSettings
from processes.children import Child

START_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    settings: CoordinatorSettings
    process: Child


def prepared(folder: Path, more: Mapping[str, object] | None = None) -> Path:
    """A policy, an empty base and the settings, with these beside what is needed; the settings' file."""
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "model_index.json").write_text("{}")
    (folder / "policy.json").write_bytes(POLICY.canonical())
    port = _free_port()
    values: dict[str, object] = {
        "rpc_url": "http://127.0.0.1:9",
        "policy": "policy.json",
        "base": "base",
        "base_name": "bench base",
        "port": port,
        **(more or {}),
    }
    file = folder / "coordinator.toml"
    file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in values.items()))
    return file


@contextmanager
def served(file: Path) -> Iterator[Served]:
    """``coterie-coordinator serve`` with these settings, ended on the way out. TimeoutError without an answer."""
    settings = CoordinatorSettings.load(file)
    url = f"http://{settings.host}:{settings.port}"
    command = [sys.executable, "-m", "coordinator", "serve", "--config", str(file)]
    process = Child(command, file.with_suffix(".log"), os.environ)
    try:
        _wait_until_answered(url, process, file.with_suffix(".log"))
        yield Served(url, settings, process)
    finally:
        process.stop()


def _wait_until_answered(url: str, process: Child, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.alive and time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/healthz", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise TimeoutError(f"The web server did not start:\n{log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _toml(value: object) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'
