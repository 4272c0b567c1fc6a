"""Releases on the Ethereum Attestation Service (EAS 1.x): one attestation a release, its parent's as refUID.

An attestation says that its attester published this CID. It is worth as much as the attester: ask who that is. Revoked
means that the attester does not stand behind the release any more; the release itself is unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode
from eth_abi.exceptions import DecodingError
from eth_abi.packed import encode_packed
from eth_utils.crypto import keccak
from pydantic import Field

from contracts_abi.asking import address_of, as_bytes, ask, calldata, decode
from contracts_abi.logs import event_topic, scan
from contracts_abi.model import Address, Snapshot
from contracts_abi.rpc import Rpc
from contracts_abi.transaction import Transaction
from protocol.canonical import Document

SCHEMA = "string cid,string dao,bytes32 policy,bool removal"
NOBODY = "0x" + 40 * "0"
NONE = bytes(32)
_TYPES = ("string", "string", "bytes32", "bool")
_ATTESTED = event_topic("Attested(address,address,bytes32,bytes32)")
_ATTESTATION = "(bytes32,bytes32,uint64,uint64,uint64,bytes32,address,address,bool,bytes)"
_ATTEST = "attest((bytes32,(address,uint64,bool,bytes32,bytes,uint256)))"
_REVOKE = "revoke((bytes32,(bytes32,uint256)))"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Announcement(Document):
    """What is attested of a release."""

    cid: str
    dao: str
    policy_hash: Digest
    removal: bool

    def data(self) -> bytes:
        """ABI-encoded in the order of ``SCHEMA``."""
        return encode(_TYPES, (self.cid, self.dao, bytes.fromhex(self.policy_hash), self.removal))


@dataclass(frozen=True)
class Attestation:
    """One as EAS has it."""

    uid: bytes
    parent: bytes
    """refUID: the attestation of the release before; 32 zero bytes for none."""
    attester: Address
    time: int
    revoked: bool
    announcement: Announcement


def schema_uid() -> bytes:
    """Of ``SCHEMA``, revocable and without a resolver: keccak of them packed, as SchemaRegistry names it."""
    return keccak(encode_packed(["string", "address", "bool"], [SCHEMA, NOBODY, True]))


def register_schema(rpc: Rpc, eas: Address, snapshot: Snapshot) -> Transaction | None:
    """What registers the schema; None where somebody has, for it is everybody's."""
    registry = address_of(ask(rpc, [(eas, "getSchemaRegistry()", [])], snapshot)[0]) or NOBODY
    [record] = ask(rpc, [(registry, "getSchema(bytes32)", [schema_uid()])], snapshot)
    known = decode("(bytes32,address,bool,string)", record)
    if known and known[0] == schema_uid():
        return None
    data = calldata("register(string,address,bool)", [SCHEMA, NOBODY, True])
    return Transaction(to=registry, data=data, what="register the schema of releases with EAS")


def attest(eas: Address, announcement: Announcement, parent: bytes = NONE) -> Transaction:
    """What attests a release; ``parent`` is the attestation of the one before."""
    request = (schema_uid(), (NOBODY, 0, True, parent, announcement.data(), 0))
    data = _nested(_ATTEST, "(bytes32,(address,uint64,bool,bytes32,bytes,uint256))", request)
    return Transaction(to=eas, data=data, what=f"attest release {announcement.cid}")


def revoke(eas: Address, attestation: Attestation) -> Transaction:
    """What revokes an attestation; only its attester can."""
    data = _nested(_REVOKE, "(bytes32,(bytes32,uint256))", (schema_uid(), (attestation.uid, 0)))
    return Transaction(to=eas, data=data, what=f"revoke the attestation of {attestation.announcement.cid}")


def attestations_of(rpc: Rpc, eas: Address, cid: str, since: int, snapshot: Snapshot) -> list[Attestation]:
    """Everybody's attestations of ``cid`` from block ``since`` up to the snapshot, oldest first."""
    topics = (_ATTESTED, None, None, "0x" + schema_uid().hex())
    logs = [log for stretch in scan(rpc, eas, [topics], since, snapshot.number) for log in stretch.logs]
    asked = [(eas, "getAttestation(bytes32)", [log.data[:32]]) for log in logs]
    read = (_attestation(answer) for answer in ask(rpc, asked, snapshot))
    return [one for one in read if one is not None and one.announcement.cid == cid]


def _attestation(answer: object) -> Attestation | None:
    data = as_bytes(answer)
    if data is None:
        return None
    try:
        [(uid, schema, time, _, revoked, parent, _, attester, _, said)] = abi_decode([_ATTESTATION], data)
        cid, dao, policy, removal = abi_decode(_TYPES, said)
        announcement = Announcement(cid=cid, dao=dao, policy_hash=policy.hex(), removal=removal)
    except (DecodingError, OverflowError, ValueError):
        return None
    if schema != schema_uid():
        return None
    return Attestation(
        uid,
        parent,
        address_of("0x" + encode(["address"], [attester]).hex()) or NOBODY,
        time,
        revoked != 0,
        announcement,
    )


def _nested(signature: str, kind: str, value: object) -> str:
    """Calldata of a function that takes one tuple."""
    return "0x" + (keccak(text=signature)[:4] + encode([kind], [value])).hex()
