"""Which web addresses are opened, judged by their text, and which IP addresses, judged by their number. Pure.

A name that programs could read in two ways is refused, not mended: only ``https``, a plain host name on port 443, no
user, no IP address in any spelling. What is left means the same to the resolver, to TLS and to the server.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from urllib.parse import quote, urljoin

import idna

from protocol.errors import BadInput

LEFT_OUT = "The token is left out; nothing has to be done."
MAX_ADDRESS = 2048
"""Characters."""
MAX_NAME = 253

_ADDRESS = re.compile(r"https://([^/?#]*)([^#]*)", re.I)
_AMBIGUOUS = re.compile(r"[\x00-\x1f\x7f\\]")
"""Controls are dropped by some parsers, and a backslash is a slash to some."""
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
"""A last label that browsers take for the end of an IPv4 address (WHATWG URL, "ends in a number")."""
_KEPT = "/%:@!$&'()*+,;=-._~?[]"
_SPECIAL = frozenset({"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion", "test"})
"""Names that no public server has (RFC 6761 and its registry, and what ICANN keeps for private networks)."""

_CLOSED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; one cloud's metadata is 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's metadata, at an address that looks public
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo, ORCHID and other protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4 wraps any IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_IPV6 = ip_network("2000::/3")
"""All that is public in IPv6; loopback, mapped, NAT64, unique local, link-local and multicast are outside it."""


@dataclass(frozen=True)
class WebAddress:
    """An ``https`` address on port 443, as it is asked for."""

    host: str
    """ASCII, lower case."""
    target: str
    """Path and query, percent-encoded; begins with a slash."""

    def __str__(self) -> str:
        return f"https://{self.host}{self.target}"

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def parse_address(text: str, what: str) -> WebAddress:
    """Invariant: ``parse_address(str(a), …) == a``. ``what`` begins the reason.

    Raises:
        BadInput: not ``https``, or anything but a plain public name.
    """
    try:
        return _parsed(text)
    except ValueError as error:
        raise BadInput(f"{what} is on a web server that is not opened: {error}.", LEFT_OUT) from error


def redirected(address: WebAddress, location: str, what: str) -> WebAddress:
    """Where ``address`` sends on to; errors as in ``parse_address``."""
    if _AMBIGUOUS.search(location):  # urljoin would drop some of them
        raise BadInput(f"{what} is on a web server that redirects to an address of two meanings.", LEFT_OUT)
    try:
        joined = urljoin(str(address), location)
    except ValueError as error:
        raise BadInput(f"{what} is on a web server that redirects to what is no address.", LEFT_OUT) from error
    return parse_address(joined, what)


def is_public(number: str) -> bool:
    """Whether an IP address, as a resolver gives it, is one that strangers' servers have."""
    try:
        address = ip_address(number)
    except ValueError:
        return False
    if not isinstance(address, IPv4Address) and address not in _IPV6:
        return False
    return not any(address in network for network in _CLOSED)


def _parsed(text: str) -> WebAddress:
    """Raises ValueError with the reason."""
    if len(text) > MAX_ADDRESS:
        raise ValueError(f"its address is longer than {MAX_ADDRESS} characters")
    if _AMBIGUOUS.search(text):
        raise ValueError("its address has characters that programs read in different ways")
    match = _ADDRESS.fullmatch(text.partition("#")[0])
    if not match:
        raise ValueError("its address is not https://")
    authority, rest = match.groups()
    if "@" in authority:
        raise ValueError("its address names a user, which can pass for a host")
    if "[" in authority:
        raise ValueError("its address is a number and no name")
    name, colon, port = authority.partition(":")
    if colon and port != "443":
        raise ValueError("its address names a port; only 443 is used")
    target = quote(rest, safe=_KEPT)
    return WebAddress(_host(name), target if target.startswith("/") else f"/{target}")


def _host(text: str) -> str:
    if not text.isascii():
        text = _punycode(text)
    name = text.lower()
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError("its address is a number and no name")
    if len(name) > MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("its name is no name of a host")
    if len(labels) == 1 or labels[-1] in _SPECIAL:
        raise ValueError("its name is not one of a public server")
    for label in labels:
        # Hyphens in the third and fourth place stand for an encoding; xn-- is the only one there is.
        if label[2:4] == "--" and _punycode(_decoded(label)) != label:
            raise ValueError("its international name is not written as it should be")
    return name


def _punycode(text: str) -> str:
    """IDNA 2008 as it stands: no mapping of look-alike digits, letters and full stops to plain ones."""
    if re.search(r"[。．｡]", text):
        raise ValueError("its international name has full stops that are none")
    try:
        return idna.encode(text).decode("ascii")
    except UnicodeError as error:
        raise ValueError("its international name is not allowed in IDNA 2008") from error


def _decoded(label: str) -> str:
    try:
        return idna.decode(label)
    except UnicodeError as error:
        raise ValueError("its international name is not allowed in IDNA 2008") from error
