"""Orders as they are to be signed: what a page knows of an act becomes the document that the wallet shows.

A proposal is nothing yet. It is written for here and now, so that a page has neither to know the fields of a document
nor to make a nonce; what counts is the order that comes back with its signature, which is checked as every order is.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, JsonValue, ValidationError

from contracts_abi.model import Address
from coordinator.orders import SECONDS
from coordinator.web.openapi import Answer, Request, Routes
from coordinator.web.requests import signed_in
from coordinator.web.service import Service, service
from protocol.acts import MAX_ACT_SECONDS, Act
from protocol.errors import BadInput
from protocol.grant import StartRound
from protocol.typed_data import json_for_wallets

proposals = Routes("proposals", __name__, tag="Acts", url_prefix="/api/v1")


class ProposalRequest(Request):
    kind: str
    """The order's name in the body in which it is sent: ``start_round``, ``cancel_round``, ``revoke_grant`` ..."""
    fields: dict[str, JsonValue] = Field(default_factory=dict)
    """What this kind says beside who, where, nonce and end; who (``admin`` or ``member``) too, unless it is the wallet
    that is signed in."""
    seconds: Annotated[int, Field(ge=60, le=MAX_ACT_SECONDS)] = SECONDS
    """How long it is to be good: longer where several people sign."""


class Proposal(Answer):
    kind: str
    signer: Address
    order: dict[str, JsonValue]
    typed_data: str
    """JSON for ``eth_signTypedData_v4``."""


@proposals.post("/acts/typed-data")
def propose_act(body: ProposalRequest) -> Proposal:
    """An order to sign, with a fresh nonce and a near end, as the wallet shows it."""
    here = service()
    order = proposed(here, body.kind, body.fields, signed_in(here), body.seconds)
    return Proposal(
        kind=body.kind,
        signer=order.admin if isinstance(order, StartRound) else order.actor,
        order=order.model_dump(mode="json"),
        typed_data=json_for_wallets(order.typed_data()),
    )


def proposed(here: Service, kind: str, fields: Mapping[str, Any], wallet: Address, seconds: int) -> Act | StartRound:
    """The order of this kind, for this DAO, from now on.

    Raises:
        BadInput: there is no such kind, or a field is missing or wrong.
    """
    model = KINDS.get(kind)
    if model is None:
        raise BadInput(f"There is no order of the kind {kind[:40]}.", f"Name one of {', '.join(sorted(KINDS))}.")
    fresh: dict[str, Any] = {
        "dao": here.policy.dao,
        "chain_id": here.policy.chain_id,
        "nonce": secrets.token_urlsafe(16),
        "expires": here.now() + seconds,
    }
    if model is StartRound:
        fresh |= {"policy_hash": here.policy.digest(), "base_hash": here.base_hash}
    who = "admin" if "admin" in model.model_fields else "member"
    try:
        return model.model_validate_json(json.dumps({who: wallet, **fields, **fresh}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(("fields", *(str(part) for part in first["loc"])))
        raise BadInput(f"{place}: {first['msg']}.", "Mend the request.") from error


def _kinds(of: type[Act] = Act) -> Iterator[type[Act]]:
    """Every act that has an effect; what several kinds share has none."""
    for kind in of.__subclasses__():
        if hasattr(kind, "effect"):
            yield kind
        yield from _kinds(kind)


def _name(model: type) -> str:
    """``CancelRound`` → ``cancel_round``"""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", model.__name__).lower()


KINDS: Mapping[str, type[Act] | type[StartRound]] = {
    _name(StartRound): StartRound,
    **{_name(one): one for one in _kinds()},
}
