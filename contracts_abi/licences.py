"""Every licence that the chain itself names for a token: Can't Be Evil, ERC-5218, and metadata that lie on chain.

Metadata elsewhere are not asked: what a server says of a licence today it can unsay tomorrow, and two sides that judge
the same token would not see the same.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from contracts_abi.asking import ask, decode
from contracts_abi.model import LicenceSignal, Snapshot, Token
from contracts_abi.readers import MAX_URI_BYTES, licence_signal, token_uris
from contracts_abi.rpc import Rpc

ERC_165 = bytes.fromhex("01ffc9a7")
NOT_ERC_165 = bytes.fromhex("ffffffff")
ERC_5218 = bytes.fromhex("ac7b5ca9")
MAX_LICENCE_TEXT = 500
_DATA = "data:application/json"


def announces(rpc: Rpc, contracts: Iterable[str], interface: bytes, snapshot: Snapshot) -> dict[str, bool]:
    """Whether each contract says by ERC-165 that it has ``interface``, and does not say so of every interface."""
    asked = list(dict.fromkeys(contracts))
    wanted = (ERC_165, NOT_ERC_165, interface)
    answers = ask(
        rpc, [(contract, "supportsInterface(bytes4)", [one]) for contract in asked for one in wanted], snapshot
    )
    said = [decode("bool", answer) for answer in answers]
    return {contract: said[3 * at : 3 * at + 3] == [True, False, True] for at, contract in enumerate(asked)}


def licence_signals(rpc: Rpc, tokens: Iterable[Token], snapshot: Snapshot) -> dict[Token, tuple[LicenceSignal, ...]]:
    """What each token's contract declares of its licence, by every standard it announces."""
    asked = list(dict.fromkeys(tokens))
    contracts = list(dict.fromkeys(token.contract for token in asked))
    whole = {contract: licence_signal(rpc, contract, snapshot) for contract in contracts}
    by_token = announces(rpc, contracts, ERC_5218, snapshot)
    single = _erc_5218(rpc, [token for token in asked if by_token[token.contract]], snapshot)
    return {
        token: tuple(signal for signal in (whole[token.contract], single.get(token)) if signal is not None)
        for token in asked
    }


def metadata_licences(rpc: Rpc, tokens: Iterable[Token], snapshot: Snapshot) -> dict[Token, str]:
    """The ``license`` in each token's metadata, where these are on the chain (a ``data:`` URI); others are left out."""
    found = {token: _licence_in(uri) for token, uri in token_uris(rpc, tokens, snapshot).items()}
    return {token: licence for token, licence in found.items() if licence}


def _erc_5218(rpc: Rpc, tokens: list[Token], snapshot: Snapshot) -> dict[Token, LicenceSignal]:
    """A contract that promises a licence and does not name one that is in force has none in force."""
    answers = ask(rpc, [(one.contract, "getLicenseIdByTokenId(uint256)", [one.token_id]) for one in tokens], snapshot)
    ids = [decode("uint256", answer) for answer in answers]
    calls = [
        (token.contract, function, [licence or 0])
        for token, licence in zip(tokens, ids, strict=True)
        for function in ("getLicenseURI(uint256)", "isLicenseActive(uint256)")
    ]
    said = ask(rpc, calls, snapshot)
    found = {}
    for at, (token, licence) in enumerate(zip(tokens, ids, strict=True)):
        uri, active = _text(said[2 * at]), decode("bool", said[2 * at + 1]) is True
        found[token] = LicenceSignal(
            name="", uri=uri, standard="ERC-5218", active=active and licence is not None and bool(uri)
        )
    return found


def _licence_in(uri: str) -> str:
    """Empty where the metadata are not on the chain, cannot be read, or name no licence."""
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().startswith(_DATA):
        return ""
    try:
        data = unquote_to_bytes(body)
        if head.lower().endswith(";base64"):
            data = base64.b64decode(data, validate=True)
        metadata = json.loads(data)
    except (ValueError, binascii.Error, RecursionError):
        return ""
    licence = metadata.get("license") if isinstance(metadata, dict) else None
    return licence.strip() if isinstance(licence, str) and len(licence) <= MAX_LICENCE_TEXT else ""


def _text(answer: object) -> str:
    data = decode("bytes", answer)
    if not data or len(data) > MAX_URI_BYTES:
        return ""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return ""
