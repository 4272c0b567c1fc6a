"""One file from one web server that nobody has to trust: its address judged, pinned and kept, its answer bounded.

The name is resolved once, every address it has must be public, and the connection goes to one of these addresses, with
the name for TLS only: a second answer of the name server (rebinding) is never asked for. A server on a private network
could not answer anyway, having no certificate for the name. No cookies, no credentials, no proxies, no decoding.
"""

import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from threading import Timer

import certifi
from urllib3 import HTTPResponse
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError

from client.media.addresses import LEFT_OUT, WebAddress, is_public, parse_address, redirected
from protocol.errors import BadInput, CoterieError, Unreachable

USER_AGENT = "Coterie"
"""Of every member and version alike."""
TIMEOUT_S = 60.0
"""For a file with all its redirects."""
MAX_REDIRECTS = 3
MAX_FAILURES = 3
"""In a row; then a server is not asked again, so that one that stalls costs minutes and not the night."""
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 15.0
_PIECE_BYTES = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
LATER = "Try again later; the token is left out until then."

Resolve = Callable[[str], Sequence[str]]
"""Host name → IP addresses."""


@dataclass(frozen=True)
class Answer:
    """What a server said last; the body is there with status 200 only."""

    address: WebAddress
    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes


def resolve(host: str) -> Sequence[str]:
    """The system's resolver; OSError where it knows none."""
    found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class Web:
    """A reader of ``https`` addresses. What it takes as arguments is for tests on loopback: no setting reaches it."""

    def __init__(
        self,
        resolve: Resolve = resolve,
        admits: Callable[[str], bool] = is_public,
        certificates: str | None = None,
        port: int = 443,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._resolve, self._admits, self._port, self._timeout_s = resolve, admits, port, timeout_s
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.load_verify_locations(certificates or certifi.where())
        self._failures: Counter[str] = Counter()

    def get(self, url: str, max_bytes: int, what: str = "The file", *, subdomains: bool = False) -> Answer:
        """GET, with redirects followed on the same host only; ``subdomains``: also to names below it.

        Raises:
            BadInput: an address that is not opened, too long, encoded, or a redirect elsewhere.
            Unreachable: no connection, no certificate for the name, or not finished in time.
        """
        address = parse_address(url, what)
        if self._failures[address.host] >= MAX_FAILURES:
            raise Unreachable(f"{what} is on {address.host}, which failed {MAX_FAILURES} times in a row.", LATER)
        try:
            answer = self._follow(address, max_bytes, what, subdomains)
        except Unreachable:
            self._failures[address.host] += 1
            raise
        self._failures[address.host] = 0
        return answer

    def read(self, url: str, max_bytes: int, what: str = "The file", *, subdomains: bool = False) -> Answer:
        """As ``get``, and Unreachable for any status but 200."""
        answer = self.get(url, max_bytes, what, subdomains=subdomains)
        if answer.status != 200:
            raise Unreachable(f"{what} is on {answer.address.host}, which answered {answer.status}.", LATER)
        return answer

    def _follow(self, address: WebAddress, max_bytes: int, what: str, subdomains: bool) -> Answer:
        deadline = time.monotonic() + self._timeout_s
        places = self._places(address.host, what)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._ask(address, places, max_bytes, deadline, what)
            if answer.status not in _REDIRECTS:
                return answer
            target = redirected(address, answer.headers.get("location", ""), what)
            if target.host != address.host:
                if not (subdomains and target.host.endswith(f".{address.host}")):
                    raise BadInput(
                        f"{what} is on {address.host}, which redirects to another host ({target.host}).", LEFT_OUT
                    )
                places = self._places(target.host, what)
            address = target
        raise BadInput(f"{what} is on {address.host}, which redirects more than {MAX_REDIRECTS} times.", LEFT_OUT)

    def _places(self, host: str, what: str) -> Sequence[str]:
        """The host's addresses, asked for once; if one of them is not public, none is used."""
        try:
            places = self._resolve(host)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{what} is on {host}, a name that is not known.", LATER) from error
        if not places or not all(self._admits(place) for place in places):
            raise BadInput(f"{what} is on {host}, which is not opened: it leads to a private address.", LEFT_OUT)
        return places

    def _ask(self, address: WebAddress, places: Sequence[str], max_bytes: int, deadline: float, what: str) -> Answer:
        with self._explained(address.host, deadline, what), self._connected(address.host, places, deadline) as server:
            server.request(
                "GET",
                address.target,
                headers={**_HEADERS, "Host": address.host},
                preload_content=False,
                decode_content=False,
            )
            response = server.getresponse()
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = _body(response, headers, max_bytes, what) if response.status == 200 else b""
            # To be cut off looks like the end of a header, or of a body without a length.
            if time.monotonic() >= deadline:
                raise TimeoutError
            return Answer(address, response.status, headers, body)

    @contextmanager
    def _connected(self, host: str, places: Sequence[str], deadline: float) -> Iterator[HTTPSConnection]:
        """To the first place that takes the connection; it is cut at the deadline, whatever then goes on."""
        server = self._connect(host, places, deadline)
        # A socket's timeout restarts with every byte, and headers may drip. The connection forgets its socket once it
        # has an answer that ends with it, so the socket itself is held here.
        watch = Timer(max(0.0, deadline - time.monotonic()), _cut, [server.sock])
        watch.daemon = True
        watch.start()
        try:
            yield server
        finally:
            watch.cancel()
            server.close()

    def _connect(self, host: str, places: Sequence[str], deadline: float) -> HTTPSConnection:
        failed: Exception = TimeoutError()
        for place in places:
            seconds = min(deadline - time.monotonic(), _CONNECT_TIMEOUT_S)
            if seconds <= 0:
                break
            server = HTTPSConnection(
                place, self._port, timeout=seconds, ssl_context=self._tls, cert_reqs="REQUIRED", server_hostname=host
            )
            try:
                server.connect()
                server.sock.settimeout(_READ_TIMEOUT_S)
                return server
            except (HTTPError, OSError) as error:
                server.close()
                failed = error
        raise failed

    @contextmanager
    def _explained(self, host: str, deadline: float, what: str) -> Iterator[None]:
        """Within, what goes wrong with a connection becomes a sentence."""
        try:
            yield
        except CoterieError:
            raise
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            if time.monotonic() >= deadline:
                reason = f"did not finish within {self._timeout_s:g} s"
            elif "CERTIFICATE_VERIFY_FAILED" in str(error):
                reason = "shows no certificate for that name"
            else:
                reason = f"broke the connection off ({type(error).__name__})"
            raise Unreachable(f"{what} is on {host}, which {reason}.", LATER) from error


def _body(response: HTTPResponse, headers: Mapping[str, str], max_bytes: int, what: str) -> bytes:
    """As it was sent: what is compressed could unfold without end, and was asked for plain."""
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise BadInput(f"{what} comes compressed from its web server, which was asked for it as it is.", LEFT_OUT)
    too_long = BadInput(f"{what} is longer than the {max_bytes} bytes that are taken.", LEFT_OUT)
    declared = headers.get("content-length", "").strip()
    if declared.isdecimal() and (len(declared) > 20 or int(declared) > max_bytes):
        raise too_long
    body = bytearray()
    # read1 returns what is there; read would wait for a full piece, however slowly it drips.
    while piece := response.read1(_PIECE_BYTES, decode_content=False):
        body += piece
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


def _cut(connection: socket.socket) -> None:
    """Wakes whoever reads from it: there is an end, or an error."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
