"""An admin's orders at the shell: signed here and sent, or written down to be signed elsewhere and sent then."""

import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from eth_account import Account
from eth_utils.address import is_address, to_checksum_address
from pydantic import BaseModel, JsonValue, ValidationError

from coordinator.config import CoordinatorSettings
from protocol.acts import MAX_ACT_SECONDS
from protocol.canonical import Document
from protocol.errors import BadInput, CoterieError, Unreachable
from protocol.grant import Signable, sign

WALLET_KEY_VARIABLE = "COTERIE_WALLET_KEY"
SECONDS = 600
"""How long an order is good that is signed and sent at once."""
MARGIN_SECONDS = 60
"""What the clocks of this machine and the coordinator's may differ by."""


class OrderFile(BaseModel):
    """An order that waits for its signature: where it goes, the body, and what the wallets sign."""

    path: str
    body: dict[str, JsonValue]
    typed_data: dict[str, JsonValue]


def admin_and_end(admin: str | None, out: Path | None) -> tuple[str, int]:
    """Who gives the order, and until when it is good (Unix seconds).

    Raises:
        BadInput: there is nobody, or an order for another's signature is not to be written anywhere.
    """
    now = int(time.time())
    if admin is None:
        return Account.from_key(_key()).address, now + SECONDS
    if not is_address(admin):
        raise BadInput(f"{admin} is no Ethereum address.")
    if out is None:
        raise BadInput(f"{admin} signs elsewhere.", "Name a file with --out; send it with its signature later.")
    return to_checksum_address(admin), now + MAX_ACT_SECONDS - MARGIN_SECONDS


def write_order(out: Path, path: str, name: str, order: Document, shown: dict[str, Any]) -> None:
    """Keep an order in ``out`` until it is signed. Raises BadInput when the file is there already."""
    file = OrderFile(path=path, body={name: order.model_dump(mode="json")}, typed_data=shown)
    try:
        with out.open("x") as target:
            target.write(json.dumps(file.model_dump(), indent=2) + "\n")
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror}.", "Name a new file.") from error


def read_order(file: Path) -> OrderFile:
    """Raises BadInput when the file is missing or holds no order."""
    try:
        return OrderFile.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInput(f"{file} holds no order.", "Name a file that --out has written.") from error


def signed_here(order: Signable) -> str:
    """The order's signature by the key in ``COTERIE_WALLET_KEY``. Raises BadInput when there is none."""
    return sign(order, _key())


def call(settings: CoordinatorSettings, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The coordinator's answer, a list whole; its problem as an error of ours."""
    answer, following = _called(settings, method, path, body)
    while following:
        piece, following = _called(settings, method, f"{path}?{following}", None)
        answer += piece
    return answer


def _called(settings: CoordinatorSettings, method: str, path: str, body: dict[str, Any] | None) -> tuple[Any, str]:
    """One answer, and the query of the next piece of it."""
    url = f"{settings.public_uri}/api/v1/{path}"
    try:
        response = requests.request(method, url, json=body, timeout=60)
        answer = response.json()
    except (requests.RequestException, ValueError) as error:
        raise Unreachable(f"No coordinator answers at {settings.public_uri}.", "Start it first.") from error
    if not response.ok:
        kind = next((k for k in CoterieError.__subclasses__() if k.code == answer.get("code")), CoterieError)
        raise kind(str(answer.get("detail", response.status_code)), str(answer.get("hint", "")))
    return answer, urlsplit(response.links.get("next", {}).get("url", "")).query


def _key() -> str:
    key = os.environ.get(WALLET_KEY_VARIABLE)
    if not key:
        raise BadInput(f"{WALLET_KEY_VARIABLE} is not set.", "Set it to the admin wallet's private key.")
    return key
