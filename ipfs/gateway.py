"""One download from one IPFS gateway: capped in bytes and in time, to a file, believed in nothing.

Spec: specs.ipfs.tech/http-gateways/trustless-gateway.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3

from protocol.errors import BadInput, Unreachable
from protocol.unixfs import Cid

ACCEPT = "application/vnd.ipld.car; version=1; order=dfs; dups=n"
ACCEPT_RAW = "application/vnd.ipld.raw"
_NAMES = {ACCEPT: "a CAR", ACCEPT_RAW: "a raw block"}
_MAX_REDIRECTS = 3
_READ_TIMEOUT_S = 15.0
_PIECE_BYTES = 256 * 1024

Progress = Callable[[int], None]
"""Called with the bytes received so far, from the thread that receives them."""


def base_of(gateway: str) -> str:
    """The gateway's URL without its last slash; BadInput for anything but http and https."""
    parts = urlsplit(gateway)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadInput("not an http(s) address of a gateway", "Write it as https://gateway.example.")
    return gateway.rstrip("/")


def car_url(gateway: str, cid: Cid, names: tuple[str, ...] = (), scope: str = "all") -> str:
    """Where the gateway has everything below ``cid``, or what the path of ``names`` leads to and the way there."""
    steps = "".join("/" + quote(name, safe="") for name in names)
    return f"{base_of(gateway)}/ipfs/{cid}{steps}?format=car&dag-scope={scope}"


def block_url(gateway: str, cid: Cid) -> str:
    """Where the gateway has one block."""
    return f"{base_of(gateway)}/ipfs/{cid}?format=raw"


def download(
    url: str,
    into: BinaryIO,
    *,
    max_bytes: int,
    timeout_s: float,
    progress: Progress | None = None,
    accept: str = ACCEPT,
) -> None:
    """GET ``url`` and write its body, yet to be checked, to ``into``, which is this call's alone: close it after.

    Unreachable with the reason if it does not come whole within ``timeout_s`` seconds in all, BadInput if it is
    longer than ``max_bytes`` or is by its own account not what ``accept`` (ACCEPT or ACCEPT_RAW) asks for.
    """
    # A socket's timeout restarts with every byte, and headers may drip: only a second thread can keep the deadline.
    # One that is given up ends at its next piece: past the deadline, or into a closed file.
    deadline = time.monotonic() + timeout_s
    done: Future[None] = Future()

    def work() -> None:
        try:
            _download(url, into, max_bytes, deadline, progress, accept)
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True, name="coterie-download").start()
    try:
        done.result(timeout_s)
    except TimeoutError as error:
        raise Unreachable(f"not finished within {timeout_s:g} s") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Unreachable(f"the connection failed ({type(error).__name__})") from error


def _download(
    url: str, into: BinaryIO, max_bytes: int, deadline: float, progress: Progress | None, accept: str
) -> None:
    with requests.Session() as session, _open(session, url, deadline, accept) as response:
        received = 0
        # read1 returns what is there; iter_content would wait for a full piece, however slowly it drips.
        while piece := response.raw.read1(_PIECE_BYTES, decode_content=False):
            received += len(piece)
            if received > max_bytes:
                raise BadInput(f"it sent more than the {max_bytes} bytes that are allowed")
            if time.monotonic() > deadline:
                raise TimeoutError
            into.write(piece)
            if progress:
                progress(received)


def _open(session: requests.Session, url: str, deadline: float, accept: str) -> requests.Response:
    """The response to a GET, with redirects followed on the same host only."""
    for _ in range(_MAX_REDIRECTS + 1):
        seconds = max(0.1, min(deadline - time.monotonic(), _READ_TIMEOUT_S))
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        response = session.get(url, headers=headers, timeout=seconds, stream=True, allow_redirects=False)
        if not response.is_redirect:
            return _accepted(response, accept)
        response.close()
        target = urljoin(url, response.headers["Location"])
        if urlsplit(target)[:2] != urlsplit(url)[:2]:
            raise BadInput(f"it redirects to another host ({urlsplit(target).netloc[:80]})")
        url = target
    raise BadInput(f"it redirects more than {_MAX_REDIRECTS} times")


def _accepted(response: requests.Response, accept: str) -> requests.Response:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if response.status_code == 200 and media_type == accept.partition(";")[0]:
        return response
    response.close()
    if response.status_code != 200:
        raise Unreachable(f"it answered {response.status_code}")
    raise BadInput(f"it answered with {media_type[:80] or 'no media type'} instead of {_NAMES[accept]}")
