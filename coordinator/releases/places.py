"""Places that keep a release beside the local store: an IPFS node, a pinning service, mirrors.

Each says of one release how it stands there, after doing what it can for it: a node that lost it gets it again. What a
place claims is not believed where it can be looked at: every block is read back and hashed.
"""

import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import quote, urlsplit

import requests
import urllib3

from coordinator.config import CoordinatorSettings
from ipfs.gateway import base_of, car_url, download
from ipfs.kubo import Kubo
from protocol.car import read_car
from protocol.errors import BadInput, ContentMismatch, CoterieError, Unreachable
from protocol.unixfs import Cid

FETCH_TIMEOUT_S = 1800.0
SERVICE_TIMEOUT_S = (10.0, 60.0)
MAX_ANSWER_BYTES = 1 << 20
"""Of a pinning service: a few lines of JSON."""
_SPARE_BYTES = 1 << 20
"""How much longer than ours another one's CAR of the same blocks may be."""


class State(StrEnum):
    """How a release stands at a place."""

    WAITING = "waiting"
    """It is not there, for the reason given, and is tried again."""
    PINNING = "pinning"
    """The place has taken it on and is not done."""
    PINNED = "pinned"
    """The place says that it has it; nobody has looked."""
    VERIFIED = "verified"
    """It has it: every block was read back and hashed."""
    LET_GO = "let go"
    """A contribution in it has ended; it is not pinned there any more."""


@dataclass(frozen=True)
class Standing:
    """How a release stands, why, and what the place calls our request for it."""

    state: State
    reason: str = ""
    request: str = ""


class Place(Protocol):
    """Somewhere that keeps releases."""

    name: str

    def settle(self, cid: Cid, car: Path, request: str) -> Standing:
        """Bring the release there if it is not, and say how it stands.

        Args:
            car: the release in the local store, complete.
            request: from the last standing.

        Raises:
            CoterieError: it is not there, and could not be brought.
        """
        ...

    def let_go(self, cid: Cid, request: str) -> None:
        """Keep the release no longer; raises CoterieError where that cannot be said there."""
        ...


class NodePlace:
    """An IPFS node that is ours: the CAR is imported, pinned and read back."""

    def __init__(self, node: Kubo) -> None:
        self._node = node
        self.name = f"node {node.name}"

    def settle(self, cid: Cid, car: Path, request: str) -> Standing:
        if not (self._node.pinned(cid) and self._has(cid, car)):
            with car.open("rb") as stream:
                self._node.put(cid, stream)
            self._read_back(cid, car)
        return Standing(State.VERIFIED)

    def let_go(self, cid: Cid, request: str) -> None:
        self._node.unpin(cid)

    def _has(self, cid: Cid, car: Path) -> bool:
        try:
            self._read_back(cid, car)
        except CoterieError:
            return False
        return True

    def _read_back(self, cid: Cid, car: Path) -> None:
        with self._node.export(cid, here_only=True) as pieces:
            require_same(car, cast(BinaryIO, io.BufferedReader(_Pieces(pieces))))


class MirrorPlace:
    """Somebody's gateway that is to serve every release; it is only looked at."""

    def __init__(self, url: str) -> None:
        """Raises BadInput for what is no http(s) URL."""
        self._url = base_of(url)
        self.name = f"mirror {self._url}"

    def settle(self, cid: Cid, car: Path, request: str) -> Standing:
        with tempfile.TemporaryFile(dir=car.parent) as file:
            room = car.stat().st_size + _SPARE_BYTES
            download(car_url(self._url, cid), file, max_bytes=room, timeout_s=FETCH_TIMEOUT_S)
            file.seek(0)
            require_same(car, file)
        return Standing(State.VERIFIED)

    def let_go(self, cid: Cid, request: str) -> None:
        """A mirror is somebody else's."""


