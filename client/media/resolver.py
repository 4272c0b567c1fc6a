"""A URI that a token names → bytes: ``data:``, ``ipfs:``, ``ar:`` and ``https:``, and nothing else."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from client.media.addresses import LEFT_OUT, WebAddress, parse_address
from client.media.data import MENDED_THERE, read_data
from client.media.tdmrep import WELL_KNOWN, Rule, reserved_by_header, reserved_by_site, site_rules
from client.media.web import LATER, Answer, Web
from client.pull.fetch import fetch_file
from protocol.errors import BadInput, CoterieError, NotAllowed, Unreachable
from protocol.unixfs import Cid

FETCH_TIMEOUT_S = 60.0
MAX_TDMREP_BYTES = 2 << 20
OPENED = "data:, ipfs:, ar: and https:"

FetchFile = Callable[[str, int], bytes]
"""(``"cid/a/b"``, most bytes) → the verified bytes of that file."""

_TRANSACTION = re.compile(r"([A-Za-z0-9_-]{43})(/[^?#]*)?")
_GATEWAY_PATH = re.compile(r"/ipfs/([A-Za-z0-9]{46,120})(/[^?]*)?")
_GATEWAY_NAME = re.compile(r"([a-z0-9]{46,63})\.ipfs\..+")


@dataclass(frozen=True)
class Found:
    """A file's original bytes, and whether a web server gave them, whose reservations were then asked for."""

    data: bytes
    tdmrep: bool = False


