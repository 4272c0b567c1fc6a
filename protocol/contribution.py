"""What a node sends: a signed contribution, and signed scores of candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from contracts_abi.model import Snapshot, Token
from protocol.canonical import Document, canonical, sha256
from protocol.errors import ContributionRefused
from protocol.grant import Hash, RoundPlan
from protocol.node_key import verify

Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{16,400}$")]
MAX_ADAPTER_BYTES = 512 << 20
MAX_STATISTICS_BYTES = 512 << 20


class TokenUse(Document):
    """One token as it was trained on: its caption and its picture's hash are public, the picture stays."""

    token: Token
    media_sha256: Hash
    caption: Annotated[str, Field(max_length=2000)]
    held_out: bool
    """Kept from training, to score candidates with."""


class StatisticsRecipe(Document):
    """How anyone recomputes the statistics from the delta and the captions alone."""

    kind: Literal["drawn"] = "drawn"
    pictures: int
    sampling_steps: int
    noise_levels: int
    seed: int
    rank: int


class Training(Document):
    """What the member's machine did. Told for the reader; no weight depends on it."""

    steps: int
    seconds: float
    device: str
    first_loss: float
    last_loss: float


class ContributionHeader(Document):
    """Everything about a contribution but the tensors, which it names by hash. This is what the node signs."""

    version: Literal[1] = 1
    round_id: str
    grant_id: str
    node_key: str
    plan_hash: Hash
    policy_hash: Hash
    base_hash: Hash
    tokens: tuple[TokenUse, ...]
    adapter_sha256: Hash
    """Of the adapter's file; in a ``dp`` round of the salted update, in ``secagg`` of the masked words."""
    statistics_sha256: Hash | None = None
    """None in the private modes, as what follows: they would tell more of the update than the mode allows."""
    recipe: StatisticsRecipe | None = None
    training: Training | None = None


@dataclass(frozen=True)
class Contribution:
    """The whole message."""

    header: ContributionHeader
    signature: Signature
    adapter: bytes
    """The adapter's file, or what stands for it in a private mode: ``ContributionHeader.adapter_sha256``."""
    statistics: bytes = b""

    @property
    def contribution_id(self) -> str:
        return self.header.digest()[:16]

    def check_integrity(self) -> None:
        """Hashes and signature.

        Raises:
            ContributionRefused: the tensors are not those that were signed, or the signature is wrong.
        """
        for what, data, expected, limit in (
            ("adapter", self.adapter, self.header.adapter_sha256, MAX_ADAPTER_BYTES),
            ("statistics", self.statistics, self.header.statistics_sha256, MAX_STATISTICS_BYTES),
        ):
            if len(data) > limit:
                raise ContributionRefused(f"The {what} is {len(data)} bytes; at most {limit} are taken.")
            if expected is None and not data:
                continue
            if sha256(data) != expected:
                raise ContributionRefused(f"The {what} is not the one that was signed.")
        verify(self.header.node_key, self.header.canonical(), self.signature)


class TrainTask(Document):
    """What every node is told when a round opens. A node finds its own tokens by its grant."""

    round_id: str
    dao: str
    plan: RoundPlan
    policy_hash: Hash
    base_hash: Hash
    snapshot: Snapshot
    tokens: dict[str, tuple[Token, ...]]
    """Grant → the tokens that are admitted at this snapshot."""


CandidateName = Annotated[str, Field(pattern=r"^[a-z0-9 ]{1,64}$")]


class Candidate(Document):
    """A merged adapter at gain 1 that may become the release: how it was made, and its file's hash."""

    name: CandidateName
    sha256: Hash


def candidates_hash(candidates: Sequence[Candidate]) -> str:
    """What scores are about: SHA-256 over the list in its order."""
    return sha256(canonical([one.model_dump(mode="json") for one in candidates]))


class ScoreTask(Document):
    """What to score: every candidate at every gain."""

    round_id: str
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    gains: tuple[float, ...]
    seed: int
    base_hash: Hash


class ScoreReport(Document):
    """One member's scores on the images it held out: mean denoising loss, lower is better."""

    round_id: str
    grant_id: str
    node_key: str
    candidates_hash: Hash
    losses: tuple[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], ...]
    """For each of the task's candidates, in the order of the task's gains."""
    images: int


class SignedScoreReport(Document):
    report: ScoreReport
    signature: Signature

    def check_integrity(self) -> None:
        """Raises ContributionRefused when the signature is not the named node key's."""
        verify(self.report.node_key, self.report.canonical(), self.signature)