class ServicePlace:
    """A service that speaks the IPFS Pinning Service API (ipfs.github.io/pinning-services-api-spec).

    It fetches a release from a node that it can reach, so there is one beside it. Its token is in one header and
    nowhere else.
    """

    def __init__(self, url: str, token: str, node: Kubo | None) -> None:
        """Raises BadInput for what is no http(s) URL."""
        self._url = base_of(url)
        self._token = token
        self._node = node
        self.name = f"service {urlsplit(self._url).netloc}"

    def settle(self, cid: Cid, car: Path, request: str) -> Standing:
        found = self._by_request(request) or self._by_cid(cid) or self._ask_for(cid)
        known, status, pin = found.get("requestid"), found.get("status"), found.get("pin")
        if not isinstance(known, str) or not isinstance(pin, dict) or pin.get("cid") != str(cid):
            raise Unreachable(f"{self.name} does not answer for {cid}.", "Ask the service's people.")
        if status == "pinned":
            return Standing(State.PINNED, "by the service's own word", known)
        if status == "failed":
            # Without its request, it is asked for anew next time.
            raise Unreachable(f"{self.name} could not pin it{self._details(found)}.", "Can it reach your IPFS node?")
        self._introduce(found.get("delegates") or ())
        return Standing(State.PINNING, f"{str(status)[:20]} there{self._details(found)}", known)

    def let_go(self, cid: Cid, request: str) -> None:
        if found := self._by_request(request) or self._by_cid(cid):
            self._call("DELETE", f"pins/{quote(str(found.get('requestid')), safe='')}", missing_is_fine=True)

    def _by_request(self, request: str) -> dict[str, Any] | None:
        return self._call("GET", f"pins/{quote(request, safe='')}", missing_is_fine=True) if request else None

    def _by_cid(self, cid: Cid) -> dict[str, Any] | None:
        """A request from before that was forgotten here: without the statuses, only pinned ones are told."""
        answer = self._call("GET", "pins", params={"cid": str(cid), "status": "queued,pinning,pinned"}) or {}
        results = answer.get("results")
        return next((one for one in results if isinstance(one, dict)), None) if isinstance(results, list) else None

    def _ask_for(self, cid: Cid) -> dict[str, Any]:
        origins = [one for one in self._node.addresses() if "/p2p/" in one][:20] if self._node else []
        return self._call("POST", "pins", body={"cid": str(cid), "name": f"coterie {cid}", "origins": origins}) or {}

    def _introduce(self, delegates: Sequence[object]) -> None:
        """The spec asks us to connect to whom the service names; it may find us without."""
        if self._node is None:
            return
        try:
            self._node.connect([str(one) for one in delegates if str(one).startswith("/")][:5])
        except CoterieError:
            return

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        missing_is_fine: bool = False,
    ) -> dict[str, Any] | None:
        try:
            with requests.request(
                method,
                f"{self._url}/{path}",
                params=params,
                json=body,
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=SERVICE_TIMEOUT_S,
                allow_redirects=False,  # the token is for this host
                stream=True,
            ) as response:
                status, text = response.status_code, response.raw.read(MAX_ANSWER_BYTES, decode_content=True)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Unreachable(f"{self.name} does not answer ({type(error).__name__}).", "Try again later.") from None
        if status == 404 and missing_is_fine:
            return None
        try:
            answer = json.loads(text or b"{}")
        except ValueError:
            answer = {}
        if status not in (200, 202) or not isinstance(answer, dict):
            raise self._problem(status, answer)
        return answer

    def _problem(self, status: int, answer: Any) -> CoterieError:
        told = answer.get("error") if isinstance(answer, dict) else None
        words = " ".join(str(told.get(name) or "") for name in ("reason", "details")) if isinstance(told, dict) else ""
        hint = "Look at `pinning_token`." if status in (401, 403) else "Try again later."
        return Unreachable(f"{self.name} answered {status}{self._words(words)}.", hint)

    def _details(self, found: dict[str, Any]) -> str:
        info = found.get("info")
        return self._words(str(info.get("status_details") or "")) if isinstance(info, dict) else ""

    def _words(self, text: str) -> str:
        """Another one's words, short and harmless, and never our token."""
        clean = re.sub(r"[^\w\s.,:;/()-]", "", text.replace(self._token, "…"))
        return f": {' '.join(clean.split())[:200]}" if clean.strip() else ""


def require_same(car: Path, other: BinaryIO) -> None:
    """Whether ``other``, a CAR from elsewhere, has every block that ours has; each is hashed, none is held.

    Raises:
        BadInput, ContentMismatch: it does not, or is wrong, or ours is.
    """
    size = car.stat().st_size
    _, theirs = read_car(other, size + _SPARE_BYTES)
    there = {section.cid.digest for section in theirs}
    with car.open("rb") as stream:
        _, ours = read_car(stream, size)
        lacking = next((section.cid for section in ours if section.cid.digest not in there), None)
    if lacking:
        raise ContentMismatch(f"Block {lacking} is missing there.", "It is put there again where that can be done.")


def places_of(settings: CoordinatorSettings) -> list[Place]:
    """Everywhere that releases are to be kept.

    Raises:
        BadInput: a setting is no address.
    """
    node = Kubo(settings.ipfs_api) if settings.ipfs_api else None
    found: list[Place] = [NodePlace(node)] if node else []
    if settings.pinning_service:
        token = settings.pinning_token.get_secret_value()
        if not token:
            raise BadInput("`pinning_service` needs `pinning_token`.", "Set COTERIE_COORDINATOR_PINNING_TOKEN.")
        found.append(ServicePlace(settings.pinning_service, token, node))
    return found + [MirrorPlace(url) for url in settings.mirrors]


class _Pieces(io.RawIOBase):
    """Pieces as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
