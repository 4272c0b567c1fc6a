"""Addresses that a token may name: a few hundred made to reach what they must not, and the honest ones beside them."""

import ipaddress
from collections.abc import Iterator

import pytest

from client.media.addresses import is_public, parse_address, redirected
from protocol.errors import BadInput

PRIVATE = (
    "0.0.0.0",  # noqa: S104
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.1.2.3",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
)
PRIVATE_V6 = (
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:53aa:64c:0:7c:5601:5601",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "4000::1",
)
PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.215.14", "100.63.255.255", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1")

NOT_HTTPS = (
    "http://example.com/1",
    "HTTP://example.com/1",
    "//example.com/1",
    "https:/example.com/1",
    "https:example.com/1",
    "https:///example.com/1",
    "https:////example.com/1",
    "https//example.com/1",
    "https",
    "https:",
    "https://",
    "https:///",
    "https://?",
    "https://#",
    "https://:443/",
    "ftp://example.com/1",
    "file:///etc/passwd",
    "file://example.com/etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/stat",
    "ldap://127.0.0.1/",
    "jar:https://example.com/x.jar!/1",
    "netdoc:///etc/passwd",
    "javascript:alert(1)",
    "blob:https://example.com/1",
    "view-source:https://example.com",
    "ws://example.com",
    "wss://example.com",
    "url:https://example.com",
    "hhttps://example.com",
    "https:\u2215\u2215example.com/1",
)
CONFUSING = (
    "https://trusted.com@evil.com/1",
    "https://trusted.com:443@evil.com/1",
    "https://trusted.com%40evil.com/1",
    "https://trusted.com%2f@evil.com/1",
    "https://user:password@example.com/1",
    "https://@example.com/1",
    "https://:@example.com/1",
    "https://a@b@example.com/1",
    "https://example.com\\@evil.com/1",
    "https://example.com\\.evil.com/1",
    "https:\\\\example.com/1",
    "https:/\\example.com/1",
    "https://example.com\\1",
    "https://example.com/1\\..\\2",
    "https://example.com\t.evil.com/1",
    "https://exam\nple.com/1",
    "https://exam\rple.com/1",
    "https://example.com/1\r\nHost: evil.com",
    "https://example.com/1\x00.png",
    "https://example.com\x00.evil.com/1",
    "https://example.com/\x7f",
    "ht\ntps://example.com/1",
    "\x01https://example.com/1",
    "https://exam ple.com/1",
    "https://example.com /1",
    "https://example.com%20/1",
    "https://example%2ecom/1",
    "https://%65xample.com/1",
    "https://example.com%00/1",
    "https://example.com%23.evil.com/1",
    "https://example.com%5c.evil.com/1",
    "https://example.com;.evil.com/1",
    "https://example.com,evil.com/1",
    "https://example.com&evil.com/1",
    "https://example.com|evil.com/1",
    "https://example.com`.evil.com/1",
    "https://<example.com>/1",
    "https://{example.com}/1",
    "https://$host.com/1",
    "https://(example.com)/1",
    "https://*.example.com/1",
    "https://example.com:80/1",
    "https://example.com:22/1",
    "https://example.com:8443/1",
    "https://example.com:0443/1",
    "https://example.com:443:22/1",
    "https://example.com:/1",
    "https://example.com:+443/1",
    "https://example.com:-1/1",
    "https://example.com:65979/1",
    "https://example.com:４４３/1",
    "https://example.com:443a/1",
    "https://example.com: 443/1",
)
NAMES = (
    "localhost",
    "LOCALHOST",
    "localhost.",
    "ip6-localhost",
    "foo.localhost",
    "printer.local",
    "metadata",
    "metadata.google.internal",
    "instance-data",
    "kubernetes.default.svc.cluster.local",
    "host.docker.internal",
    "router.home.arpa",
    "1.0.0.127.in-addr.arpa",
    "facebookcorewwwi.onion",
    "site.test",
    "site.invalid",
    "site.example",
    "name.alt",
    "com",
    "example.com.",
    "example..com",
    ".example.com",
    "-example.com",
    "example-.com",
    "exa_mple.com",
    "a" * 64 + ".com",
    ".".join(["a" * 60] * 5) + ".com",
    "xn--",
    "xn--.com",
    "xn--a.com",
    "xn--a-.com",
    "xn--abc.com",
    "xn--example-.com",
    "xn--0.com",
    "ab--cd.com",
    "１２７.０.０.１",
    "①②⑦.⓪.⓪.①",
    "ⓔⓧⓐⓜⓟⓛⓔ.com",
    "ｅｘａｍｐｌｅ.com",
    "example。com",
    "example．com",
    "example｡com",
    "exam\u00adple.com",
    "exam\u200bple.com",
    "exam\u200dple.com",
    "exam\u2060ple.com",
    "exam\ufeffple.com",
    "\u202eelpmaxe.com",
    "e\u0301xample.com",
    "example.com\u2044evil.com",
    "example.com\u2215evil.com",
    "example.com\uff0fevil.com",
    "example.com\uff20evil.com",
    "example.com\u2488com",
    "evil.c\u2100.com",
    "☃.net",
    "😀.ws",
    "ﬁ.com",
    "ExAmPle.ＣＯＭ",
    "\ud83d.com".encode("utf-8", "replace").decode(),
)


