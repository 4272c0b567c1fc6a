"""What only the chain can say of a release: its blocks, who held the tokens, contract wallets, facts, the admin."""

from collections.abc import Callable, Sequence
from functools import partial

from contracts_abi.admin import require_admin
from contracts_abi.asking import require_canonical
from contracts_abi.delegation import held_or_lent
from contracts_abi.facts import read_facts
from contracts_abi.model import Address, Snapshot
from contracts_abi.ownership.holding import Holding
from contracts_abi.ownership.question import Claim
from contracts_abi.rpc import Rpc
from contracts_abi.signatures import at_block
from protocol.errors import ContentMismatch, NotAllowed
from protocol.grant import require_signer
from protocol.manifest import Manifest, MergedContribution
from protocol.policy import judge
from protocol.verification.papers import Release, require_same_verdict
from protocol.verification.report import Check, NotChecked, checked


def check_chain(release: Release, rpc: Rpc) -> list[Check]:
    """Every check that asks ``rpc``, a node of the release's chain that still has the state of its snapshots."""
    questions: Sequence[tuple[str, Callable[[Release, Rpc], str]]] = (
        ("chain: blocks", _blocks),
        ("chain: ownership", _ownership),
        ("chain: contract wallets", _contract_wallets),
        ("chain: verdicts", _verdicts),
        ("chain: admin", _admin),
    )
    return [checked(name, partial(ask, release, rpc)) for name, ask in questions]


def _blocks(release: Release, rpc: Rpc) -> str:
    manifest = release.manifest
    meant, found = manifest.snapshot.chain_id, int(rpc.call("eth_chainId"), 16)
    if found != meant:
        raise NotChecked(f"{rpc.host} is a node of chain {found}; the release is about chain {meant}.")
    snapshots = _snapshots(manifest)
    for snapshot in snapshots:
        require_canonical(rpc, snapshot)
        block = rpc.call("eth_getBlockByNumber", hex(snapshot.number), False)
        if int(block["timestamp"], 16) != snapshot.timestamp:
            raise ContentMismatch(f"Block {snapshot.number} has another time than the manifest says.")
    numbers = ", ".join(str(one.number) for one in snapshots)
    return f"The manifest's blocks are in the chain, with these hashes and times: {numbers}."


def _ownership(release: Release, rpc: Rpc) -> str:
    asked = 0
    for snapshot, made in _by_snapshot(release.manifest):
        for claim, holding in _held(release, rpc, made, snapshot).items():
            asked += 1
            if not holding.holds:
                now = f"{holding.owner}'s" if holding.owner else "nobody's"
                raise NotAllowed(f"At block {snapshot.number} {claim.token} was {now}, not {claim.wallet}'s.")
            if holding.denied:
                raise NotAllowed(f"At block {snapshot.number} {claim.token}: {holding.denied}.")
    return f"All {asked} tokens were their members' at the block of the round in which they were trained on."


def _contract_wallets(release: Release, rpc: Rpc) -> str:
    asked = release.manifest.unproven
    for one in asked:
        one.check(lambda snapshot: at_block(rpc, snapshot))
    if not asked:
        return "No grant is by a contract wallet."
    return f"{len(asked)} contract wallets accepted their grants' signatures at the blocks where they were checked."


def _verdicts(release: Release, rpc: Rpc) -> str:
    policy, manifest, asked = release.policy, release.manifest, 0
    if policy is None:
        raise NotChecked("The release carries no policy.json to judge by.")
    for snapshot, made in _by_snapshot(manifest):
        owners = {claim: _owner(claim, one) for claim, one in _held(release, rpc, made, snapshot).items()}
        for one in (one for one in made if one.grant.policy_hash == manifest.policy_hash):
            for owner in sorted({owners[Claim(verdict.token, one.member)] for verdict in one.verdicts}):
                theirs = [v for v in one.verdicts if owners[Claim(v.token, one.member)] == owner]
                facts = read_facts(rpc, policy, [verdict.token for verdict in theirs], (owner,), snapshot)
                for verdict in theirs:
                    require_same_verdict(verdict, judge(policy, verdict.token, facts[verdict.token]))
                asked += len(theirs)
    if not asked:
        raise NotChecked("The manifest does not carry verdicts that this policy gave.")
    return f"The policy gives the same verdict on all {asked} tokens again, with what the chain says of them."


def _admin(release: Release, rpc: Rpc) -> str:
    signed, policy = release.manifest.order, release.policy
    if signed is None:
        raise NotChecked("The manifest carries no order whose signer could be asked about.")
    if policy is None:
        raise NotChecked("The release carries no policy.json that says who is an admin.")
    require_signer(signed.order, signed.signature, signed.order.admin, at_block(rpc, signed.signed_at))
    require_admin(rpc, policy, signed.order.admin, signed.signed_at)
    return f"{signed.order.admin} signed the order, and was an admin at block {signed.signed_at.number}."


def _held(release: Release, rpc: Rpc, made: Sequence[MergedContribution], snapshot: Snapshot) -> dict[Claim, Holding]:
    """What the chain says of every token that these were trained on, vaults included."""
    claims = [Claim(use.token, one.member) for one in made for use in one.tokens]
    return held_or_lent(rpc, claims, release.policy.ownership if release.policy else {}, snapshot)


def _owner(claim: Claim, holding: Holding) -> Address:
    """Whom the policy's rules about people are about: the member, or the vault that delegated to it."""
    in_vault = holding.through and holding.through[-1] == f"in the vault {holding.owner}"
    return holding.owner if in_vault and holding.owner else claim.wallet


def _snapshots(manifest: Manifest) -> list[Snapshot]:
    """Every block that the manifest stands on, each once, by number."""
    told = [manifest.snapshot, *(s for one in manifest.contributions for s in (one.snapshot, one.signed_at) if s)]
    if manifest.order:
        told.append(manifest.order.signed_at)
    return sorted(set(told), key=lambda one: (one.number, one.hash))


def _by_snapshot(manifest: Manifest) -> list[tuple[Snapshot, list[MergedContribution]]]:
    """The contributions by the block of the round that they were made in.

    A token may have been sold since, where its licence survives that: only that round's block counts.
    """
    found: dict[Snapshot, list[MergedContribution]] = {}
    for one in manifest.contributions:
        own = manifest.snapshot if one.header.round_id == manifest.round_id else None
        snapshot = one.snapshot or own
        if snapshot is None:
            raise NotChecked(f"The manifest does not say at which block {one.contribution_id} was made.")
        found.setdefault(snapshot, []).append(one)
    return sorted(found.items(), key=lambda pair: pair[0].number)
