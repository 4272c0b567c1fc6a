"""Secure aggregation: what passes between members and coordinator, and the arithmetic that both do.

Additive masking after Bonawitz et al. (CCS 2017), among neighbours only once there are many members (SecAgg+, Bell et
al., CCS 2020). Five exchanges, each a signed document:

    KeyAdvert     two X25519 keys for this round, and the hash of a seed       → Roster, all of them
    SealedShares  Shamir shares of the seed and of the mask key, one a holder  → Deliveries, those sealed to a member
    MaskedInput   w · update + self mask ± one mask a neighbour, mod 2^k       → Survivors, whose arrived
    Confirmation  the node's signature over that one set of survivors          → UnmaskRequest, all of them
    UnmaskAnswer  of a survivor the share of its seed, of another that of its key

The coordinator can then take off every mask of the sum and of nothing else. Members check what they are sent: a key
that its node did not sign, a set that is too small, a graph that a survivor could be cut out of, a second set.

Flower's SecAgg+ (``flwr.common.secure_aggregation``) is the same construction for an honest coordinator: there, keys
are not signed, the coordinator draws the graph and the threshold, nobody confirms the survivors, and in 1.41 a mask is
NumPy's Mersenne Twister from a seed folded to 32 bits (``pseudo_rand_gen``), few enough to try them all. Here the keys
are signed by node keys, the graph is drawn from the roster's hash, a quorum confirms the survivors (the consistency
check of Bonawitz et al., against a coordinator that does not keep to the protocol), and masks are ChaCha20. Shamir's
sharing is PyCryptodome's, as there.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from pydantic import Field

from protocol.canonical import Document
from protocol.contribution import Signature
from protocol.errors import BadInput, ContributionRefused, NotAllowed
from protocol.grant import Hash, SignedGrant
from protocol.modes import FloatArray, Grid, IntArray
from protocol.node_key import verify
from protocol.policy import Policy

NodeKey = Annotated[str, Field(pattern=r"^0[23][0-9a-f]{96}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""A point of a polynomial over GF(2^128), hex."""
Words = NDArray[np.unsignedinteger]

LEAST_MEMBERS = 3
"""Of a sum of two, each knows the other's part."""
LEAST_NEIGHBOURS = 64
"""Of 1,000 members a fifth of whom collude, fewer than one round in 2^45 has a member whom its neighbours give away."""
SECRET_BYTES = 16
"""What is shared: the self mask's seed, and the secret that the private mask key is derived from. X25519 offers no
more than 128 bits either, and this is what Shamir's sharing over GF(2^128) takes in one piece."""
NONCE_BYTES = 12


class MaskingTerms(Document):
    """What a ``secagg`` round fixes before anyone makes a key."""

    round_id: str
    plan_hash: Hash
    factors_hash: Hash
    """Of the round's ``FixedFactors``: what the numbers of an update are."""
    weights: Annotated[dict[NodeKey, Annotated[int, Field(ge=1)]], Field(min_length=1)]
    """The node keys that may take part, and what each one's update is multiplied by: public, by grant and policy."""
    size: Annotated[int, Field(ge=1)]
    """How many numbers an update has."""
    grid: Grid
    neighbours: Annotated[int, Field(ge=LEAST_NEIGHBOURS)] = 100
    """With how many others a member masks; with all of them where there are no more."""

    @property
    def modulus_bits(self) -> int:
        """32 or 64: the narrowest in which the sum over all weights cannot wrap."""
        largest = sum(self.weights.values()) * self.grid.radius
        for bits in (32, 64):
            if largest < 1 << (bits - 1):
                return bits
        raise BadInput(
            "The weights are too large for an exact sum in 64 bits.", "Use smaller weights or a coarser grid."
        )

    def holders(self, members: int) -> int:
        """How many hold shares of a member's secrets, itself included, where so many made keys."""
        return min(members, 2 * math.ceil(self.neighbours / 2) + 1)

    @property
    def word(self) -> np.dtype[np.unsignedinteger]:
        """The unsigned number that wraps at the modulus, little-endian as it travels."""
        return np.dtype(f"<u{self.modulus_bits // 8}")


def weights_of(policy: Policy, tokens: Mapping[str, int]) -> dict[str, int]:
    """The public weight of every node key, by its number of admitted tokens when the round opens."""
    nodes = sorted(tokens)
    return dict(zip(nodes, policy.shares_capped([policy.weight_of(tokens[node]) for node in nodes]), strict=True))


