"""The crowd, in a process of its own: listeners, sign-ins and readers at once, each on a connection of its own.

``python -m bench.web.load URL`` reads an order, one line of JSON, and prints what it found as one line of JSON. A
request counts from the moment at which it was due, so a server that falls behind cannot hide it.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from eth_account import Account
from eth_account.messages import encode_defunct

from bench.web.filled import POLICY, key_of
from protocol.sign_in import sign_in_message

PATIENCE_SECONDS = 10.0
READ_BEFORE = 8
"""How often each page is read before it counts: a server that has just started reads its whole past once."""
JOINING_EACH_SECOND = 100
"""Listeners that come anew; a crowd is not there at once."""


@dataclass(frozen=True)
class Order:
    """What to do for ``seconds``."""

    listeners: int
    sign_ins_each_second: float
    pages_each_second: float
    pages: tuple[str, ...]
    members: int
    seconds: float


@dataclass
class Found:
    """What came of it; times in milliseconds."""

    listening: int = 0
    numbers: list[int] = field(default_factory=list)
    """The last event that each listener has."""
    repeated: int = 0
    skipped: int = 0
    stream_errors: list[str] = field(default_factory=list)
    sign_ins: list[float] = field(default_factory=list)
    sign_in_errors: list[str] = field(default_factory=list)
    pages: dict[str, list[float]] = field(default_factory=dict)
    page_errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """From the first request that was due to the last that was answered."""
    own_cpu_seconds: float = 0.0


class Crowd:
    """Everybody, at one server."""

    def __init__(self, url: str, order: Order) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._url = parts.hostname or "", parts.port or 80, url
        self._order = order
        self._keys = [Account.from_key(key_of(one)) for one in range(order.members)]
        self.found = Found()

    async def run(self, begin: Callable[[], Awaitable[None]], until: Callable[[], Awaitable[int]]) -> None:
        """All at once, when ``begin`` says so; then listeners wait for the last event, whose number ``until`` tells."""
        order, found = self._order, self.found
        listeners = []
        for _ in range(order.listeners):
            listeners.append(asyncio.create_task(self._listen()))
            await asyncio.sleep(1 / JOINING_EACH_SECOND)
        await self._wait(lambda: found.listening + len(found.stream_errors) >= order.listeners)
        if order.pages_each_second:
            for page in READ_BEFORE * order.pages:
                await self._call("GET", page)
        await begin()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(
            self._at_rate(order.sign_ins_each_second, self._sign_in),
            self._at_rate(order.pages_each_second, self._read),
        )
        found.seconds, found.own_cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        last = await until()
        await self._wait(lambda: len(found.numbers) == found.listening and min(found.numbers, default=last) >= last)
        for one in listeners:
            one.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)

    async def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done() and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    async def _at_rate(self, each_second: float, act: Callable[[int, float], Coroutine[Any, Any, None]]) -> None:
        """Begin one when it is due, whether or not those before have ended."""
        began = time.perf_counter()
        tasks: list[asyncio.Task[None]] = []
        for number in range(round(each_second * self._order.seconds)):
            due = began + number / each_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(act(number, due)))
        await asyncio.gather(*tasks)

    async def _listen(self) -> None:
        found = self.found
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            writer.write(self._head("GET", "/api/v1/events/stream", "") + b"\r\n")
            status = await reader.readline()
            if b" 200 " not in status:
                raise ValueError(status.decode().strip())
            place = len(found.numbers)
            found.numbers.append(-1)
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    self._heard(place, int(line[4:]))
            raise ValueError("The stream ended.")
        except (OSError, ValueError) as error:
            found.stream_errors.append(str(error))

    def _heard(self, place: int, number: int) -> None:
        before, self.found.numbers[place] = self.found.numbers[place], number
        if before < 0:
            self.found.listening += 1
        elif number <= before:
            self.found.repeated += 1
        else:
            self.found.skipped += number - before - 1

    async def _sign_in(self, number: int, due: float) -> None:
        wallet = self._keys[number % len(self._keys)]
        try:
            answer, cookie = await self._call("GET", "/api/v1/nonce")
            text = sign_in_message(
                wallet.address,
                f"{self._host}:{self._port}",
                self._url,
                POLICY.chain_id,
                json.loads(answer)["nonce"],
                datetime.now(UTC),
            )
            signature = wallet.sign_message(encode_defunct(text=text)).signature.to_0x_hex()
            body = json.dumps({"message": text, "signature": signature}).encode()
            opened, _ = await self._call("POST", "/api/v1/session", body, cookie)
            if not json.loads(opened)["token"]:
                raise ValueError("no token")
        except (OSError, ValueError, LookupError, TimeoutError) as error:
            self.found.sign_in_errors.append(f"{type(error).__name__}: {error}")
            return
        self.found.sign_ins.append((time.perf_counter() - due) * 1000)

    async def _read(self, number: int, due: float) -> None:
        page = self._order.pages[number % len(self._order.pages)]
        try:
            await self._call("GET", page)
        except (OSError, ValueError, TimeoutError) as error:
            self.found.page_errors.append(f"{page}: {type(error).__name__}: {error}")
            return
        self.found.pages.setdefault(page, []).append((time.perf_counter() - due) * 1000)

    async def _call(self, method: str, path: str, body: bytes = b"", cookie: str = "") -> tuple[bytes, str]:
        """A request on a connection of its own, as a reverse proxy makes them: the answer's body and its cookie."""
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(self._host, self._port)
            try:
                more = f"Connection: close\r\nContent-Length: {len(body)}\r\nContent-Type: application/json\r\n"
                writer.write(self._head(method, path, cookie) + more.encode() + b"\r\n" + body)
                head, _, content = (await reader.read(-1)).partition(b"\r\n\r\n")
            finally:
                writer.close()
        status, *lines = head.decode("latin-1").split("\r\n")
        if " 200 " not in f"{status} ":
            raise ValueError(f"{status}: {content[:200]!r}")
        cookies = [line.split(":", 1)[1].split(";")[0] for line in lines if line.lower().startswith("set-cookie:")]
        return content, "; ".join(cookies).strip()

    def _head(self, method: str, path: str, cookie: str) -> bytes:
        sent = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
        return (sent + (f"Cookie: {cookie}\r\n" if cookie else "")).encode()


async def _told_to_begin() -> None:
    """The parent says when everybody is there."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def _last_number() -> int:
    """The parent says which event was the last, when it has written it."""
    print("done", flush=True)
    return int(await asyncio.to_thread(sys.stdin.readline))


def main() -> None:
    """Do what the order says."""
    values = json.loads(sys.stdin.readline())
    crowd = Crowd(sys.argv[1], Order(**{**values, "pages": tuple(values["pages"])}))
    asyncio.run(crowd.run(_told_to_begin, _last_number))
    print(json.dumps(asdict(crowd.found)), flush=True)


if __name__ == "__main__":
    main()
