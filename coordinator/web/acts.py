"""Acts that matter, over HTTP. A signature over exactly what is done is the authorisation; no session counts here."""

from contracts_abi.admin import require_admin
from contracts_abi.model import Snapshot
from contracts_abi.signatures import at_block
from coordinator.eligibility.verdicts import take_snapshot
from coordinator.identity import grants
from coordinator.web.openapi import Answer, Request, Routes
from coordinator.web.service import Service, service
from protocol.acts import Act, AdminAct, CancelRound, RemoveContribution, RevokeGrant, require_current
from protocol.errors import BadInput, NotAllowed
from protocol.grant import require_signer

acts = Routes("acts", __name__, tag="Acts", url_prefix="/api/v1")


class RoundPath(Request):
    round_id: str


class ContributionPath(Request):
    contribution_id: str


class GrantPath(Request):
    grant_id: str


class CancelRoundRequest(Request):
    cancel_round: CancelRound
    signature: str


class RemoveContributionRequest(Request):
    remove_contribution: RemoveContribution
    signature: str


class RevokeGrantRequest(Request):
    revoke_grant: RevokeGrant
    signature: str


class CancelledRound(Answer):
    round_id: str


class RemovedContribution(Answer):
    contribution_id: str
    removal_round: str | None
    """The round that makes the model again without it, where one opens."""


class RevokedGrant(Answer):
    grant_id: str
    removal_round: str | None
    """The round that makes the model again without what was trained under it, where one opens."""


@acts.post("/rounds/<round_id>/cancellation")
def cancel_round(path: RoundPath, body: CancelRoundRequest) -> CancelledRound:
    """End a training round without a release."""
    here, order = service(), body.cancel_round
    snapshot = checked_by_admin(here, order, body.signature, path.round_id)
    here.ledger.cancel(order, body.signature, snapshot)
    return CancelledRound(round_id=path.round_id)


@acts.post("/contributions/<contribution_id>/removal")
def remove_contribution(path: ContributionPath, body: RemoveContributionRequest) -> RemovedContribution:
    """End one contribution; where it is in the newest release, one without it follows."""
    here, order = service(), body.remove_contribution
    snapshot = checked_by_admin(here, order, body.signature, path.contribution_id)
    removal = here.ledger.remove(order, body.signature, snapshot)
    return RemovedContribution(contribution_id=path.contribution_id, removal_round=removal)


@acts.post("/grants/<grant_id>/revocation")
def revoke_grant(path: GrantPath, body: RevokeGrantRequest) -> RevokedGrant:
    """Revoke a grant: nothing more is trained under it, and what was, is removed."""
    here, order = service(), body.revoke_grant
    snapshot = _checked(here, order, body.signature, path.grant_id)
    with here.database.reading() as session:
        grant, _ = grants.granted(session, path.grant_id)
    if (grant.member, grant.digest()) != (order.member, order.grant_hash):
        raise NotAllowed(f"Grant {path.grant_id} is {grant.member}'s.", "Revoke it with the wallet that gave it.")
    removal = here.ledger.revoke(order, body.signature, snapshot)
    return RevokedGrant(grant_id=path.grant_id, removal_round=removal)


def checked_by_admin(here: Service, order: AdminAct, signature: str, named: str) -> Snapshot:
    """The finalized block at which an admin signed this order, which is for here, for now, and for what is named.

    Raises:
        BadInput, NotAllowed: it is not, or who signed is no admin at that block.
        Unreachable: the chain does not answer.
    """
    snapshot = _checked(here, order, signature, named)
    require_admin(here.rpc, here.policy, order.admin, snapshot)
    return snapshot


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