class SecretRound(Document):
    """What a member of a ``secagg`` round is told before it trains."""

    terms: MaskingTerms
    others: tuple[SignedGrant, ...]
    """The grant behind every node key of the terms, so that nobody adds up with members who were made up."""


class MaskTask(Document):
    """One exchange after the keys; what it is about travels beside it."""

    round_id: str
    exchange: Literal["shares", "input", "confirmation", "answer"]
    base_hash: Hash


class KeyAdvert(Document):
    """A member's keys for this round alone."""

    kind: Literal["masking/keys"] = "masking/keys"
    terms_hash: Hash
    node_key: NodeKey
    mask_key: Key
    """X25519: with a neighbour's, their common mask. Its private half is shared, for the case of a dropout."""
    seal_key: Key
    """X25519: with a holder's, what shares are sealed under. Its private half is never shared."""
    seed_sha256: Hash
    """Of the self mask's seed, so that wrong shares of it are noticed."""


class SealedShare(Document):
    """What one holder gets: both shares, sealed to it, and their hashes, so that it must answer with these."""

    sealed: Annotated[str, Field(pattern=r"^[0-9a-f]{120}$")]
    seed_share_sha256: Hash
    key_share_sha256: Hash


class SealedShares(Document):
    """A member's shares for every holder, itself among them."""

    kind: Literal["masking/shares"] = "masking/shares"
    roster_hash: Hash
    node_key: NodeKey
    shares: dict[NodeKey, SealedShare]


class MaskedInput(Document):
    """Names a masked update by its hash; the words travel beside it."""

    kind: Literal["masking/input"] = "masking/input"
    roster_hash: Hash
    node_key: NodeKey
    words_sha256: Hash


class Confirmation(Document):
    """The node has been shown these survivors, and will answer for no others."""

    kind: Literal["masking/confirmation"] = "masking/confirmation"
    node_key: NodeKey
    survivors_hash: Hash


class UnmaskAnswer(Document):
    """The shares that a holder gives out: of a survivor its seed's, of one that dropped out its mask key's."""

    kind: Literal["masking/answer"] = "masking/answer"
    node_key: NodeKey
    survivors_hash: Hash
    seeds: dict[NodeKey, Share]
    keys: dict[NodeKey, Share]


Said = TypeVar("Said", KeyAdvert, SealedShares, MaskedInput, Confirmation, UnmaskAnswer)


class Signed(Document, Generic[Said]):
    """A document and its node's signature. Each kind names itself, so that none passes for another."""

    document: Said
    signature: Signature

    def check_integrity(self) -> None:
        """Raises ContributionRefused when the signature is not the named node key's."""
        verify(self.document.node_key, self.document.canonical(), self.signature)


class Roster(Document):
    """All keys of a round, as the coordinator shows them to everyone; the graph is drawn from its hash."""

    terms: MaskingTerms
    adverts: tuple[Signed[KeyAdvert], ...]
    """Sorted by node key."""
    threshold: int
    """t: how many holders open a secret."""
    quorum: int
    """How many members must confirm the survivors, and be among them."""

    @cached_property
    def keys(self) -> Mapping[str, KeyAdvert]:
        return {signed.document.node_key: signed.document for signed in self.adverts}

    @cached_property
    def hash(self) -> str:
        """Binds all that follows; so no two rosters have a mask in common."""
        return self.digest()

    @cached_property
    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """With whom each member masks: a Harary graph on a ring in random order, or everyone."""
        ring = sorted(self.keys, key=lambda node: hashlib.sha256(f"{self.hash}:{node}".encode()).digest())
        count = len(ring)
        if self.terms.holders(count) == count:
            return {node: tuple(sorted(set(ring) - {node})) for node in ring}
        reach = self.terms.holders(count) // 2
        near = [step for step in range(-reach, reach + 1) if step]
        return {node: tuple(sorted({ring[(i + s) % count] for s in near} - {node})) for i, node in enumerate(ring)}

    def holders(self, node: str) -> tuple[str, ...]:
        """Who holds shares of a member's secrets, in the order of the shares: its neighbours and itself."""
        return tuple(sorted((*self.neighbours[node], node)))

    def check(self) -> None:
        """Every key is signed by a node of the round, and no bound is below what protects a member.

        Raises:
            NotAllowed: a key, the graph, the threshold or the quorum is not to be trusted.
        """
        names = [signed.document.node_key for signed in self.adverts]
        if names != sorted(set(names)) or not set(names) <= set(self.terms.weights):
            raise NotAllowed("The roster names a node twice, or one that is not of this round.", _REPORT)
        if len(names) < LEAST_MEMBERS:
            raise NotAllowed(f"{len(names)} members are too few for a secret sum: it takes {LEAST_MEMBERS}.", _WAIT)
        for signed in self.adverts:
            self._check_advert(signed)
        self._check_bounds()

    def _check_advert(self, signed: Signed[KeyAdvert]) -> None:
        node = signed.document.node_key
        try:
            signed.check_integrity()
        except ContributionRefused as problem:
            raise NotAllowed(f"The keys shown for node {node[:14]}… are not those it signed.", _REPORT) from problem
        if signed.document.terms_hash != self.terms.digest():
            raise NotAllowed(f"Node {node[:14]}… made its keys for other terms.", _REPORT)

    def _check_bounds(self) -> None:
        count = len(self.adverts)
        holders = self.terms.holders(count)
        if not holders // 2 < self.threshold <= holders:
            raise NotAllowed(f"A threshold of {self.threshold} of {holders} holders is no majority.", _REPORT)
        if not count // 2 < self.quorum <= count:
            raise NotAllowed(f"A quorum of {self.quorum} of {count} members is no majority.", _REPORT)


