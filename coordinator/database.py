"""The coordinator's memory: typed tables, and two ways in, to read and to write.

A writing session takes the write lock before it reads, so what it read first still holds when it commits:
one transaction is one transition. Documents are kept as the canonical JSON that was hashed or signed. Times
are Unix seconds. The tables are the same on SQLite and on PostgreSQL; text is ordered by its bytes on both, because
orders go into hashes. A change of a table needs a revision in coordinator/migrations/versions.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import (
    BigInteger,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.types import TypeEngine

from coordinator.engines import opened, place, telling
from coordinator.lease import TRY_SECONDS, Lease
from coordinator.schema import Standing, require_newest, standing, upgrade

log = structlog.get_logger(__name__)


class Words(TypeDecorator[str]):
    """Text of any length, ordered by its bytes. PostgreSQL keeps no zero byte in it, so SQLite keeps none either."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return Text(collation="C" if dialect.name == "postgresql" else None)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\0", "\ufffd") if value and "\0" in value else value


class Base(DeclarativeBase):
    """Integers are 64 bits wide."""

    type_annotation_map = {str: Words(), int: BigInteger(), bytes: LargeBinary()}  # noqa: RUF012


class SecretRow(Base):
    """What all processes of a coordinator share and tell nobody."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    """Hex."""


class NonceRow(Base):
    """A nonce that was used, for as long as it is good. ``value`` is its hash with the asker's secret."""

    __tablename__ = "nonces"

    value: Mapped[str] = mapped_column(primary_key=True)
    expires: Mapped[int] = mapped_column(index=True)


class SessionRow(Base):
    """A signed-in wallet. The token itself is nowhere but at the client."""

    __tablename__ = "sessions"

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    wallet: Mapped[str] = mapped_column(index=True)
    expires: Mapped[int]


class GrantRow(Base):
    """A member's signed grant. The newest of a wallet counts, older ones are replaced by it."""

    __tablename__ = "grants"

    grant_id: Mapped[str] = mapped_column(primary_key=True)
    member: Mapped[str] = mapped_column(index=True)
    node_key: Mapped[str] = mapped_column(index=True)
    node_id: Mapped[str] = mapped_column(index=True)
    """What the SuperLink calls the node that holds the key: decimal, because it is 64 bits wide without a sign."""
    document: Mapped[str]
    signature: Mapped[str]
    snapshot: Mapped[str]
    expires: Mapped[int]
    given_at: Mapped[int]
    replaced: Mapped[bool] = mapped_column(default=False)


class RoundRow(Base):
    """One round, from the order to its release."""

    __tablename__ = "rounds"

    round_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    epoch: Mapped[int]
    plan: Mapped[str]
    policy_hash: Mapped[str]
    base_hash: Mapped[str]
    snapshot: Mapped[str]
    order: Mapped[str | None]
    """The signed StartRound; a removal round has none."""
    order_signature: Mapped[str | None]
    order_nonce: Mapped[str | None] = mapped_column(unique=True)
    opened_at: Mapped[int]
    deadline: Mapped[int]
    paused_at: Mapped[int | None]
    """Since when the round stands still; every end in it waits as long as this is set."""
    merged: Mapped[str | None]
    """JSON list of the contribution ids that the candidate is merged from, sorted."""
    candidates_hash: Mapped[str | None]
    scoring_since: Mapped[int | None]
    run_id: Mapped[str | None]
    cid: Mapped[str | None]
    reason: Mapped[str | None]


class RoundGrantRow(Base):
    """A grant's part in a round. ``reason`` is set where it gives no contribution."""

    __tablename__ = "round_grants"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grants.grant_id"), primary_key=True, index=True)
    expected: Mapped[bool]
    """Whether the worker waits for it: it has enough admitted tokens and has not declined."""
    reason: Mapped[str | None]
    asked_at: Mapped[int | None]
    """When its node was first given the task; never where none was seen that holds its key."""


class RoundTokenRow(Base):
    """The verdict on one token of one member at a round's snapshot."""

    __tablename__ = "round_tokens"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grants.grant_id"), primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    allow: Mapped[bool]
    verdict: Mapped[str]


