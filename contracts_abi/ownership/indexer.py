"""Alchemy's NFT API v3, asked what a wallet may hold. Its word is a hint: what it names is confirmed on the chain."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from contracts_abi.model import Address
from protocol.errors import Unreachable

PAGE_SIZE = 100
"""The most that a page of getNFTsForOwner holds."""
CONTRACTS_A_QUESTION = 45
MAX_PAGES = 200
MAX_PAGE_BYTES = 4 * 2**20
TIMEOUT_S = 20.0
TOTAL_S = 60.0


class Indexer:
    """One network's API. The key is in the path of its URLs, so no error, and no cause of one, shows a URL."""

    def __init__(self, url: str, key: str) -> None:
        """``url`` as ``https://eth-mainnet.g.alchemy.com``."""
        parts = urlsplit(url)
        self.host = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._url = f"{url.rstrip('/')}/nft/v3/{quote(key, safe='')}/getNFTsForOwner"

    def __repr__(self) -> str:
        return f"Indexer({self.host})"

    def token_ids(self, wallet: Address, contracts: Sequence[Address]) -> dict[Address, list[int]]:
        """The ids that the wallet is said to hold in each of the contracts.

        Raises:
            Unreachable: no answer, an answer that is none, or pages without end.
        """
        known = {contract.lower(): contract for contract in contracts}
        found: dict[Address, list[int]] = {contract: [] for contract in contracts}
        for at in range(0, len(contracts), CONTRACTS_A_QUESTION):
            for one in self._owned(wallet, contracts[at : at + CONTRACTS_A_QUESTION]):
                contract, token_id = _named(one)
                if contract in known and token_id is not None and token_id not in found[known[contract]]:
                    found[known[contract]].append(token_id)
        return found

    def _owned(self, wallet: Address, contracts: Sequence[Address]) -> Iterator[Any]:
        page_key, ends = "", time.monotonic() + TOTAL_S
        for _ in range(MAX_PAGES):
            page = self._page(wallet, contracts, page_key)
            listed, page_key = page.get("ownedNfts"), page.get("pageKey") or ""
            if not isinstance(listed, list) or not isinstance(page_key, str):
                raise self._refusal("an answer without ownedNfts")
            yield from listed
            if not page_key:
                return
            if time.monotonic() > ends:
                break
        raise self._refusal("more pages than are read")

    def _page(self, wallet: Address, contracts: Iterable[Address], page_key: str) -> Mapping[str, Any]:
        asked = [("owner", wallet), ("withMetadata", "false"), ("pageSize", str(PAGE_SIZE))]
        asked += [("contractAddresses[]", contract) for contract in contracts]
        asked += [("pageKey", page_key)] if page_key else []
        try:
            with requests.get(
                self._url, params=asked, timeout=TIMEOUT_S, stream=True, allow_redirects=False
            ) as response:
                body = response.raw.read(MAX_PAGE_BYTES + 1, decode_content=True)
                if response.status_code != requests.codes.ok:
                    raise self._refusal(f"HTTP status {response.status_code}")
                if len(body) > MAX_PAGE_BYTES:
                    raise self._refusal("an answer without end")
        except (requests.RequestException, OSError):
            raise self._refusal("no answer") from None  # its text has the URL, and so the key
        try:
            page = json.loads(body)
        except ValueError:
            raise self._refusal("no JSON") from None
        if not isinstance(page, dict):
            raise self._refusal("an answer without ownedNfts")
        return page

    def _refusal(self, what: str) -> Unreachable:
        return Unreachable(
            f"The indexer at {self.host} gave {what}.", "Check indexer_url and indexer_key, or leave them out."
        )


def _named(one: Any) -> tuple[str, int | None]:
    """Contract (lower case) and token id, from an entry with metadata or without; ("", None) for what names none."""
    try:
        contract = one["contractAddress"] if "contractAddress" in one else one["contract"]["address"]
        token_id = int(one["tokenId"])
    except (KeyError, TypeError, ValueError):
        return "", None
    return str(contract).lower(), token_id if 0 <= token_id < 2**256 else None