class Deliveries(Document):
    """What the coordinator hands to one member: who is still there, and what was sealed to this one."""

    roster_hash: Hash
    present: tuple[NodeKey, ...]
    """Whose shares arrived, sorted: masks are made with these only."""
    sealed: dict[NodeKey, str]
    """Sender → what it sealed to this member."""


class Survivors(Document):
    """Whose masked updates are in the sum. What members confirm, once."""

    roster_hash: Hash
    present: tuple[NodeKey, ...]
    survivors: tuple[NodeKey, ...]
    """Sorted."""


class UnmaskRequest(Document):
    survivors: Survivors
    confirmations: tuple[Signed[Confirmation], ...]


_REPORT = "Leave this round and tell the DAO."
_WAIT = "Wait until more members join, or take part in another mode."


def two_thirds(count: int) -> int:
    """The usual threshold and quorum: more than two thirds, less one where that would be everybody; a majority."""
    return max(count // 2 + 1, min(count - 1, 2 * count // 3 + 1))


def check_survivors(roster: Roster, shown: Survivors) -> None:
    """The survivors are enough, and masks hold them together: no part of their sum can be told from the rest.

    Raises:
        NotAllowed: too few, others than took part, or a graph that falls apart.
    """
    survivors = set(shown.survivors)
    named_once = list(shown.survivors) == sorted(survivors) and list(shown.present) == sorted(set(shown.present))
    if shown.roster_hash != roster.hash or not named_once or not survivors <= set(shown.present) <= set(roster.keys):
        raise NotAllowed("The survivors are not members of this round.", _REPORT)
    needed = max(LEAST_MEMBERS, roster.quorum)
    if len(survivors) < needed:
        raise NotAllowed(f"A sum over {len(survivors)} members is too small: it takes {needed}.", _WAIT)
    if reached(roster.neighbours, shown.survivors) != survivors:
        raise NotAllowed("The survivors fall into groups whose sums could be told apart.", _WAIT)


def check_confirmations(roster: Roster, request: UnmaskRequest) -> None:
    """A quorum has signed this one set of survivors.

    Raises:
        NotAllowed: fewer have, or a signature is not its node's.
    """
    confirmed = set()
    for signed in request.confirmations:
        node = signed.document.node_key
        try:
            signed.check_integrity()
        except ContributionRefused as problem:
            raise NotAllowed(
                f"The confirmation shown for node {node[:14]}… is not one it signed.", _REPORT
            ) from problem
        if signed.document.survivors_hash == request.survivors.digest() and node in request.survivors.survivors:
            confirmed.add(node)
    if len(confirmed) < roster.quorum:
        raise NotAllowed(
            f"Only {len(confirmed)} of the {roster.quorum} members that it takes confirmed these survivors.", _REPORT
        )


def reached(neighbours: Mapping[str, Iterable[str]], among: Iterable[str]) -> set[str]:
    """Who can be reached from the first of ``among`` without leaving it."""
    left = set(among)
    waiting = [min(left)] if left else []
    left -= set(waiting)
    found = set(waiting)
    while waiting:
        new = left.intersection(neighbours[waiting.pop()])
        left -= new
        found |= new
        waiting.extend(new)
    return found


def public_half(private: bytes) -> str:
    """The X25519 public key of 32 private bytes, hex."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def pair_mask(roster: Roster, private: bytes, other: str, mine: str) -> Words:
    """The mask that ``mine`` adds for ``other``, mod 2^k; the other adds its negative.

    ``private`` is the private mask key of ``mine``.
    """
    stream = _stream(roster, _agreed(private, roster.keys[other].mask_key), "|".join(sorted((mine, other))))
    return stream if mine < other else np.negative(stream)


def self_mask(roster: Roster, seed: bytes, mine: str) -> Words:
    """The mask that a member adds for itself alone, so that a late update stays covered when its key is opened."""
    return _stream(roster, seed, mine)


def masked(values: IntArray, weight: int, masks: Iterable[Words], word: np.dtype[np.unsignedinteger]) -> Words:
    """w · values + masks, mod 2^k."""
    total: Words = (values * weight).astype(word)
    for mask in masks:
        total += mask
    return total


def mean_of(total: IntArray, terms: MaskingTerms, survivors: Iterable[str]) -> FloatArray:
    """Σ w x / Σ w over the survivors, in the update's own unit."""
    return terms.grid.value(total) / sum(terms.weights[node] for node in survivors)


def split(roster: Roster, node: str, secret: bytes) -> dict[str, bytes]:
    """Shamir shares of a member's secret by holder, any ``threshold`` of which open it."""
    holders = roster.holders(node)
    shares = Shamir.split(roster.threshold, len(holders), secret, ssss=False)
    return {holder: share for holder, (_, share) in zip(holders, shares, strict=True)}


def joined(roster: Roster, node: str, shares: Mapping[str, bytes]) -> bytes:
    """A member's secret, from ``threshold`` or more of its shares by holder."""
    places = [(roster.holders(node).index(holder) + 1, share) for holder, share in sorted(shares.items())]
    secret: bytes = Shamir.combine(places[: roster.threshold], ssss=False)
    return secret


def private_key(secret: bytes) -> bytes:
    """The X25519 private key of a shared secret."""
    return HKDF(hashes.SHA256(), 32, None, b"coterie masking 1 mask key").derive(secret)


def seal(roster: Roster, private: bytes, sender: str, holder: str, shares: bytes, nonce: bytes) -> str:
    """Seal both shares to a holder: ChaCha20-Poly1305 under the pair's seal keys, bound to roster and direction."""
    key = _derived(roster, _agreed(private, roster.keys[holder].seal_key), f"seal {sender} {holder}")
    return (nonce + ChaCha20Poly1305(key).encrypt(nonce, shares, _bound(roster, sender, holder))).hex()


def unseal(roster: Roster, private: bytes, sender: str, holder: str, sealed: str) -> bytes:
    """What ``sender`` sealed to ``holder``, whose private seal key this is.

    Raises:
        NotAllowed: it was sealed by another, for another, or was changed on the way.
    """
    key = _derived(roster, _agreed(private, roster.keys[sender].seal_key), f"seal {sender} {holder}")
    whole = bytes.fromhex(sealed)
    try:
        return ChaCha20Poly1305(key).decrypt(whole[:NONCE_BYTES], whole[NONCE_BYTES:], _bound(roster, sender, holder))
    except InvalidTag as problem:
        raise NotAllowed(
            f"The shares delivered from node {sender[:14]}… are not those it sealed.", _REPORT
        ) from problem


def _bound(roster: Roster, sender: str, holder: str) -> bytes:
    return f"{roster.hash}:{sender}:{holder}".encode()


def _agreed(private: bytes, public: str) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        )
    except ValueError as problem:
        raise NotAllowed(f"The key {public[:14]}… is one with which no secret can be agreed.", _REPORT) from problem


def _derived(roster: Roster, secret: bytes, purpose: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, bytes.fromhex(roster.hash), f"coterie masking 1 {purpose}".encode()).derive(secret)


def _stream(roster: Roster, secret: bytes, purpose: str) -> Words:
    """As many words as the update has, from ChaCha20. The key is used once, so its nonce is zero."""
    word = roster.terms.word
    cipher = Cipher(ChaCha20(_derived(roster, secret, f"mask {purpose}"), bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(roster.terms.size * word.itemsize)), word)
