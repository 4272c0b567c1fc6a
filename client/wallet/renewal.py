"""A grant that its member renewed in a browser: found at the coordinator, checked as one that a device login brings."""

import time

from client.config import MemberSettings
from client.coordinator_api import CoordinatorApi
from client.wallet.device import OwnChain, require_granted_here
from client.wallet.grant import StoredGrant, require_policy, stored_grants
from contracts_abi.rpc import Rpc
from protocol.errors import NotFound


def renewed(api: CoordinatorApi, settings: MemberSettings, public: str) -> StoredGrant | None:
    """The newer grant to this node key, of the wallet whose grant is kept here; it is kept from now on.

    None where there is none, or it is for other rules or another base than the member's machine has agreed to.

    Raises:
        NotAllowed: what the coordinator gave is not what the wallet signed, or not for here.
        Unreachable: the coordinator or the member's own chain node does not answer.
    """
    kept = (one for one in stored_grants(settings.home) if (one.grant.node_key, one.coordinator) == (public, api.url))
    before = next(kept, None)
    newer = _newer(api, before.grant.grant_id) if before else None
    if before is None or newer is None:
        return None
    dao, signed = api.dao(), api.signed_grant(newer)
    require_policy(dao)
    agreed = (before.grant.member, before.grant.policy_hash, before.grant.base_hash)
    if (signed.grant.member, dao.policy_hash, dao.base.hash) != agreed:
        return None
    chain = OwnChain.asked(Rpc(settings.rpc_url), dao.policy, signed.grant)
    require_granted_here(dao, signed.grant, signed.signature, public, chain, int(time.time()))
    stored = before.model_copy(update={"grant": signed.grant, "signature": signed.signature})
    stored.save(settings.home)
    return stored


def _newer(api: CoordinatorApi, grant_id: str) -> str | None:
    try:
        return api.newer_grant(grant_id)
    except NotFound:
        return None
