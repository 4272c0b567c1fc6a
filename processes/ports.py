"""Ports that nobody listens on."""

import contextlib
import socket

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Different ports on loopback, free at this moment."""
    with contextlib.ExitStack() as stack:
        return [_bound(stack.enter_context(socket.socket())) for _ in range(count)]


def _bound(probe: socket.socket) -> int:
    probe.bind((LOOPBACK, 0))
    return int(probe.getsockname()[1])
