"""What wallets sign: the grant and the start of a round, as EIP-712 typed data.

A wallet shows these fields in its own window, so they are the words a person reads: which tokens, which
policy, which base, until when, for which node key. Hashes bind what does not fit.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from pydantic import Field

from contracts_abi.model import Address, Token
from contracts_abi.signatures import AskWallet, key_holder, signature_bytes
from protocol.canonical import Document, Growing, sha256
from protocol.errors import NotAllowed
from protocol.merkle import MerkleTree
from protocol.modes import DpTerms, Grid, Learned, Mode

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Nonce = Annotated[str, Field(min_length=8, max_length=64)]

_DOMAIN = (("name", "string"), ("version", "string"), ("chainId", "uint256"))
_GRANT = (
    ("dao", "string"),
    ("member", "address"),
    ("purpose", "string"),
    ("tokens", "string"),
    ("tokensRoot", "bytes32"),
    ("warrant", "string"),
    ("nodeKey", "string"),
    ("policyHash", "bytes32"),
    ("baseHash", "bytes32"),
    ("expires", "uint256"),
)
_START_ROUND = (
    ("dao", "string"),
    ("admin", "address"),
    ("plan", "string"),
    ("policyHash", "bytes32"),
    ("baseHash", "bytes32"),
    ("nonce", "string"),
    ("expires", "uint256"),
)

IDS_SHOWN = 30
"""Of each collection: a list of hundreds is nothing that a person reads in a wallet's window."""

WARRANT = "Where a licence is silent on training, I warrant that I may train on my tokens."


class Grant(Document):
    """This node key may train on these tokens, under this policy and on this base, until then."""

    dao: str
    chain_id: int
    member: Address
    purpose: str
    tokens: tuple[Token, ...]
    warrant: str = ""
    node_key: Annotated[str, Field(pattern=r"^0[23][0-9a-f]{96}$")]
    """The compressed EC P-384 point, hex."""
    policy_hash: Hash
    base_hash: Hash
    expires: int
    """Unix seconds."""

    def typed_data(self) -> dict[str, Any]:
        """The EIP-712 document that the wallet shows and signs."""
        message = {
            "dao": self.dao,
            "member": self.member,
            "purpose": self.purpose,
            "tokens": tokens_in_words(self.tokens),
            "tokensRoot": "0x" + tokens_root(self.tokens).hex(),
            "warrant": self.warrant,
            "nodeKey": self.node_key,
            "policyHash": "0x" + self.policy_hash,
            "baseHash": "0x" + self.base_hash,
            "expires": self.expires,
        }
        return eip712(self.chain_id, "Grant", {"Grant": _GRANT}, message)

    @property
    def grant_id(self) -> str:
        """Short and stable: the first 16 hex digits of the document's hash."""
        return self.digest()[:16]


class SignedGrant(Document):
    """A grant and its wallet's signature: public, as both are in every manifest."""

    grant: Grant
    signature: str


