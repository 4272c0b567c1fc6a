"""Events of a contract over any stretch of blocks, however few at a time the node's provider gives out.

Providers cap a question by blocks (ten, some thousands), by answers, or by time, and each words its refusal in its own
way. So the stretch is halved on any refusal and grows again while none comes. Logs tell where to look and since when;
who holds a token is asked of the state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.crypto import keccak

from contracts_abi.asking import as_bytes
from contracts_abi.model import Address
from contracts_abi.rpc import CallReverted, Refused, Rpc
from protocol.errors import Unreachable

FIRST_STRETCH = 10_000
"""Blocks that the first question covers."""

Topics = tuple[str | tuple[str, ...] | None, ...]
"""What a log's topics must be, in their order: one word, one of several, or (None) any."""


@dataclass(frozen=True, order=True)
class Log:
    """One event, ordered as it happened."""

    block: int
    index: int
    topics: tuple[str, ...]
    data: bytes

    def address(self, at: int) -> str:
        """The address in a topic, lower case."""
        return "0x" + self.topics[at][-40:]

    def number(self, at: int) -> int:
        """The unsigned number in a topic."""
        return int(self.topics[at], 16)


@dataclass(frozen=True)
class Stretch:
    """Blocks ``first`` to ``last``, both among them, and every log asked for in them, in order."""

    first: int
    last: int
    logs: tuple[Log, ...]


class Pace:
    """How many blocks are asked for at once: doubled until the first refusal, then halved on each and grown slowly."""

    def __init__(self, blocks: int = FIRST_STRETCH) -> None:
        self.blocks = blocks
        self._refused = False

    def answered(self) -> None:
        self.blocks += self.blocks // 8 + 1 if self._refused else self.blocks

    def refused(self, asked: int) -> None:
        self.blocks, self._refused = max(asked // 2, 1), True


@dataclass(frozen=True)
class Patience:
    """How long a caller waits for a scan, by a clock in seconds."""

    seconds: float = float("inf")
    clock: Callable[[], float] = time.monotonic


def event_topic(signature: str) -> str:
    """The first topic of an event's logs, as of ``Transfer(address,address,uint256)``."""
    return "0x" + keccak(text=signature).hex()


def word(value: int | str) -> str:
    """A number or an address as a topic."""
    return f"0x{value if isinstance(value, int) else int(value, 16):064x}"


def scan(
    rpc: Rpc,
    contract: Address,
    wanted: Sequence[Topics],
    first: int,
    last: int,
    *,
    backwards: bool = False,
    pace: Pace | None = None,
    patience: Patience | None = None,
) -> Iterator[Stretch]:
    """The stretches of ``first`` to ``last`` one after the other, from the oldest or (``backwards``) the newest on.

    ``wanted`` are asked together; a log that fits several of them comes once.

    Raises:
        Unreachable: the node does not answer, refuses a single block, limits the rate of requests, or the caller's
            patience ended. What was yielded before stays true.
    """
    pace, patience = pace or Pace(), patience or Patience()
    ends = patience.clock() + patience.seconds
    while first <= last:
        if patience.clock() > ends:
            raise Unreachable(
                f"The logs of {contract} are not read to their end: blocks {first} to {last} are left.",
                "Ask again: it goes on from there. An indexer's key makes this quick.",
            )
        count = min(pace.blocks, last - first + 1)
        low, high = (last - count + 1, last) if backwards else (first, first + count - 1)
        try:
            found = _logs(rpc, contract, wanted, low, high)
        except Refused as refusal:
            if count == 1 or refusal.by_rate:
                raise
            pace.refused(count)
            continue
        pace.answered()
        yield Stretch(low, high, found)
        first, last = (first, low - 1) if backwards else (high + 1, last)


def _logs(rpc: Rpc, contract: Address, wanted: Sequence[Topics], low: int, high: int) -> tuple[Log, ...]:
    blocks = {"address": contract, "fromBlock": hex(low), "toBlock": hex(high)}
    answers = rpc.batch([("eth_getLogs", ({**blocks, "topics": _plain(topics)},)) for topics in wanted])
    found: set[Log] = set()
    for answer in answers:
        if isinstance(answer, CallReverted):
            raise Refused(rpc.host, answer.message)
        if not isinstance(answer, list):
            raise Refused(rpc.host, "logs that are no list")
        found |= {log for one in answer if (log := _log(one, contract)) and low <= log.block <= high}
    return tuple(sorted(found))


def _plain(topics: Topics) -> list[Any]:
    return [list(one) if isinstance(one, tuple) else one for one in topics]


def _log(raw: Any, contract: Address) -> Log | None:
    """None for what is no log of this contract's, or was taken back."""
    try:
        if raw["address"].lower() != contract.lower() or raw.get("removed"):
            return None
        return Log(
            block=int(raw["blockNumber"], 16),
            index=int(raw["logIndex"], 16),
            topics=tuple(str(topic).lower() for topic in raw["topics"]),
            data=as_bytes(raw["data"]) or b"",
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
