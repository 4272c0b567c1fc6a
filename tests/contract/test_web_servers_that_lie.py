"""Reading ``https`` from real TLS servers on loopback that redirect, rebind, stall, lie about lengths and never end.

That loopback is reached at all is an argument of these tests; no setting has it.
"""

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import Answer, Server
from tls_parts import Authority
from veto_parts import picture

from client.collection.dataset import Source, build_dataset
from client.media.resolver import Media
from client.media.web import MAX_FAILURES, USER_AGENT, Web
from contracts_abi.model import Token
from protocol.canonical import sha256
from protocol.errors import BadInput, NotAllowed, Unreachable
from protocol.unixfs import RAW, Cid

pytestmark = pytest.mark.slow
HOST = "pictures.example.com"
URL = f"https://{HOST}/1.png"
LOOPBACK = "127.0.0.1"
TRANSACTION = "a" * 43
Say = Callable[..., Server]


class Names:
    """A resolver that says of each name what it is told to, one answer after the other, and counts."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers) or [[LOOPBACK]]
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def trusted(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    file.write_bytes(authority.pem)
    return str(file)


@pytest.fixture(scope="module")
def tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return authority.server(HOST, tmp_path_factory.mktemp("server"))


@pytest.fixture
def start(tls: ssl.SSLContext) -> Iterator[Say]:
    """Start servers that are all ended after the test: ``start(answer)``, or ``start(body, status, headers)``."""
    with contextlib.ExitStack() as stack:

        def begin(answer: object, status: int = 200, **headers: str) -> Server:
            def always(*_: object) -> Answer:
                return status, {name.replace("_", "-"): value for name, value in headers.items()}, answer  # type: ignore[return-value]

            return stack.enter_context(Server(answer if callable(answer) else always, tls))

        yield begin


@pytest.fixture
def reader(trusted: str) -> Callable[..., Web]:
    def make(port: int, names: Names | None = None, timeout_s: float = 5.0) -> Web:
        return Web(names or Names(), lambda number: number == LOOPBACK, trusted, port, timeout_s)

    return make


@contextlib.contextmanager
def raw_server(tls: ssl.SSLContext, speak: Callable[[ssl.SSLSocket], None]) -> Iterator[int]:
    """A TLS server that says what it likes to whoever asks; yields its port."""
    with socket.create_server((LOOPBACK, 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asked = listening.accept()[0]
                    with contextlib.suppress(OSError), tls.wrap_socket(asked, server_side=True) as tunnel:
                        tunnel.recv(4096)
                        speak(tunnel)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def drip(*beginning: bytes, piece: bytes = b"a") -> Callable[[ssl.SSLSocket], None]:
    def speak(tunnel: ssl.SSLSocket) -> None:
        for part in beginning:
            tunnel.sendall(part)
        while True:
            tunnel.sendall(piece)
            time.sleep(0.05)

    return speak


def test_an_honest_server_is_enough_and_learns_nothing_but_the_path(
    start: Say, reader: Callable[..., Web], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text(f"machine {HOST} login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = start(b"picture", Set_Cookie="id=1")
    web = reader(server.port)
    assert web.read(URL, 100).body == web.read(URL, 100).body == b"picture"
    assert server.headers[0] == server.headers[1]
    assert server.headers[0] == {
        "host": HOST,
        "user-agent": USER_AGENT,
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


def test_a_name_is_resolved_once_so_a_second_answer_is_never_heard(start: Say, reader: Callable[..., Web]) -> None:
    def twice(path: str, _: object) -> Answer:
        return (302, {"Location": "/2.png"}, b"") if path == "/1.png" else (200, {}, b"picture")

    names = Names([LOOPBACK], ["169.254.169.254"])
    assert reader(start(twice).port, names).read(URL, 100).body == b"picture"
    assert names.asked == [HOST]


@pytest.mark.parametrize(
    "numbers", [["169.254.169.254"], ["10.0.0.1", LOOPBACK], [LOOPBACK, "fd00:ec2::254"], ["::ffff:127.0.0.1"], []]
)
def test_a_name_with_one_private_address_is_not_connected_to_at_all(
    start: Say, reader: Callable[..., Web], numbers: list[str]
) -> None:
    server = start(b"picture")
    with pytest.raises(BadInput, match="leads to a private address"):
        reader(server.port, Names(numbers)).get(URL, 100)
    assert server.asked == []


def test_without_a_tests_permission_loopback_is_refused(start: Say, trusted: str) -> None:
    server = start(b"picture")
    with pytest.raises(BadInput, match="leads to a private address"):
        Web(Names(), certificates=trusted, port=server.port).get(URL, 100)
    assert server.asked == []


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://127.0.0.1/", "not opened"),
        ("https://169.254.169.254/latest/meta-data/", "not opened"),
        (f"http://{HOST}/2.png", "not https"),
        ("https://other.example.com/1.png", "redirects to another host"),
        (f"https://www.{HOST}/1.png", "redirects to another host"),
        (f"https://{HOST}:8443/1.png", "names a port"),
        (f"https://{HOST}@evil.com/1.png", "names a user"),
        ("//evil.com/1.png", "redirects to another host"),
        ("file:///etc/passwd", "not opened"),
        ("/1.png", "more than 3 times"),
        ("", "more than 3 times"),
    ],
)
def test_a_redirect_elsewhere_is_refused(start: Say, reader: Callable[..., Web], location: str, reason: str) -> None:
    server = start(b"", 302, Location=location)
    with pytest.raises(BadInput, match=reason):
        reader(server.port).get(URL, 100)
    assert len(server.asked) <= 4


def test_a_certificate_for_another_name_is_refused(
    authority: Authority, reader: Callable[..., Web], tmp_path: Path, start: Say
) -> None:
    other = authority.server("other.example.com", tmp_path)
    with Server(lambda *_: (200, {}, b"picture"), other) as server:
        with pytest.raises(Unreachable, match="no certificate for that name"):
            reader(server.port).get(URL, 100)
        assert server.asked == []


def test_a_certificate_of_an_unknown_authority_is_refused(reader: Callable[..., Web], tmp_path: Path) -> None:
    strange = Authority().server(HOST, tmp_path)
    with Server(lambda *_: (200, {}, b"picture"), strange) as server:
        with pytest.raises(Unreachable, match="no certificate for that name"):
            reader(server.port).get(URL, 100)
        assert server.asked == []


def test_a_server_without_tls_is_refused(reader: Callable[..., Web]) -> None:
    with Server(lambda *_: (200, {}, b"picture")) as server, pytest.raises(Unreachable, match="broke the connection"):
        reader(server.port).get(URL, 100)


def test_an_endless_body_ends_at_the_cap(start: Say, reader: Callable[..., Web]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"a" * 65536

    with pytest.raises(BadInput, match="longer than the 1000000 bytes"):
        reader(start(lambda *_: (200, {}, endless())).port).get(URL, 1_000_000)


@pytest.mark.parametrize("declared", ["1000001", "9" * 5000])
def test_a_length_beyond_the_cap_is_believed_before_a_byte_is_read(
    start: Say, reader: Callable[..., Web], declared: str
) -> None:
    with pytest.raises((BadInput, Unreachable)):
        reader(start(lambda *_: (200, {"Content-Length": declared}, [b"a"])).port).get(URL, 1_000_000)


def test_a_body_shorter_than_its_length_is_refused(start: Say, reader: Callable[..., Web]) -> None:
    with pytest.raises(Unreachable, match="broke the connection off"):
        reader(start(lambda *_: (200, {"Content-Length": "50"}, [b"picture"])).port).get(URL, 100)


def test_of_a_body_longer_than_its_length_only_that_length_is_read(start: Say, reader: Callable[..., Web]) -> None:
    answer = reader(start(lambda *_: (200, {"Content-Length": "7"}, [b"picture and more"])).port).get(URL, 100)
    assert answer.body == b"picture"


def test_a_body_without_a_length_is_read_to_its_end(start: Say, reader: Callable[..., Web]) -> None:
    assert reader(start(lambda *_: (200, {}, [b"pic", b"ture"])).port).get(URL, 100).body == b"picture"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "GZIP"])
def test_a_compressed_body_is_not_unfolded(start: Say, reader: Callable[..., Web], encoding: str) -> None:
    bomb = gzip.compress(b"\0" * 5_000_000)
    with pytest.raises(BadInput, match="comes compressed"):
        reader(start(bomb, Content_Encoding=encoding).port).get(URL, 10_000_000)


@pytest.mark.parametrize(
    "speak",
    [
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", piece=b"1\r\na\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nX-Header: "),
        drip(b""),
        drip(b"HTTP/1.1 200 OK\r\n\r\n"),
        drip(piece=b"HTTP/1.1 100 Continue\r\n\r\n"),
        lambda tunnel: time.sleep(4),
    ],
    ids=["body", "chunks", "header", "status line", "body without length", "continue", "silence"],
)
def test_a_server_that_drips_is_left_at_the_deadline(
    tls: ssl.SSLContext, reader: Callable[..., Web], speak: Callable[[ssl.SSLSocket], None]
) -> None:
    with raw_server(tls, speak) as port:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="did not finish within 1 s"):
            reader(port, timeout_s=1.0).get(URL, 2_000_000)
        assert time.monotonic() - began < 3


def test_a_server_that_takes_the_connection_and_says_nothing_is_left_at_the_deadline(
    reader: Callable[..., Web],
) -> None:
    with (
        socket.create_server((LOOPBACK, 0)) as silent,
        pytest.raises(Unreachable, match="did not finish within 1 s"),
    ):
        reader(silent.getsockname()[1], timeout_s=1.0).get(URL, 100)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 7\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 999999999999 OK\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_http_is_told_in_a_sentence(tls: ssl.SSLContext, reader: Callable[..., Web], said: bytes) -> None:
    with raw_server(tls, lambda tunnel: tunnel.sendall(said)) as port, pytest.raises(Unreachable) as told:
        reader(port).get(URL, 100)
    assert told.value.message.endswith(".") and told.value.hint


def test_a_server_that_fails_is_not_asked_for_ever(reader: Callable[..., Web]) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        port = closed.getsockname()[1]
    names = Names()
    web = reader(port, names)
    for _ in range(MAX_FAILURES):
        with pytest.raises(Unreachable, match="broke the connection"):
            web.get(URL, 100)
    with pytest.raises(Unreachable, match="failed 3 times in a row"):
        web.get(URL, 100)
    assert len(names.asked) == MAX_FAILURES


def test_a_name_that_nobody_knows_is_told(trusted: str) -> None:
    def unknown(host: str) -> list[str]:
        raise socket.gaierror("no such name")

    with pytest.raises(Unreachable, match="a name that is not known"):
        Web(unknown, certificates=trusted).get(URL, 100)


def no_ipfs(path: str, max_bytes: int) -> bytes:
    raise Unreachable("No gateway is here.")


def test_a_token_on_a_web_server_is_read_and_its_site_asked_once_for_reservations(
    start: Say, reader: Callable[..., Web]
) -> None:
    server = start(lambda path, _: (404, {}, b"") if "well-known" in path else (200, {}, b"picture"))
    media = Media(no_ipfs, reader(server.port))
    assert [media.read(URL, 100, "The image").tdmrep for _ in range(2)] == [True, True]
    assert [path for path, _ in server.asked] == ["/1.png", "/.well-known/tdmrep.json", "/1.png"]


def test_a_dataset_is_made_of_tokens_on_a_web_server_and_says_that_its_site_was_asked(
    start: Say, reader: Callable[..., Web]
) -> None:
    document = {"image": f"https://{HOST}/{{}}.png", "attributes": [{"trait_type": "head", "value": "fence"}]}

    def answer(path: str, _: object) -> Answer:
        name = path[1:]
        if name.endswith(".json") and name[:1].isdigit():
            return 200, {"Content-Type": "text/html"}, json.dumps(document).replace("{}", name[:-5]).encode()
        if name.endswith(".png"):
            return 200, {"tdm-reservation": "1"} if name == "2.png" else {}, picture("PNG")
        return 404, {}, b""

    sources = [
        Source(Token(chain_id=1, contract="0x" + "11" * 20, token_id=n), f"https://{HOST}/{n}.json", "collection")
        for n in (1, 2, 3)
    ]
    dataset = build_dataset(sources, Media(no_ipfs, reader(start(answer).port)), 32)
    assert [(use.token.token_id, use.no_veto_in) for use in dataset.uses] == [
        (1, ("c2pa", "iptc", "tdmrep")),
        (3, ("c2pa", "iptc", "tdmrep")),
    ]
    assert {use.media_sha256 for use in dataset.uses} == {sha256(picture("PNG"))}
    (skipped,) = dataset.lock.skipped
    assert (skipped.token.token_id, "TDMRep" in skipped.reason) == (2, True)


def test_with_https_off_no_named_host_is_asked(start: Say, reader: Callable[..., Web]) -> None:
    server = start(b"picture")
    with pytest.raises(BadInput, match="allow_https is off"):
        Media(no_ipfs, reader(server.port), allow_https=False).read(URL, 100, "The image")
    assert server.asked == []


@pytest.mark.parametrize(
    ("headers", "site", "reason"),
    [
        ({"tdm-reservation": "1"}, None, "header tdm-reservation"),
        ({"TDM-Reservation": "1", "tdm-policy": "https://example.com/terms"}, None, "its terms are at https://ex"),
        ({"tdm-reservation": "yes"}, None, "header tdm-reservation"),
        ({}, b'[{"location": "/", "tdm-reservation": 1}]', "tdmrep.json reserves"),
        ({"tdm-reservation": "0"}, b'[{"location": "/*.png$", "tdm-reservation": "1"}]', "tdmrep.json reserves"),
    ],
)
def test_a_reservation_denies_by_header_and_by_site(
    start: Say, reader: Callable[..., Web], headers: dict[str, str], site: bytes | None, reason: str
) -> None:
    def answer(path: str, _: object) -> Answer:
        if "well-known" in path:
            return (404, {}, b"") if site is None else (200, {}, site)
        return 200, headers, b"picture"

    with pytest.raises(NotAllowed, match=reason) as told:
        Media(no_ipfs, reader(start(answer).port)).read(URL, 100, "The image")
    assert "TDMRep" in told.value.message


def test_a_site_that_cannot_say_whether_it_reserves_is_not_trained_on(start: Say, reader: Callable[..., Web]) -> None:
    server = start(lambda path, _: (503, {}, b"") if "well-known" in path else (200, {}, b"picture"))
    media = Media(no_ipfs, reader(server.port))
    for _ in range(2):
        with pytest.raises(Unreachable, match="answered 503"):
            media.read(URL, 100, "The image")
    assert [path for path, _ in server.asked].count("/.well-known/tdmrep.json") == 1


@pytest.mark.parametrize("site", [b"<html>a page for everything</html>", b"{}", b"[1]", b'[{"location": 7}]'])
def test_a_page_for_everything_reserves_nothing(start: Say, reader: Callable[..., Web], site: bytes) -> None:
    server = start(lambda path, _: (200, {}, site if "well-known" in path else b"picture"))
    assert Media(no_ipfs, reader(server.port)).read(URL, 100, "The image").data == b"picture"


def test_a_gateways_address_is_read_from_ipfs_and_the_named_host_is_not_asked(
    start: Say, reader: Callable[..., Web]
) -> None:
    server = start(b"picture")
    cid = str(Cid.of(RAW, b"picture"))
    asked = []

    def ipfs(path: str, max_bytes: int) -> bytes:
        asked.append(path)
        return b"verified"

    media = Media(ipfs, reader(server.port), allow_https=False)
    for url in (f"https://{HOST}/ipfs/{cid}/a%20b.png?x", f"https://{cid}.ipfs.{HOST}/a b.png"):
        found = media.read(url, 100, "The image")
        assert (found.data, found.tdmrep) == (b"verified", False)
    assert (asked, server.asked) == ([f"{cid}/a b.png"] * 2, [])


def test_a_gateways_address_is_asked_itself_where_no_other_gateway_has_the_file(
    start: Say, reader: Callable[..., Web]
) -> None:
    cid = Cid.of(RAW, b"picture")
    server = start(b"[]")
    assert Media(no_ipfs, reader(server.port)).read(f"https://{HOST}/ipfs/{cid}", 100, "The image").tdmrep
    with pytest.raises(Unreachable, match="No gateway is here"):
        Media(no_ipfs, reader(server.port), allow_https=False).read(f"https://{HOST}/ipfs/{cid}", 100, "The image")


@pytest.mark.parametrize("uri", [f"ar://{TRANSACTION}/1.png", f"https://{HOST}/{TRANSACTION}/1.png"])
def test_arweave_comes_through_the_members_gateway_also_with_https_off(
    start: Say, reader: Callable[..., Web], uri: str
) -> None:
    server = start(b"picture")
    media = Media(no_ipfs, reader(server.port), [f"https://{HOST}"], allow_https=False)
    assert media.read(uri, 100, "The image").data == b"picture"
    assert [path for path, _ in server.asked] == [f"/{TRANSACTION}/1.png"]


def test_an_arweave_gateway_may_send_on_to_its_own_subdomain_only(
    authority: Authority, trusted: str, tmp_path: Path
) -> None:
    inside = f"https://sandbox.{HOST}/{TRANSACTION}"

    def answer(path: str, _: object) -> Answer:
        return 302, {"Location": inside if path == f"/{TRANSACTION}" else "https://evil.com/"}, b""

    names = Names()
    with Server(answer, authority.server(HOST, tmp_path)) as server:
        web = Web(names, lambda number: number == LOOPBACK, trusted, server.port, 5.0)
        media = Media(no_ipfs, web, [f"https://{HOST}"])
        with pytest.raises(Unreachable, match="redirects to another host"):
            media.read(f"ar://{TRANSACTION}/else", 100, "The image")
        with pytest.raises(Unreachable, match="no certificate for that name"):
            media.read(f"ar://{TRANSACTION}", 100, "The image")
    assert names.asked == [HOST, HOST, f"sandbox.{HOST}"]


@pytest.mark.parametrize("uri", ["ar://short", "ar://", f"ar://{TRANSACTION}x", f"ar://../{TRANSACTION}"])
def test_an_arweave_address_without_a_transaction_is_refused(uri: str) -> None:
    with pytest.raises(BadInput, match="not opened"):
        Media(no_ipfs, None).read(uri, 100, "The image")


def test_without_an_arweave_gateway_it_is_said_how_to_name_one() -> None:
    with pytest.raises(BadInput, match="no gateway is set") as told:
        Media(no_ipfs, None).read(f"ar://{TRANSACTION}", 100, "The image")
    assert "arweave_gateways" in told.value.hint