class RoundPlan(Growing):
    """How a round trains and merges: the same for every member."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"distillation_limit", "usual_pictures", "growth_limit", "drawing_steps"}
    )

    rank: Annotated[int, Field(ge=1, le=128)] = 8
    """LoRA rank that members train at, and the most the coordinator takes."""
    steps: Annotated[int, Field(ge=1)] = 240
    usual_pictures: Annotated[int, Field(ge=1)] = 16
    """Up to so many pictures ``steps`` and ``statistics_pictures`` hold as they are. Who trains on more has more of
    both, in proportion: each picture is seen as often, each caption drawn."""
    growth_limit: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    """So many times as much at most; 1 is the same for everybody."""
    batch: Annotated[int, Field(ge=1)] = 8
    learning_rate: float = 3e-3
    drift: Annotated[float, Field(ge=0)] = 1e-3
    """ρ: what an adapter pays for moving the base's answers to the base's own inputs; 0 is no penalty."""
    min_snr: Annotated[float, Field(ge=0)] = 0.0
    """γ of Min-SNR-γ: time steps with more signal than this weigh no more for it; 0 weighs all errors alike."""
    noise_offset: Annotated[float, Field(ge=0)] = 0.0
    """Noise that is the same all over a channel, so that pictures may be very dark or bright; 0 is none."""
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    """How often a picture is trained on without its caption; a trigger word stays."""
    trait_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How often each trait is left out of a caption."""
    prior_pictures: Annotated[int, Field(ge=0)] = 0
    """Pictures that the base draws itself, trained on beside the member's own so that it forgets less."""
    prior_captions: Annotated[tuple[Annotated[str, Field(max_length=2000)], ...], Field(min_length=1)] = ("",)
    """What the base's own pictures show, in turn; the empty caption is anything."""
    statistics_pictures: Annotated[int, Field(ge=1)] = 16
    """Pictures drawn by the member's own adapter, from whose activations the statistics come; ``usual_pictures``."""
    drawing_steps: Annotated[int, Field(ge=0)] = 20
    """Of the sampler that draws them; 0 takes plain noise for pictures, where drawing costs too much."""
    statistics_rank: Annotated[int, Field(ge=1)] = 128
    regularisation: float = 1e-4
    """λ, relative to the mean of the denominator's diagonal."""
    tail: float = 0.002
    """τ: the share of the merged delta's energy, in the data's metric, that truncation may drop."""
    release_rank: Annotated[int, Field(ge=1)] = 64
    base_weight: Annotated[float, Field(ge=0)] = 0.0
    """μ: the base's own word beside everybody's, on ``prior_captions``, so that less is forgotten; 0 is none."""
    distillation_steps: Annotated[int, Field(ge=0)] = 50
    """Steps for each contribution, in which the collective, after the merge, learns to answer as the members' adapters
    do; 0 is none."""
    distillation_limit: Annotated[int, Field(ge=1)] = 2000
    """The most steps of it, however many contribute."""
    distillation_rate: Annotated[float, Field(gt=0)] = 2e-3
    score_influence: bool = False
    """Whether members also score the collective without each contribution: what everyone is worth, for N more merges
    and N more adapters to every member."""
    gains: tuple[float, ...] = (0.0, 0.7, 1.0, 1.15, 1.3)
    """Candidate gains; 0 is the base alone, so that a merge that helps nobody is seen as such."""
    mode: Mode = Mode.OPEN
    """What the coordinator may see of an update, and what a release may tell of a member."""
    learned: Learned = Learned.B
    """Private modes: what a member trains, B beside a fixed A or the core between two fixed factors."""
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0
    """Private modes: C, the greatest Frobenius norm of a member's delta over all layers; longer ones are shortened."""
    gain: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """``dp``: what the mean is multiplied by, fixed beforehand, since a gain that is chosen by scores tells of them."""
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """``dp``: σ, the noise's standard deviation over the clip."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """``dp``: δ, well below one over the number of members."""
    exchange_seconds: Annotated[int, Field(ge=1)] = 600
    """``secagg``: how long each exchange after training waits for those who are silent."""
    quorum: Annotated[int, Field(ge=1)] = 2
    deadline_seconds: Annotated[int, Field(ge=1)] = 3600
    seed: int = 0
    """Of everything that is drawn alike for all; each member trains with ``seed_of`` it."""

    def sized(self, pictures: int) -> "RoundPlan":
        """What the plan means for a member who trains on so many pictures; sizing that again changes nothing."""
        times = min(max(1.0, pictures / self.usual_pictures), self.growth_limit)
        grown = {name: round(times * getattr(self, name)) for name in ("steps", "statistics_pictures")}
        return self.model_copy(update={**grown, "growth_limit": 1.0})

    def distillation_length(self, teachers: int) -> int:
        """How many steps a collective of so many contributions is distilled in."""
        return min(self.distillation_steps * teachers, self.distillation_limit)

    @property
    def grid(self) -> Grid:
        """The whole numbers that the private modes add up on."""
        return Grid(clip=self.clip)

    @property
    def dp_terms(self) -> DpTerms:
        """What a ``dp`` round adds and claims."""
        return DpTerms(grid=self.grid, noise=self.noise, delta=self.delta)

    def seed_of(self, member: str) -> int:
        """A member's own seed for training, so that adapters do not start in one and the same subspace."""
        return int(sha256(f"{self.seed}:{member}".encode())[:8], 16)


