"""Whatever a token names: refused with a sentence, or an address that every parser reads in the same way."""

import ipaddress
import re
from urllib.parse import urlsplit

from hypothesis import given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url
from yarl import URL

from client.media.addresses import is_public, parse_address
from protocol.errors import BadInput

PIECES = (
    *("https", "http", ":", "//", "/", "\\", "@", "?", "#", ".", "%", "%40", "%2f", "%00", "\t", "\n", " ", ";", "&"),
    *("example", "com", "evil.com", "127.0.0.1", "[::1]", "0x7f", "2130706433", "017700000001", "localhost", ":443"),
    *(
        "xn--bcher-kva",
        "xn--",
        "ü",
        "。",
        "．",
        "１２７",
        "ⓔ",
        "\u200d",
        "\ufeff",
        "\u202e",
        "-",
        "--",
        "_",
        "443",
        ":80",
    ),
)
addresses = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map(
        lambda pieces: "https://" + "".join(pieces)
    ),
    st.tuples(st.text(max_size=12), st.text(max_size=20)).map(lambda parts: f"https://{parts[0]}.com/{parts[1]}"),
    st.text(max_size=40).map(lambda text: f"https://example.com/{text}"),
)


@settings(max_examples=1500, deadline=None)
@given(addresses)
def test_what_is_opened_means_the_same_to_every_parser(text: str) -> None:
    try:
        address = parse_address(text, "The image")
    except BadInput as refusal:
        assert refusal.message.endswith(".")
        return
    assert parse_address(str(address), "The image") == address
    assert re.fullmatch(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", address.host)
    assert re.fullmatch(r"/[\x21-\x7e]*", address.target)
    by_urllib, by_urllib3, by_yarl = urlsplit(str(address)), parse_url(str(address)), URL(str(address), encoded=True)
    assert (by_urllib.scheme, by_urllib.hostname, by_urllib.port, by_urllib.username) == (
        "https",
        address.host,
        None,
        None,
    )
    assert (by_urllib3.scheme, by_urllib3.host, by_urllib3.port, by_urllib3.auth) == ("https", address.host, None, None)
    assert (by_yarl.scheme, by_yarl.raw_host, by_yarl.port, by_yarl.user) == ("https", address.host, 443, None)


@settings(max_examples=1500, deadline=None)
@given(st.ip_addresses())
def test_what_is_public_here_is_global_by_the_registries_too(number: ipaddress.IPv4Address) -> None:
    if is_public(str(number)):
        assert number.is_global and not number.is_multicast


@settings(max_examples=500, deadline=None)
@given(st.ip_addresses(v=4))
def test_no_ipv6_wrapping_of_any_ipv4_address_is_public(number: ipaddress.IPv4Address) -> None:
    high, low = int(number) >> 16, int(number) & 0xFFFF
    for wrapped in (f"::ffff:{number}", f"::{number}", f"64:ff9b::{number}", f"2002:{high:x}:{low:x}::1"):
        assert not is_public(wrapped)
