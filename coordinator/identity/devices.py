"""Device login, after RFC 8628: a machine without a wallet asks, a person answers in a browser with one.

The machine gets a secret device code and a short user code. The person opens the link or types the user code,
compares the node key's fingerprint, and signs a grant or refuses. The machine polls with its secret and takes the
grant. A code is decided on once; the rules come first and know no database.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from contracts_abi.model import Address
from coordinator.database import DeviceRow, WrongCodeRow
from protocol.canonical import sha256
from protocol.errors import BadInput, Conflict, NotAllowed, NotFound, TooMany
from protocol.grant import WARRANT, Grant
from protocol.policy import Policy, Verdict

ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so that no words come out, and nothing that is mistaken for something else (RFC 8628, section 6.1)."""
USER_CODE_LETTERS = 8
LIFE_SECONDS = 600
INTERVAL_SECONDS = 3
SLOWER_SECONDS = 5
MAX_NAME = 60
DAYS = (30, 90, 180, 365)
"""How long a grant that is signed in the browser may last; half a year unless another is chosen."""

WRONG_CODES_EACH = 10
WRONG_CODES_IN_ALL = 1000
"""In ``LIFE_SECONDS``. Of 20⁸ codes that many guesses hit one of a hundred waiting machines once in 250,000 tries."""
DEVICES_EACH = 20
DEVICES_IN_ALL = 5000


# Rules ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A machine that asks. ``state`` is pending, denied or granted."""

    user_code: str
    node_key: str
    name: str
    expires: int
    interval: int
    polled_at: int | None
    state: str
    grant_id: str | None

    @property
    def shown_code(self) -> str:
        return shown(self.user_code)


@dataclass(frozen=True)
class Poll:
    """What a poll is answered, and how long the machine waits before the next one."""

    state: str
    """pending, slow_down, denied, expired or done."""
    interval: int


def answer(device: Device, now: int) -> Poll:
    """The answer to a poll at ``now``. A decision is told as long as the code lives, so a lost answer costs nothing."""
    if now >= device.expires:
        return Poll("expired", device.interval)
    if device.state != "pending":
        return Poll({"granted": "done"}.get(device.state, device.state), device.interval)
    if device.polled_at is not None and now < device.polled_at + device.interval:
        return Poll("slow_down", device.interval + SLOWER_SECONDS)
    return Poll("pending", device.interval)


def new_user_code(choose: Callable[[Sequence[str]], str] = secrets.choice) -> str:
    """Eight letters, 34 bits."""
    return "".join(choose(ALPHABET) for _ in range(USER_CODE_LETTERS))


def shown(user_code: str) -> str:
    """``BCDF-GHJK``"""
    half = USER_CODE_LETTERS // 2
    return f"{user_code[:half]}-{user_code[half:]}"


def read_code(text: str) -> str:
    """What a person typed, as it is kept; case, spaces and dashes don't matter. Invariant: read_code(shown(c)) == c.

    Raises:
        BadInput: it cannot be a code.
    """
    code = "".join(letter for letter in text[:64].upper() if letter.isalnum())
    if len(code) != USER_CODE_LETTERS or set(code) - set(ALPHABET):
        raise BadInput(
            "That is not a code.", f"A code has {USER_CODE_LETTERS} letters, like {shown(ALPHABET[:8])}: type it again."
        )
    return code


