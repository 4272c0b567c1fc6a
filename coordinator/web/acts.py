"""Acts that matter, over HTTP. A signature over exactly what is done is the authorisation; no session counts here."""

from flask import Blueprint, Response, jsonify
from pydantic import BaseModel

from contracts_abi.admin import require_admin
from contracts_abi.model import Snapshot
from contracts_abi.signatures import at_block
from coordinator.eligibility.verdicts import take_snapshot
from coordinator.identity import grants
from coordinator.web.requests import body_of
from coordinator.web.service import Service, service
from protocol.acts import Act, CancelRound, RemoveContribution, RevokeGrant, require_current
from protocol.errors import BadInput, NotAllowed
from protocol.grant import require_signer

acts = Blueprint("acts", __name__, url_prefix="/api/v1")


class CancelRoundRequest(BaseModel):
    cancel_round: CancelRound
    signature: str


class RemoveContributionRequest(BaseModel):
    remove_contribution: RemoveContribution
    signature: str


class RevokeGrantRequest(BaseModel):
    revoke_grant: RevokeGrant
    signature: str


@acts.post("/rounds/<round_id>/cancellation")
def cancel_round(round_id: str) -> Response:
    here, asked = service(), body_of(CancelRoundRequest)
    snapshot = _checked(here, asked.cancel_round, asked.signature, round_id)
    require_admin(here.rpc, here.policy, asked.cancel_round.admin, snapshot)
    here.ledger.cancel(asked.cancel_round, asked.signature, snapshot)
    return jsonify(round_id=round_id)


@acts.post("/contributions/<contribution_id>/removal")
def remove_contribution(contribution_id: str) -> Response:
    here, asked = service(), body_of(RemoveContributionRequest)
    snapshot = _checked(here, asked.remove_contribution, asked.signature, contribution_id)
    require_admin(here.rpc, here.policy, asked.remove_contribution.admin, snapshot)
    removal = here.ledger.remove(asked.remove_contribution, asked.signature, snapshot)
    return jsonify(contribution_id=contribution_id, removal_round=removal)


@acts.post("/grants/<grant_id>/revocation")
def revoke_grant(grant_id: str) -> Response:
    here, asked = service(), body_of(RevokeGrantRequest)
    order = asked.revoke_grant
    snapshot = _checked(here, order, asked.signature, grant_id)
    with here.database.reading() as session:
        grant, _ = grants.granted(session, grant_id)
    if (grant.member, grant.digest()) != (order.member, order.grant_hash):
        raise NotAllowed(f"Grant {grant_id} is {grant.member}'s.", "Revoke it with the wallet that gave it.")
    return jsonify(grant_id=grant_id, removal_round=here.ledger.revoke(order, asked.signature, snapshot))


def _checked(here: Service, order: Act, signature: str, named: str) -> Snapshot:
    """The finalized block at which the actor signed this order, which is for here, for now, and for what is named.

    Raises:
        BadInput, NotAllowed: it is not.
        Unreachable: the chain does not answer.
    """
    if order.subject != named:
        raise BadInput(
            f"The order is about {order.subject}, not {named}.", "Send it to the address of what it is about."
        )
    require_current(order, here.policy.dao, here.policy.chain_id, here.now())
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    require_signer(order, signature, order.actor, at_block(rpc, snapshot))
    return snapshot