class Media:
    """Reads what tokens name. One for each run: sites' reservations are asked for once.

    ``ipfs`` fetches verified files. Without ``web`` neither ``ar:`` nor ``https:`` is opened; without ``allow_https``
    no host that a token names is ever asked, only ``arweave``'s gateways, which the member names.
    """

    def __init__(
        self, ipfs: FetchFile, web: Web | None = None, arweave: Sequence[str] = (), *, allow_https: bool = True
    ) -> None:
        self._ipfs, self._web, self._arweave = ipfs, web, arweave
        self._allow_https = allow_https and web is not None
        self._sites: dict[str, tuple[Rule, ...] | CoterieError] = {}

    def read(self, uri: str, max_bytes: int, what: str) -> Found:
        """The bytes behind ``uri``. ``what`` begins the reason.

        Raises:
            BadInput: a scheme or an address that is not opened, or too long.
            NotAllowed: its web server reserves it from text and data mining.
            Unreachable: nobody gave it.
        """
        # JSON can hold halves of characters, which no encoding has.
        uri = uri.encode(errors="replace").decode().strip()
        scheme, _, rest = uri.partition(":")
        match scheme.lower():
            case "data":
                found = Found(read_data(rest, what))
            case "ipfs":
                # ipfs://ipfs/<cid> is a mistake that many collections share.
                found = Found(self._ipfs(unquote(rest.removeprefix("//").removeprefix("ipfs/")).rstrip("/"), max_bytes))
            case "ar":
                found = Found(self._from_arweave(rest.removeprefix("//"), max_bytes, what))
            case "https":
                found = self._from_web(parse_address(uri, what), max_bytes, what)
            case "http":
                raise BadInput(
                    f"{what} is on a web server under http:, which is not opened: anyone on the way could change it.",
                    MENDED_THERE,
                )
            case _:
                raise BadInput(
                    f"{what} is kept under {scheme[:20]!r}, which is not opened; only {OPENED} are.", MENDED_THERE
                )
        if len(found.data) > max_bytes:
            raise BadInput(
                f"{what} is {len(found.data)} bytes; at most {max_bytes} are taken.",
                "The token is left out; train on others.",
            )
        return found

    def _from_web(self, address: WebAddress, max_bytes: int, what: str) -> Found:
        """A gateway's address is read as what it stands for first: verified, and without asking the named host."""
        refusal: CoterieError | None = None
        try:
            if path := ipfs_path(address):
                return Found(self._ipfs(path, max_bytes))
            of_arweave = address.host in {parse_address(one, what).host for one in self._arweave}
            if of_arweave and _TRANSACTION.fullmatch(address.path[1:]):
                return Found(self._from_arweave(address.path[1:], max_bytes, what))
        except Unreachable as error:
            refusal = error
        if not self._allow_https or self._web is None:
            raise refusal or BadInput(
                f"{what} is on a web server, which is not opened: allow_https is off here.",
                "Set allow_https to open it, which shows that server your machine's address; or train on others.",
            )
        answer = self._web.read(str(address), max_bytes, what)
        self._require_unreserved(answer, what)
        return Found(answer.body, tdmrep=True)

    def _from_arweave(self, rest: str, max_bytes: int, what: str) -> bytes:
        """From the first gateway that has it. Its word is believed: a transaction's id does not hash its data."""
        match = _TRANSACTION.fullmatch(rest.partition("#")[0].partition("?")[0])
        if not match:
            raise BadInput(f"{what} is at an ar: address that is not opened: it names no transaction.", MENDED_THERE)
        if self._web is None or not self._arweave:
            raise BadInput(
                f"{what} is on Arweave, which is not opened: no gateway is set.", "Name one in arweave_gateways."
            )
        target = match[1] + quote(unquote(match[2] or ""))
        reasons = []
        for gateway in self._arweave:
            try:
                # Gateways send each transaction on to a name of its own below theirs.
                url = f"{gateway.rstrip('/')}/{target}"
                return self._web.read(url, max_bytes, what, subdomains=True).body
            except CoterieError as error:
                reasons.append(error.message)
        raise Unreachable(f"{what} came from no Arweave gateway. {' | '.join(reasons)}", LATER)

    def _require_unreserved(self, answer: Answer, what: str) -> None:
        """By the answer's header and by its site's file."""
        host = answer.address.host
        reason = reserved_by_header(answer.headers)
        if not reason:
            if host not in self._sites:
                self._sites[host] = self._rules_of(host)
            rules = self._sites[host]
            if isinstance(rules, CoterieError):
                raise rules
            reason = reserved_by_site(rules, answer.address.path)
        if reason:
            raise NotAllowed(f"{what} may not be trained on (TDMRep): {host} says so, {reason}.", LEFT_OUT)

    def _rules_of(self, host: str) -> tuple[Rule, ...] | CoterieError:
        """As for robots.txt (RFC 9309): who has no such file reserves nothing; who cannot say is not trained on."""
        assert self._web
        try:
            answer = self._web.get(f"https://{host}{WELL_KNOWN}", MAX_TDMREP_BYTES)
        except Unreachable:
            answer = None
        except BadInput:  # redirected elsewhere, or far too long
            return ()
        if answer is not None and answer.status < 500 and answer.status != 429:
            return site_rules(answer.body)
        told = f"(it answered {answer.status})" if answer else "(it did not answer)"
        return Unreachable(
            f"Whether {host} reserves its files from text and data mining is not known: {WELL_KNOWN} {told}.", LATER
        )


def media_of(gateways: Sequence[str], arweave: Sequence[str], *, allow_https: bool) -> Media:
    """By a member's settings; ``gateways`` are IPFS's."""

    def fetch(path: str, max_bytes: int) -> bytes:
        return fetch_file(path, gateways, max_bytes, FETCH_TIMEOUT_S)

    return Media(fetch, Web(), arweave, allow_https=allow_https)


def ipfs_path(address: WebAddress) -> str:
    """``"cid/a/b"`` that an IPFS gateway's address stands for, whoever's the gateway is; else nothing."""
    named, within = _GATEWAY_NAME.fullmatch(address.host), _GATEWAY_PATH.fullmatch(address.path)
    cid, rest = (named[1], address.path) if named else (within[1], within[2] or "") if within else ("", "")
    try:
        Cid.parse(cid)
    except CoterieError:
        return ""
    return f"{cid}{unquote(rest)}".rstrip("/")
