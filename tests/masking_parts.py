"""A secure aggregation from end to end in one process: real node keys, real messages, members that drop out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.node import masking as member_side
from client.node.masking import Member
from coordinator.aggregation.secure import Answers, Confirmations, Inputs, Keys, Shares
from protocol.masking import MaskingTerms
from protocol.modes import FloatArray, Grid, IntArray

NEVER = 5
"""The stage at which a member that stays would drop out: keys, shares, input, confirmation, answer come before."""
GRID = Grid(clip=1.0, bits=20)
HASH = "0" * 64


@dataclass(frozen=True)
class Node:
    """A node key in memory."""

    key: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> str:
        form = serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        return self.key.public_key().public_bytes(*form).hex()

    def sign(self, message: bytes) -> str:
        return self.key.sign(message, ec.ECDSA(hashes.SHA384())).hex()


@lru_cache(maxsize=256)
def node(number: int) -> Node:
    return Node(ec.generate_private_key(ec.SECP384R1()))


def nodes(count: int) -> dict[str, Node]:
    return {one.public: one for one in map(node, range(count))}


def terms_for(
    weights: Mapping[str, int], size: int = 6, grid: Grid = GRID, neighbours: int | None = None
) -> MaskingTerms:
    """``neighbours`` may be fewer here than any member would accept, so that small rounds have a graph at all."""
    terms = MaskingTerms(round_id="r1", plan_hash=HASH, factors_hash=HASH, weights=dict(weights), size=size, grid=grid)
    return terms if neighbours is None else terms.model_copy(update={"neighbours": neighbours})


@dataclass(frozen=True)
class Play:
    """Everything that happened until a stage."""

    nodes: Mapping[str, Node]
    members: Mapping[str, Member]
    stage: Keys | Shares | Inputs | Confirmations | Answers
    words: Mapping[str, bytes]

    def total(self) -> IntArray:
        assert isinstance(self.stage, Answers)
        return self.stage.total((name, self.words[name]) for name in self.stage.inputs.taken)


def play(
    terms: MaskingTerms,
    updates: Mapping[str, FloatArray],
    dropouts: Mapping[str, int] | None = None,
    until: int = NEVER,
    false_seed: str = "",
) -> Play:
    """Play a round; ``dropouts`` says at which stage (0 to 4) a member is silent for good, ``until`` which comes next.

    ``false_seed`` names a member that shares another seed than its own.

    Raises:
        Conflict, NotAllowed: whatever ends the round.
    """
    everyone = {name: one for name, one in nodes(len(updates)).items() if name in terms.weights}
    members: dict[str, Member] = {}
    words: dict[str, bytes] = {}

    def there(stage: int) -> list[str]:
        return [name for name in everyone if (dropouts or {}).get(name, NEVER) > stage]

    keys = Keys(terms)
    for name in there(0):
        step = member_side.advertise(terms, name, everyone[name].sign)
        members[name], keys = step.member, keys.take(step.answer)
    if until == 0:
        return Play(everyone, members, keys, words)
    shares = keys.close()
    if until == 1:
        return Play(everyone, members, shares, words)
    for name in there(1):
        if name == false_seed:
            lying = members[name].model_copy(update={"seed": "ab" * 16})
            false = member_side._sealed(lying, shares.roster, os.urandom)
            members[name] = members[name].model_copy(update={"shares": false})
        shared = member_side.share(members[name], shares.roster, everyone[name].sign)
        members[name], shares = shared.member, shares.take(shared.answer)
    inputs = shares.close()
    if until == 2:
        return Play(everyone, members, inputs, words)
    for name in there(2):
        covered = member_side.mask(members[name], inputs.deliveries(name), updates[name], everyone[name].sign)
        members[name], words[name] = covered.member, covered.words
        inputs = inputs.take(covered.answer, covered.words)
    confirmations = inputs.close()
    if until == 3:
        return Play(everyone, members, confirmations, words)
    for name in there(3):
        confirmed = member_side.confirm(members[name], confirmations.survivors, everyone[name].sign)
        members[name], confirmations = confirmed.member, confirmations.take(confirmed.answer)
    answers = confirmations.close()
    if until == 4:
        return Play(everyone, members, answers, words)
    for name in there(4):
        answers = answers.take(member_side.unmask(members[name], answers.request, everyone[name].sign).answer)
    return Play(everyone, members, answers, words)


def plain_sum(terms: MaskingTerms, updates: Mapping[str, FloatArray], among: list[str]) -> IntArray:
    """What the sum must be: Σ w x over these members, in the open."""
    parts = [terms.weights[name] * terms.grid.whole(updates[name]) for name in among]
    return np.sum(parts, axis=0, dtype=np.int64)