def spellings(number: str) -> Iterator[str]:
    """Of one IPv4 address, as the parsers of this world read it."""
    a, b, c, d = (int(part) for part in number.split("."))
    whole = int(ipaddress.ip_address(number))
    yield from (number, f"{number}.", str(whole), hex(whole), f"0{whole:o}", f"0X{whole:08X}")
    yield from (f"{a}.{(b << 16) + (c << 8) + d}", f"{a}.{b}.{(c << 8) + d}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}")
    yield from (".".join(hex(part) for part in (a, b, c, d)), f"{a:#x}.{b}.0{c:o}.{d}", f"{a:03}.{b:03}.{c:03}.{d:03}")
    yield from (f"[{number}]", f"[::ffff:{number}]", f"[::{number}]", f"[2002:{whole >> 16:x}:{whole & 0xFFFF:x}::]")
    yield f"[64:ff9b::{number}]"


NUMBERS = [spelling for number in (*PRIVATE, "8.8.8.8") for spelling in spellings(number)]
IN_BRACKETS = [f"[{number}]" for number in (*PRIVATE_V6, "v1.x", "", "2606:4700:4700::1111", "::1%25eth0")]


@pytest.mark.parametrize("url", [*NOT_HTTPS, *CONFUSING])
def test_an_address_of_two_meanings_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="not opened") as told:
        parse_address(url, "The image")
    assert told.value.hint


@pytest.mark.parametrize("host", [*NUMBERS, *IN_BRACKETS])
def test_a_number_in_any_spelling_is_no_name(host: str) -> None:
    for url in (f"https://{host}/1", f"https://{host}:443", f"https://{host}?a"):
        with pytest.raises(BadInput, match="not opened"):
            parse_address(url, "The image")


@pytest.mark.parametrize("host", NAMES)
def test_a_name_that_no_public_server_has_is_refused(host: str) -> None:
    with pytest.raises(BadInput, match="not opened"):
        parse_address(f"https://{host}/1", "The image")


def test_a_name_may_not_be_endless() -> None:
    with pytest.raises(BadInput, match="longer than 2048"):
        parse_address("https://example.com/" + "a" * 3000, "The image")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com:443/A?b=c#d", "https://example.com/A?b=c"),
        ("https://example.com?x", "https://example.com/?x"),
        ("https://example.com#@evil.com/", "https://example.com/"),
        ("https://example.com/@user/1", "https://example.com/@user/1"),
        ("https://example.com/a b/ü.png", "https://example.com/a%20b/%C3%BC.png"),
        ("https://example.com/a%20b?q=[1]", "https://example.com/a%20b?q=[1]"),
        ("https://example.com/%0d%0aX: y", "https://example.com/%0d%0aX:%20y"),
        ("https://127.0.0.1.example.com/1", "https://127.0.0.1.example.com/1"),
        ("https://0x7f.com/1", "https://0x7f.com/1"),
        ("https://bücher.de/1", "https://xn--bcher-kva.de/1"),
        ("https://xn--bcher-kva.de/1", "https://xn--bcher-kva.de/1"),
        ("https://музей.рф/1", "https://xn--e1adhj9a.xn--p1ai/1"),
        ("https://nft-cdn.alchemy.com/eth/1", "https://nft-cdn.alchemy.com/eth/1"),
    ],
)
def test_an_honest_address_is_asked_for_as_it_reads(url: str, asked: str) -> None:
    address = parse_address(url, "The image")
    assert str(address) == asked
    assert parse_address(asked, "The image") == address


@pytest.mark.parametrize("number", [*PRIVATE, *PRIVATE_V6, "", "localhost", "0x7f.1", "2130706433", "1.1.1.1 "])
def test_an_address_that_strangers_do_not_have_is_not_public(number: str) -> None:
    assert not is_public(number)


@pytest.mark.parametrize("number", PUBLIC)
def test_an_address_of_a_public_server_is_public(number: str) -> None:
    assert is_public(number)


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/2",
        "https://169.254.169.254/latest/meta-data/",
        "//127.0.0.1/",
        "https://a@example.com/",
        "ht\ttps://example.com/",
        "/\\evil.com/",
        "\\\\evil.com/",
        "https://[::1/",
        "file:///etc/passwd",
        "https://example.com:8080/",
        "//[::1]/",
    ],
)
def test_a_redirect_is_judged_like_any_address(location: str) -> None:
    with pytest.raises(BadInput):
        redirected(parse_address("https://example.com/1", "The image"), location, "The image")


def test_a_redirect_may_be_relative() -> None:
    start = parse_address("https://example.com/a/1?x", "The image")
    assert str(redirected(start, "../b/2", "The image")) == "https://example.com/b/2"
    assert str(redirected(start, "", "The image")) == str(start)