def source_of(address: str | None) -> str:
    """What guesses are counted by: an IPv4 address, or the network that one IPv6 customer has."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(ip) if ip.version == 4 else str(ip_network((ip, 64), strict=False))


def require_name(name: str) -> None:
    """Raises BadInput unless the name can be shown as it is: no control and no direction marks."""
    if not (name.strip() and len(name) <= MAX_NAME and name.isprintable()):
        raise BadInput(f"A machine's name has 1 to {MAX_NAME} printable characters.", "Choose another with --name.")


def proposed(
    policy: Policy, base_hash: str, member: Address, verdicts: Sequence[Verdict], node_key: str, expires: int
) -> Grant:
    """The grant over tokens that a person chose; ``verdicts`` are on these.

    Raises:
        NotAllowed: one of them is denied, or there are too few.
    """
    if denied := next((one for one in verdicts if not one.allow), None):
        raise NotAllowed(f"{denied.token} is not admitted: {denied.reason}", "Choose admitted tokens only.")
    if len(verdicts) < max(policy.minimum_tokens, 1):
        raise NotAllowed(
            f"{len(verdicts)} tokens are chosen, and the DAO asks for {max(policy.minimum_tokens, 1)}.", "Choose more."
        )
    return Grant(
        dao=policy.dao,
        chain_id=policy.chain_id,
        member=member,
        purpose=policy.purpose,
        tokens=tuple(sorted(verdict.token for verdict in verdicts)),
        warrant=WARRANT if any(verdict.warrant for verdict in verdicts) else "",
        node_key=node_key,
        policy_hash=policy.digest(),
        base_hash=base_hash,
        expires=expires,
    )


# Kept -----------------------------------------------------------------------------------------------------------------


def open_device(session: Session, node_key: str, name: str, source: str, now: int) -> tuple[str, Device]:
    """Keep a machine's question; its secret, and the machine as it is kept.

    Raises:
        BadInput: the name cannot be shown.
        TooMany: too many machines of this source, or altogether, are waiting.
    """
    require_name(name)
    _forget_old(session, now)
    here, in_all = (
        session.scalar(select(func.count()).select_from(DeviceRow).where(DeviceRow.expires > now, *which)) or 0
        for which in ((DeviceRow.source == source,), ())
    )
    if here >= DEVICES_EACH or in_all >= DEVICES_IN_ALL:
        raise TooMany("Too many machines are waiting for a grant.", "Try again in ten minutes.")
    secret = secrets.token_urlsafe(32)
    row = DeviceRow(
        device_code_sha256=sha256(secret.encode()),
        user_code=_free_code(session),
        node_key=node_key,
        name=name,
        source=source,
        expires=now + LIFE_SECONDS,
        interval=INTERVAL_SECONDS,
        state="pending",
    )
    session.add(row)
    session.flush()
    return secret, _device(row)


def poll(session: Session, device_code: str, now: int) -> tuple[Poll, str | None]:
    """Answer a machine that polls, and its grant's id once there is one. Raises NotFound for a secret of nobody's."""
    row = session.get(DeviceRow, sha256(device_code.encode()))
    if row is None:
        raise NotFound("No machine waits with this device code.", "Join again to get a new one.")
    told = answer(_device(row), now)
    row.polled_at, row.interval = now, told.interval
    return told, row.grant_id if told.state == "done" else None


def require_guesses_left(session: Session, source: str, now: int) -> None:
    """Raises TooMany after too many wrong codes, from this source or altogether."""
    recent = select(func.count()).select_from(WrongCodeRow).where(WrongCodeRow.at > now - LIFE_SECONDS)
    if (session.scalar(recent.where(WrongCodeRow.source == source)) or 0) >= WRONG_CODES_EACH:
        raise TooMany("Too many wrong codes came from where you are.", "Try again in ten minutes.")
    if (session.scalar(recent) or 0) >= WRONG_CODES_IN_ALL:
        raise TooMany("Too many wrong codes were tried.", "Try again in ten minutes.")


def find(session: Session, user_code: str) -> Device | None:
    """The machine with this code, decided on, ended or not. Ask ``require_guesses_left`` before."""
    row = _row(session, user_code)
    return _device(row) if row else None


def note_wrong_code(session: Session, source: str, now: int) -> None:
    """Remember a guess, and forget those that count no more."""
    session.execute(delete(WrongCodeRow).where(WrongCodeRow.at <= now - LIFE_SECONDS))
    session.add(WrongCodeRow(source=source, at=now))


def require_pending(device: Device, now: int) -> None:
    """Raises Conflict when the code was decided on, or has ended."""
    if device.state != "pending":
        raise Conflict("This code has been used.", "Run coterie join again to get a new one.")
    if now >= device.expires:
        raise Conflict("This code has expired.", "Run coterie join again to get a new one.")


def decide(session: Session, user_code: str, grant_id: str | None, now: int) -> None:
    """The person's answer: the id of the grant that they signed, or None when they refuse. A code takes one answer.

    Raises:
        NotFound, Conflict: there is no such code, or it has its answer, or has ended.
    """
    row = _row(session, user_code)
    if row is None:
        raise NotFound("No machine waits with this code.", "Run coterie join again to get a new one.")
    require_pending(_device(row), now)
    row.state, row.grant_id = ("granted", grant_id) if grant_id else ("denied", None)


def _forget_old(session: Session, now: int) -> None:
    """Machines whose code ended a while ago; of those that got a grant the name stays, and not where it asked from."""
    old = DeviceRow.expires <= now - LIFE_SECONDS
    session.execute(delete(DeviceRow).where(old, DeviceRow.grant_id.is_(None)))
    session.execute(update(DeviceRow).where(old, DeviceRow.source != "").values(source=""))


def _free_code(session: Session) -> str:
    while _row(session, code := new_user_code()):
        pass
    return code


def _row(session: Session, user_code: str) -> DeviceRow | None:
    return session.scalar(select(DeviceRow).where(DeviceRow.user_code == user_code))


def _device(row: DeviceRow) -> Device:
    return Device(
        user_code=row.user_code,
        node_key=row.node_key,
        name=row.name,
        expires=row.expires,
        interval=row.interval,
        polled_at=row.polled_at,
        state=row.state,
        grant_id=row.grant_id,
    )
