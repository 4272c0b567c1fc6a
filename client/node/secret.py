"""A member's part in a secret sum: what it checks before it trains, and what of its state is written down when.

``client.node.masking`` is the protocol itself, pure. Here its state lies in a file of the round's folder that only its
owner reads, and always before the answer that follows from it leaves: a member that was killed says the same again.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from client.node import masking
from client.node.masking import Member, Step
from client.node.tasks import Body
from contracts_abi.ownership.holding import Holding
from contracts_abi.ownership.question import Claim
from contracts_abi.signatures import AskWallet
from protocol.contribution import TrainTask
from protocol.errors import BadInput, NotAllowed
from protocol.fixed_factors import FixedFactors
from protocol.grant import Grant, require_signer
from protocol.masking import (
    Deliveries,
    KeyAdvert,
    MaskTask,
    Roster,
    SecretRound,
    Signed,
    Survivors,
    UnmaskRequest,
    weights_of,
)
from protocol.modes import FloatArray
from protocol.policy import Policy
from protocol.private_file import write_private

_STATE, _SEED = "masking.json", "seed"
_LEAVE = "Leave this round and tell the DAO."
Told = TypeVar("Told", Roster, Deliveries, Survivors, UnmaskRequest, SecretRound)


@dataclass(frozen=True)
class OwnChain:
    """What the member's own chain node says at the round's snapshot."""

    holdings: Callable[[Sequence[Claim]], Mapping[Claim, Holding]]
    ask_wallet: AskWallet
    """For members whose wallet is a contract."""


def own_seed(folder: Path) -> int:
    """The seed of this round's training: random, kept, and nobody else's.

    Were it the plan's, the same tokens would give the same update in the next round, and the difference of two sums
    would be what one member less changes.
    """
    path = folder / _SEED
    if not path.exists():
        write_private(path, os.urandom(6).hex().encode())
    return int(path.read_text(), 16)


def require_terms(secret: SecretRound, task: TrainTask, factors: FixedFactors) -> None:
    """The sum is of this round and plan, over numbers that mean what this machine means by them.

    Raises:
        NotAllowed: it is not.
    """
    terms, plan = secret.terms, task.plan
    said = (terms.round_id, terms.plan_hash, terms.factors_hash, terms.size, terms.grid)
    if said != (task.round_id, plan.digest(), factors.digest(), factors.size, plan.grid):
        raise NotAllowed("The terms of the secret sum are not those of the round's plan and base.", _LEAVE)


def require_members(secret: SecretRound, task: TrainTask, own: Grant, policy: Policy, chain: OwnChain) -> None:
    """Behind every node key stands a grant that a wallet signed, over tokens that it owned at the snapshot.

    A coordinator that makes up members reads the sum of the others; so each one has to cost it a wallet with a token.

    Raises:
        NotAllowed: with the first thing that is not so.
    """
    by_key = {signed.grant.node_key: signed for signed in secret.others}
    if len(by_key) != len(secret.others) or set(by_key) != set(secret.terms.weights):
        raise NotAllowed("The round does not show one grant for each node key of its secret sum.", _LEAVE)
    if len({signed.grant.member for signed in secret.others}) != len(secret.others):
        raise NotAllowed("One wallet stands behind two node keys of the secret sum.", _LEAVE)
    counts = {}
    for node_key, signed in by_key.items():
        _require_grant(signed.grant, own)
        require_signer(signed.grant, signed.signature, signed.grant.member, chain.ask_wallet)
        tokens = task.tokens.get(signed.grant.grant_id, ())
        if not tokens or not set(tokens) <= set(signed.grant.tokens):
            raise NotAllowed(f"{signed.grant.member} takes part with tokens that it did not grant.", _LEAVE)
        counts[node_key] = len(tokens)
    if secret.terms.weights != weights_of(policy, counts):
        raise NotAllowed("The weights of the secret sum are not those that the policy gives.", _LEAVE)
    _require_owned(secret, task, chain)


def advertise(folder: Path, secret: SecretRound, node_key: str, sign: masking.Sign) -> Body:
    """Make this round's keys, or say those that were made again."""
    kept = _member(folder)
    if kept is not None and kept.terms == secret.terms:
        advert = kept.advert()
        return {"said": Signed[KeyAdvert](document=advert, signature=sign(advert.canonical())).canonical()}
    step = masking.advertise(secret.terms, node_key, sign)
    return _keep(folder, step)


def exchange(folder: Path, task: MaskTask, body: Body, update: Callable[[], FloatArray], sign: masking.Sign) -> Body:
    """One exchange after the keys. ``update`` reads what was trained, (size,).

    Raises:
        NotAllowed: the coordinator asks for what would give this member's update away.
        BadInput: this node has no part in the sum, or the task cannot be read.
    """
    member = _member(folder)
    if member is None or member.terms.round_id != task.round_id:
        raise BadInput("This node has made no keys for the round's secret sum.", "It is asked again in the next round.")
    match task.exchange:
        case "shares":
            return _keep(folder, masking.share(member, _told(Roster, body, "told"), sign))
        case "input":
            covered = masking.mask(member, _told(Deliveries, body, "own"), update(), sign)
            return _keep(folder, covered) | {"adapter": covered.words}
        case "confirmation":
            return _keep(folder, masking.confirm(member, _told(Survivors, body, "told"), sign))
        case "answer":
            return _keep(folder, masking.unmask(member, _told(UnmaskRequest, body, "told"), sign))


def opening(body: Body) -> SecretRound:
    """What the round tells before training. Raises BadInput."""
    return _told(SecretRound, body, "secret")


def _require_grant(grant: Grant, own: Grant) -> None:
    for what, said, meant in (
        ("DAO", grant.dao, own.dao),
        ("chain", grant.chain_id, own.chain_id),
        ("policy", grant.policy_hash, own.policy_hash),
        ("base", grant.base_hash, own.base_hash),
    ):
        if said != meant:
            raise NotAllowed(f"{grant.member} takes part in the secret sum with a grant for another {what}.", _LEAVE)


def _require_owned(secret: SecretRound, task: TrainTask, chain: OwnChain) -> None:
    claims = [Claim(token, s.grant.member) for s in secret.others for token in task.tokens[s.grant.grant_id]]
    single = [claim.token for claim in claims if claim.token.standard != "erc1155"]
    if len(set(single)) != len(single):
        raise NotAllowed("Two members of the secret sum take part with the same token.", _LEAVE)
    found = chain.holdings(claims)
    for claim in claims:
        if not found[claim].holds:
            raise NotAllowed(
                f"{claim.wallet}, who takes part in the secret sum with {claim.token}, does not own it.", _LEAVE
            )


def _keep(folder: Path, step: Step) -> Body:  # type: ignore[type-arg]
    """The state first, then the answer."""
    write_private(folder / _STATE, step.member.canonical())
    return {"said": step.answer.canonical()}


def _member(folder: Path) -> Member | None:
    path = folder / _STATE
    return Member.model_validate_json(path.read_bytes()) if path.exists() else None


def _told(model: type[Told], body: Body, name: str) -> Told:
    data = body.get(name)
    if not isinstance(data, bytes):
        raise BadInput(f"The task carries no {name}.")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise BadInput("What is shown of the secret sum cannot be read.", "Versions may differ.") from error
