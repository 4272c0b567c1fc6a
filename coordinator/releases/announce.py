"""What it takes to announce a release on chain: transactions, in order, of which those that are done are left out.

Nothing here signs or sends. Whether something is done is asked of the chain, so that announcing again goes on where it
ended, whoever did the rest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts_abi.attestations import (
    NONE,
    Announcement,
    Attestation,
    attest,
    attestations_of,
    register_schema,
    revoke,
)
from contracts_abi.model import Address, Snapshot
from contracts_abi.names import point
from contracts_abi.rpc import Rpc
from contracts_abi.transaction import Transaction
from protocol.errors import BadInput
from protocol.manifest import Manifest
from protocol.unixfs import Cid


@dataclass(frozen=True)
class Places:
    """Where releases are announced; an empty one is left out."""

    eas: Address = ""
    ens_name: str = ""
    ens_registry: Address = ""


def announcement_of(cid: str, manifest: Manifest) -> Announcement:
    """What is attested of a release."""
    return Announcement(
        cid=cid,
        dao=manifest.dao,
        policy_hash=manifest.policy_hash,
        removal=manifest.kind == "removal",
    )


def steps(
    rpc: Rpc, places: Places, sender: Address, cid: str, manifests: Mapping[str, Manifest], snapshot: Snapshot
) -> list[Transaction]:
    """What ``sender`` has still to do so that ``cid`` is announced, and what it removes from is revoked.

    Args:
        manifests: by CID, of the release and of the ones before it, as far as they are known.

    Raises:
        BadInput: nowhere is set to announce to.
        NotFound: the ENS name has no resolver.
        Unreachable, Conflict: the chain does not answer, or forked.
    """
    if not places.eas and not places.ens_name:
        raise BadInput("Nowhere is set to announce a release.", "Set eas or ens_name in the coordinator's settings.")
    todo: list[Transaction | None] = []
    if places.eas:
        todo += _attestations(rpc, places.eas, sender, cid, manifests, snapshot)
    if places.ens_name:
        todo.append(point(rpc, places.ens_name, Cid.parse(cid), snapshot, places.ens_registry))
    return [one for one in todo if one]


def _attestations(
    rpc: Rpc, eas: Address, sender: Address, cid: str, manifests: Mapping[str, Manifest], snapshot: Snapshot
) -> Iterable[Transaction | None]:
    manifest = manifests[cid]
    before = _own(rpc, eas, sender, manifest.parent, manifests, snapshot) if manifest.parent else None
    if not _own(rpc, eas, sender, cid, manifests, snapshot):
        yield register_schema(rpc, eas, snapshot)
        yield attest(eas, announcement_of(cid, manifest), before.uid if before else NONE)
    if before and not before.revoked and manifest.kind == "removal":
        yield revoke(eas, before)


def _own(
    rpc: Rpc, eas: Address, sender: Address, cid: str, manifests: Mapping[str, Manifest], snapshot: Snapshot
) -> Attestation | None:
    """The sender's newest attestation of a release: none lies before the block that its manifest stands on."""
    if cid not in manifests:
        return None
    since = min(manifests[cid].snapshot.number, snapshot.number)
    found = [one for one in attestations_of(rpc, eas, cid, since, snapshot) if one.attester == sender]
    return found[-1] if found else None