class ContributionRow(Base):
    """A contribution; its tensors are files named by its id. A refused one has no files."""

    __tablename__ = "contributions"

    contribution_id: Mapped[str] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), index=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grants.grant_id"), index=True)
    member: Mapped[str] = mapped_column(index=True)
    header: Mapped[str]
    signature: Mapped[str]
    size: Mapped[int]
    """Bytes of both files."""
    received_at: Mapped[int]
    state: Mapped[str] = mapped_column(index=True)
    """live, quarantined (set aside by an admin), dead or refused."""
    reason: Mapped[str | None]
    lapsed_token: Mapped[str | None]
    """The token whose licence ended, for a dead one, and the block at which that was seen."""
    lapsed_at: Mapped[str | None]


class SecretSumRow(Base):
    """The terms of a ``secagg`` round, fixed before anyone makes a key, and when its present exchange began."""

    __tablename__ = "secret_sums"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    terms: Mapped[str]
    """Canonical MaskingTerms."""
    since: Mapped[int]


class ExchangeRow(Base):
    """What a node said in one exchange of a secret sum, as it signed it."""

    __tablename__ = "exchanges"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    node_key: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    """The round's, in which it was asked."""
    said: Mapped[str]
    """Canonical Signed."""


class ScoreReportRow(Base):
    """A member's scores of one candidate, or why it gives none."""

    __tablename__ = "score_reports"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    node_key: Mapped[str] = mapped_column(primary_key=True)
    candidates_hash: Mapped[str] = mapped_column(primary_key=True)
    report: Mapped[str | None]
    """Canonical SignedScoreReport."""
    declined: Mapped[str | None]


class ProgressRow(Base):
    """How far a machine is in a round, as it told last: worth something until the round has ended, and in no log."""

    __tablename__ = "progress"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    node_key: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str]
    step: Mapped[int]
    steps: Mapped[int]
    seconds_left: Mapped[int | None]
    at: Mapped[int]
    """Unix milliseconds, by the machine's clock."""
    told_at: Mapped[int]
    """By the coordinator's."""


