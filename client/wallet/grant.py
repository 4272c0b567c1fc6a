"""The grant: what is checked before it is signed, how it is built, and how it is kept for the node."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from client.coordinator_api import Dao
from contracts_abi.delegation import held_or_lent
from contracts_abi.model import Snapshot, Token
from contracts_abi.ownership.question import Claim
from contracts_abi.rpc import Rpc
from protocol.canonical import Document
from protocol.errors import BadInput, NotAllowed
from protocol.grant import WARRANT, Grant
from protocol.policy import Facts, Policy, Verdict, judge, within_cap

LIFETIME_SECONDS = 180 * 24 * 3600
FOLDER = "grants"


class StoredGrant(Document):
    """``grants/<id>.json``: the grant, and under what it was given. The node needs nothing else to know its limits."""

    grant: Grant
    signature: str
    policy: Policy
    coordinator: str
    gateways: tuple[str, ...]

    def save(self, home: Path) -> None:
        """Keep it for the node; readable by the owner only, for it lists what they own."""
        path = home / FOLDER / f"{self.grant.grant_id}.json"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(self.canonical())


def stored_grants(home: Path) -> list[StoredGrant]:
    """All of this member's grants, the one that ends last first.

    Raises:
        BadInput: a file there is no grant.
    """
    grants = []
    for path in (home / FOLDER).glob("*.json"):
        try:
            grants.append(StoredGrant.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise BadInput(f"{path} is no grant.", "Remove the file and join again.") from error
    return sorted(grants, key=lambda stored: stored.grant.expires, reverse=True)


def standing_grant(stored: Iterable[StoredGrant], dao: Dao, public: str, now: int) -> Grant | None:
    """The first of the stored grants that is in force at this DAO, for this node key, under its policy and base."""
    terms = (dao.name, dao.chain_id, dao.policy_hash, dao.base.hash, public)
    for one in stored:
        grant = one.grant
        said = (grant.dao, grant.chain_id, grant.policy_hash, grant.base_hash, grant.node_key)
        if said == terms and grant.expires > now:
            return grant
    return None


def require_policy(dao: Dao) -> None:
    """The policy document is the one that its hash names, and is about this DAO and chain.

    Raises:
        NotAllowed: it is not; nothing may be signed.
    """
    if dao.policy.digest() != dao.policy_hash:
        raise NotAllowed(
            "The policy document does not have the hash that the coordinator shows, so nothing was signed.",
            "Tell the DAO; its coordinator is broken or dishonest.",
        )
    if (dao.policy.dao, dao.policy.chain_id) != (dao.name, dao.chain_id):
        raise NotAllowed(
            f"The policy is that of {dao.policy.dao} on chain {dao.policy.chain_id}, so nothing was signed.",
            "Use the address that the DAO itself publishes.",
        )


def unusable(rpc: Rpc, policy: Policy, wallet: str, tokens: Iterable[Token], snapshot: Snapshot) -> frozenset[Token]:
    """What ``wallet`` does not hold as the policy wants it held, by the member's own chain node."""
    found = held_or_lent(rpc, (Claim(token, wallet) for token in tokens), policy.ownership, snapshot)
    return frozenset(claim.token for claim, one in found.items() if one.denied or not one.holds)


def require_own_judgement(
    policy: Policy,
    verdicts: Sequence[Verdict],
    facts: Mapping[Token, Facts] | None,
    lost: Collection[Token] = (),
) -> None:
    """Judge every token again, by ``facts`` read from the member's own chain node.

    Without them only those are judged whose verdict needs none.

    Tokens in ``lost`` are rightly denied, whatever their licence.

    Raises:
        NotAllowed: the coordinator's verdict is not what its policy says.
    """
    tokens = [
        verdict.token
        for verdict in verdicts
        if (facts is not None or (verdict.rule in ("token", "collection") and not policy.asks_of_members))
        and (verdict.allow or verdict.token not in lost)
    ]
    said = {verdict.token: verdict for verdict in verdicts}
    for own in within_cap(policy, [judge(policy, token, (facts or {}).get(token)) for token in tokens]):
        verdict = said[own.token]
        if _decided(own) != _decided(verdict):
            raise NotAllowed(
                f"The coordinator {_word(verdict)} {verdict.token}, but by its policy it is {_word(own)}: {own.reason}",
                "Nothing was signed. Tell the DAO; its coordinator is broken or dishonest.",
            )


def build_grant(dao: Dao, member: str, verdicts: Sequence[Verdict], node_key: str, now: int) -> Grant:
    """The grant over every admitted token, for half a year from ``now`` (Unix seconds).

    Raises:
        NotAllowed: too few tokens are admitted.
    """
    admitted = [verdict for verdict in verdicts if verdict.allow]
    if len(admitted) < dao.policy.minimum_tokens:
        raise NotAllowed(
            f"{len(admitted)} of this wallet's tokens are admitted; the DAO asks for {dao.policy.minimum_tokens}.",
            "The table says why the others are not.",
        )
    return Grant(
        dao=dao.name,
        chain_id=dao.chain_id,
        member=member,
        purpose=dao.policy.purpose,
        tokens=tuple(sorted(verdict.token for verdict in admitted)),
        warrant=WARRANT if any(verdict.warrant for verdict in admitted) else "",
        node_key=node_key,
        policy_hash=dao.policy_hash,
        base_hash=dao.base.hash,
        expires=now + LIFETIME_SECONDS,
    )


def _decided(verdict: Verdict) -> tuple[object, ...]:
    """All of a verdict that something follows from."""
    return verdict.allow, verdict.licence, verdict.warrant, verdict.duties, verdict.on_transfer


def _word(verdict: Verdict) -> str:
    return "allowed" if verdict.allow else "denied"