class StartRound(Document):
    """An admin's order, signed over everything that it sets going."""

    dao: str
    chain_id: int
    admin: Address
    plan: RoundPlan
    policy_hash: Hash
    base_hash: Hash
    nonce: Nonce
    expires: int
    """Unix seconds, soon: an order that somebody kept is worth nothing later."""

    def typed_data(self) -> dict[str, Any]:
        """The EIP-712 document that the admin's wallet shows and signs."""
        message = {
            "dao": self.dao,
            "admin": self.admin,
            "plan": self.plan.canonical().decode(),
            "policyHash": "0x" + self.policy_hash,
            "baseHash": "0x" + self.base_hash,
            "nonce": self.nonce,
            "expires": self.expires,
        }
        return eip712(self.chain_id, "StartRound", {"StartRound": _START_ROUND}, message)


class Signable(Protocol):
    """What a wallet can sign: anything that says how it is shown."""

    def typed_data(self) -> dict[str, Any]:
        """The EIP-712 document."""
        ...


def signing_hash(document: Signable) -> bytes:
    """The 32 bytes that a wallet signs for a document (EIP-712)."""
    signable = encode_typed_data(full_message=document.typed_data())
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def sign(document: Signable, private_key: str) -> str:
    """Sign with a key that is at hand (demo, automation). Returns 0x-prefixed 65 bytes."""
    signable = encode_typed_data(full_message=document.typed_data())
    return "0x" + bytes(Account.sign_message(signable, private_key).signature).hex()


def require_signer(document: Signable, signature: str, signer: str, ask_wallet: AskWallet | None = None) -> None:
    """Check that ``signer`` signed exactly this document.

    Its own key is recognised here. Where it is not that key's, ``ask_wallet`` is asked whether ``signer`` is a contract
    wallet that accepts it; without ``ask_wallet``, contract wallets are refused.

    Raises:
        NotAllowed: the signature is not ``signer``'s over exactly this document.
        Unreachable: ``ask_wallet`` got no answer.
    """
    digest, data = signing_hash(document), signature_bytes(signature)
    holder = key_holder(digest, data)
    if holder and holder == to_checksum_address(signer):
        return
    if ask_wallet and ask_wallet(to_checksum_address(signer), digest, data):
        return
    made_by = f"{holder}'s, not {signer}'s" if holder else f"not {signer}'s"
    raise NotAllowed(
        f"The signature is {made_by}, or the document was changed after signing.",
        "Sign the document as it is now, with the wallet it names.",
    )


def tokens_root(tokens: Sequence[Token]) -> bytes:
    """32 bytes that stand for the list in any order: a StandardMerkleTree over ``(string)``, the CAIP-19 names.

    With the list, which is in the grant and so in every manifest, anyone can check it, or prove that a token is in it.
    """
    return MerkleTree(("string",), [(str(token),) for token in tokens]).root if tokens else bytes(32)


def tokens_in_words(tokens: Sequence[Token]) -> str:
    """What a wallet's window shows of the list: how many of which collection, and the first of their ids."""
    by_contract: dict[str, list[int]] = {}
    for token in tokens:
        by_contract.setdefault(token.contract, []).append(token.token_id)
    return "; ".join(f"{len(ids)} of {contract}: {_first(sorted(ids))}" for contract, ids in by_contract.items())


def _first(ids: Sequence[int]) -> str:
    rest = len(ids) - IDS_SHOWN
    return ", ".join(map(str, ids[:IDS_SHOWN])) + (f" and {rest} more" if rest > 0 else "")


def eip712(
    chain_id: int,
    primary: str,
    types: Mapping[str, tuple[tuple[str, str], ...]],
    message: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole EIP-712 document of one message; ``types`` are (field, type) in order."""
    fields = {"EIP712Domain": _DOMAIN, **types}
    return {
        "types": {name: [{"name": n, "type": t} for n, t in entries] for name, entries in fields.items()},
        "primaryType": primary,
        "domain": {"name": "Coterie", "version": "1", "chainId": chain_id},
        "message": dict(message),
    }
