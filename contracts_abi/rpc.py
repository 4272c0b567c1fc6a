"""Ethereum's JSON-RPC over HTTP, many calls in one request (JSON-RPC 2.0, section 6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from protocol.errors import Unreachable

BATCH = 500
MAX_RESPONSE_BYTES = 16 * 2**20
"""A longer answer is not read to its end: the batch is asked again in halves, a single call counts as reverted."""

_REVERTED = 3
# What nodes call a halt inside the contract when its code is not 3 (anvil, geth, Nethermind, Erigon, Besu). Anything
# else (rate limits, pruned or unknown blocks) says nothing about the contract and must never pass for its answer.
_HALTS = (
    "revert",
    "out of gas",
    "outofgas",
    "evm error",
    "vm execution error",
    "invalid opcode",
    "invalid jump",
    "bad instruction",
    "stack underflow",
    "stack limit reached",
    "return data out of bounds",
    "write protection",
    "execution aborted",
)
_RATE = ("rate limit", "rate-limit", "too many requests", "request count exceeded", "status 429", "capacity", "quota")

Request = tuple[str, Sequence[object]]


@dataclass(frozen=True)
class CallReverted:
    """A contract that ran and gave no answer: it reverted, ran out of gas, halted or answered without end."""

    message: str


class Refused(Unreachable):
    """The node answers, and will not do what it was asked."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(f"The chain at {host} refused: {why[:300]}.", "Try again later, or configure another RPC URL.")
        self.by_rate = any(word in why.lower() for word in _RATE)
        """Whether it was asked too often, so that asking for less would not help."""


class _TooLong(Exception):
    pass


class Rpc:
    """One node's JSON-RPC endpoint.

    Errors name the host only, because a provider's URL often carries its key in the path.
    """

    def __init__(self, url: str, timeout_s: float = 20.0) -> None:
        self.url = url
        self.timeout_s = timeout_s
        parts = urlsplit(url)
        self.host = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._session = requests.Session()

    def call(self, method: str, *params: object) -> Any:
        """The result of one call; raises Unreachable when there is none."""
        [result] = self.batch([(method, params)])
        if isinstance(result, CallReverted):
            raise self._refusal(result.message)
        return result

    def batch(self, calls: Sequence[Request]) -> list[Any]:
        """The results in the order of ``calls``, in chunks of ``BATCH`` a request.

        A contract's failure is the value CallReverted in its place and touches no other call; a node that does not
        answer, or refuses (rate limit, unknown block), raises Unreachable.
        """
        return [result for at in range(0, len(calls), BATCH) for result in self._chunk(calls[at : at + BATCH])]

    def _chunk(self, calls: Sequence[Request]) -> list[Any]:
        try:
            replies = self._post(calls)
        except _TooLong:
            if len(calls) == 1:
                return [CallReverted(f"the answer is longer than {MAX_RESPONSE_BYTES} bytes")]
            half = len(calls) // 2
            return self._chunk(calls[:half]) + self._chunk(calls[half:])
        return [self._result(replies, at) for at in range(len(calls))]

    def _post(self, calls: Sequence[Request]) -> dict[int, dict[str, Any]]:
        body = [{"jsonrpc": "2.0", "id": at, "method": call[0], "params": call[1]} for at, call in enumerate(calls)]
        try:
            with self._session.post(
                self.url, json=body, timeout=self.timeout_s, stream=True, allow_redirects=False
            ) as response:
                status, text = response.status_code, _bounded(response)
        except requests.RequestException as error:
            raise Unreachable(
                f"The chain at {self.host} does not answer.", "Check the RPC URL and that the node is running."
            ) from error
        try:
            replies = json.loads(text)
        except ValueError as error:
            raise self._refusal(f"HTTP status {status} and no JSON") from error
        if isinstance(replies, dict) and "error" in replies:
            raise self._refusal(str(replies["error"]))
        if not isinstance(replies, list):
            raise self._refusal(f"HTTP status {status} and no batch of answers")
        return {reply["id"]: reply for reply in replies if isinstance(reply, dict) and isinstance(reply.get("id"), int)}

    def _result(self, replies: dict[int, dict[str, Any]], at: int) -> Any:
        reply = replies.get(at, {})
        if "result" in reply:
            return reply["result"]
        error = reply.get("error")
        if not isinstance(error, dict):
            raise self._refusal("an answer is missing from the batch")
        message = str(error.get("message", ""))
        if error.get("code") == _REVERTED or any(halt in message.lower() for halt in _HALTS):
            return CallReverted(message)
        raise self._refusal(message)

    def _refusal(self, why: str) -> Refused:
        return Refused(self.host, why)


def _bounded(response: requests.Response) -> bytes:
    body = bytearray()
    for piece in response.iter_content(2**16):
        body += piece
        if len(body) > MAX_RESPONSE_BYTES:
            raise _TooLong
    return bytes(body)
