"""EIP-712 typed data as browser wallets take it."""

import json
from collections.abc import Mapping
from typing import Any


def json_for_wallets(typed: Mapping[str, Any]) -> str:
    """The JSON text for ``eth_signTypedData_v4``.

    Wallets parse it in JavaScript, whose numbers hold 53 bits, and token ids have 256: so whole numbers in the message
    are written as decimal strings, which have the same EIP-712 hash. The domain's chain stays a number, because
    wallets compare it with the chain that they are on.
    """
    return json.dumps({**typed, "message": _decimal(typed["message"])}, ensure_ascii=False)


def _decimal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _decimal(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_decimal(one) for one in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