class ReleaseRow(Base):
    """A published release."""

    __tablename__ = "releases"
    __table_args__ = (UniqueConstraint("round_id"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cid: Mapped[str] = mapped_column(index=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"))
    kind: Mapped[str]
    parent: Mapped[str | None]
    manifest: Mapped[str]
    published_at: Mapped[int]


class PinRow(Base):
    """A release at a place beside the local store."""

    __tablename__ = "pins"

    cid: Mapped[str] = mapped_column(primary_key=True)
    place: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    request: Mapped[str] = mapped_column(default="")
    """What the place calls our request."""
    tries: Mapped[int] = mapped_column(default=0)
    """In vain, since it stood there last."""
    checked_at: Mapped[int | None] = mapped_column(default=None)
    due_at: Mapped[int | None]
    """When to look again; never where it is let go."""


class ActRow(Base):
    """An order that was carried out (a cancel, a pause, a removal, a revocation, …), as it was signed."""

    __tablename__ = "acts"

    nonce: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    actor: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    """The id of what it was done to."""
    document: Mapped[str]
    signature: Mapped[str]
    snapshot: Mapped[str]
    """The block at which the signature held and the actor had the right."""
    done_at: Mapped[int]


class EventRow(Base):
    """The append-only log: each line's hash covers the line before."""

    __tablename__ = "events"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    previous: Mapped[str]
    hash: Mapped[str]
    body: Mapped[str]


# Machines that ask for a grant, who guesses at their codes, and which wallets are one member's ------------------------


class DeviceRow(Base):
    """A machine that asks for a grant, from its question to the answer. Its secret itself is nowhere but there."""

    __tablename__ = "devices"

    device_code_sha256: Mapped[str] = mapped_column(primary_key=True)
    user_code: Mapped[str] = mapped_column(unique=True)
    node_key: Mapped[str]
    name: Mapped[str]
    source: Mapped[str] = mapped_column(index=True)
    """Where it asked from: an IPv4 address or the first half of an IPv6 one."""
    expires: Mapped[int]
    interval: Mapped[int]
    """Seconds that it has to wait between two polls."""
    polled_at: Mapped[int | None]
    state: Mapped[str]
    """pending, denied or granted."""
    grant_id: Mapped[str | None] = mapped_column(ForeignKey("grants.grant_id"))


class WrongCodeRow(Base):
    """A user code that somebody typed and that is no machine's."""

    __tablename__ = "wrong_codes"

    number: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    source: Mapped[str] = mapped_column(index=True)
    at: Mapped[int] = mapped_column(index=True)


class LinkedWalletRow(Base):
    """A wallet that shares a member with others; it has signed for that itself."""

    __tablename__ = "linked_wallets"

    wallet: Mapped[str] = mapped_column(primary_key=True)
    person: Mapped[str] = mapped_column(index=True)
    linked_at: Mapped[int]


class AnswerRow(Base):
    """What an act was answered that was asked for with a key, so that it is not done again. ``answer`` is JSON."""

    __tablename__ = "answers"

    name: Mapped[str] = mapped_column(primary_key=True)
    """Hash of the key with the route and the wallet that it came from."""
    asked: Mapped[str]
    """Hash of the body."""
    answer: Mapped[str | None]
    """None while it is being done."""
    at: Mapped[int] = mapped_column(index=True)


# Programs that are told what happens ----------------------------------------------------------------------------------


class WebhookRow(Base):
    """How far a receiver was told, and why not further."""

    __tablename__ = "webhooks"

    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    """The last event that it took or had not asked for."""
    tries: Mapped[int] = mapped_column(default=0)
    """Of the next one, in vain."""
    failing_since: Mapped[int | None] = mapped_column(default=None)
    due_at: Mapped[int] = mapped_column(default=0)
    """When to try again."""
    ended: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str] = mapped_column(default="")


class Database:
    """One engine, safe to share between the threads of a process."""

    def __init__(self, url: str) -> None:
        """Open the database; an empty one gets its tables.

        Raises:
            BadInput: it was made by another version, or ``url`` is no address of a database.
            Unreachable: it does not answer.
        """
        self._place = place(url)
        self._engine = opened(self._place)
        moment = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.is_shared else {}
        self._read = sessionmaker(self._engine.execution_options(**moment))
        self._write = sessionmaker(self._engine.execution_options(writes=True), expire_on_commit=False)
        self._lease: Lease | None = None
        with self.writing() as session:
            require_newest(session.connection(), Base.metadata)

    @property
    def is_shared(self) -> bool:
        """Whether processes on several machines may have it open: a server's, not a file."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent look. Raises Unreachable when the database does not answer."""
        with telling(self._place), self._read() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction under the write lock: committed at the end of the block, undone on an exception.

        Raises:
            Unreachable: the database does not answer.
            Busy: others have had the lock for long.
            Conflict: the object had the worker's lease and has lost it.
        """
        with telling(self._place), self._write.begin() as session:
            if self._lease:
                self._lease.require(session)
            yield session

    @contextmanager
    def leased(self, stop: threading.Event) -> Iterator[Callable[[], bool]]:
        """Wait until this is the only worker of the database; yields the question whether it still is.

        From then on this object writes only while it has the lease. A file has none: it is on one machine, where the
        kernel's lock on the data folder does.
        """
        if not self.is_shared:
            yield lambda: True
            return
        with telling(self._place):
            lease = Lease(self._engine)
        try:
            yield lease.held if self._took(lease, stop) else lambda: False
        finally:
            lease.close()

    def close(self) -> None:
        self._engine.dispose()

    def _took(self, lease: Lease, stop: threading.Event) -> bool:
        """False where ``stop`` came first."""
        waits = False
        with telling(self._place):
            while not lease.take():
                if not waits:
                    log.info("another worker has this database; this one stands by")
                waits = True
                if stop.wait(TRY_SECONDS):
                    return False
        self._lease = lease
        log.info("this is the one worker of the database")
        return True


def upgrade_database(url: str) -> Standing:
    """Bring a database to the newest revision in one transaction; how it stood before.

    Raises:
        BadInput: there is no way from its version to this one.
        Unreachable: it does not answer.
    """
    at = place(url)
    engine = opened(at, alters=True)
    try:
        with telling(at), engine.execution_options(writes=True).begin() as connection:
            before = upgrade(connection)
            if engine.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise AssertionError("the upgrade would leave rows that refer to none")
            return before
    finally:
        engine.dispose()


def database_standing(url: str) -> Standing:
    """Which revision a database is at. Raises Unreachable when it does not answer."""
    at = place(url)
    engine = opened(at)
    try:
        with telling(at), engine.connect() as connection:
            return standing(connection)
    finally:
        engine.dispose()
