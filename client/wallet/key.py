"""The wallet's key, in memory for as long as it takes to sign."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from eth_account import Account
from eth_account.messages import encode_defunct

from protocol.errors import BadInput
from protocol.grant import Grant, Signable, sign

VARIABLE = "COTERIE_WALLET_KEY"


@dataclass(frozen=True)
class Wallet:
    """An externally owned account whose key is at hand."""

    address: str
    _key: str = field(repr=False)

    @classmethod
    def from_key(cls, key: str) -> "Wallet":
        """Raises BadInput unless ``key`` is 32 bytes in hex."""
        try:
            return cls(Account.from_key(key).address, key)
        except ValueError as error:  # the library's text may quote the key
            raise BadInput("The wallet's key is no private key.", f"{VARIABLE} holds 64 hex digits.") from error

    def sign_text(self, text: str) -> str:
        """EIP-191 ``personal_sign``, 0x-prefixed 65 bytes."""
        signed = Account.sign_message(encode_defunct(text=text), self._key)
        return "0x" + bytes(signed.signature).hex()

    def sign_order(self, order: Signable) -> str:
        """EIP-712, 0x-prefixed 65 bytes."""
        return sign(order, self._key)

    def sign_grant(self, grant: Grant) -> str:
        """EIP-712, 0x-prefixed 65 bytes."""
        return sign(grant, self._key)


def at_hand(keystore: Path | None) -> bool:
    """Whether there is a wallet on this machine to sign with."""
    return bool(keystore or os.environ.get(VARIABLE))


def load_wallet(keystore: Path | None, ask_password: Callable[[], str]) -> Wallet:
    """The wallet in a keystore file if one is named, else the one in ``COTERIE_WALLET_KEY``.

    The variable is removed from the environment, so that no process started later inherits the key.

    Raises:
        BadInput: there is no wallet, or it does not open.
    """
    key = os.environ.pop(VARIABLE, "")
    if keystore:
        return _from_keystore(keystore, ask_password)
    if key:
        return Wallet.from_key(key)
    raise BadInput(
        "There is no wallet to sign with.", f"Name a keystore file with --keystore, or put the key into {VARIABLE}."
    )


def _from_keystore(keystore: Path, ask_password: Callable[[], str]) -> Wallet:
    try:
        document = json.loads(keystore.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{keystore} is no keystore file.", "Name the JSON file that your wallet exported.") from error
    try:
        key = Account.decrypt(document, ask_password())
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{keystore} does not open with this password.", "Try again.") from error
    return Wallet.from_key("0x" + bytes(key).hex())
