"""Device login: what a machine without a wallet asks over HTTP, and the page where a person answers with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from flask import Blueprint, render_template, request
from pydantic import Field, RootModel

from contracts_abi.model import Address, Snapshot, Token
from coordinator.eligibility.verdicts import take_snapshot, verdicts_for
from coordinator.identity import devices as rules
from coordinator.identity import grants
from coordinator.identity.devices import Device
from coordinator.web.api import GivenGrant, stored_grant
from coordinator.web.openapi import Answer, Request, Routes
from coordinator.web.requests import require_own_page, signed_in
from coordinator.web.service import Service, service
from protocol import node_key
from protocol.errors import BadInput, ContributionRefused, CoterieError, NotAllowed, NotFound, NotSignedIn
from protocol.grant import Grant
from protocol.policy import Verdict
from protocol.typed_data import json_for_wallets

DAY_SECONDS = 24 * 3600
devices = Routes("devices", __name__, tag="Machines")
device_pages = Blueprint("device_pages", __name__)


class DeviceRequest(Request):
    node_key: Annotated[str, Field(pattern=r"^0[23][0-9a-f]{96}$")]
    name: str


class RetireRequest(Request):
    retire_key: node_key.RetireKey
    signature: str


class PollRequest(Request):
    device_code: str


class CodeRequest(Request):
    user_code: str


class ProposalRequest(CodeRequest):
    tokens: tuple[Token, ...]
    days: int


class GrantForDevice(CodeRequest):
    grant: Grant
    signature: str


class WaitingDevice(Answer):
    """RFC 8628: the secret to poll with, and what a person needs to answer in a browser."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    """Seconds."""
    interval: int
    """Seconds between two polls."""


class Unanswered(Answer):
    state: str
    """pending, slow_down, denied or expired."""
    interval: int


class Answered(Answer):
    state: Literal["done"]
    interval: int
    grant: Grant
    signature: str


class PollAnswer(RootModel[Answered | Unanswered]):
    pass


class RetiredKey(Answer):
    retired: str


class Proposal(Answer):
    """A grant to sign, and its EIP-712 document as wallets take it."""

    grant: Grant
    typed_data: str


class Denial(Answer):
    state: Literal["denied"] = "denied"


@dataclass(frozen=True)
class Asking:
    """A machine as the page shows it."""

    code: str
    name: str
    node_key: str
    fingerprint: str
    state: str
    """pending, expired, denied or granted."""
    grant: Grant | None


@dataclass(frozen=True)
class Mine:
    """The signed-in wallet's tokens, each with its verdict, at a finalized block."""

    wallet: Address
    snapshot: Snapshot
    verdicts: tuple[Verdict, ...]

    @property
    def admitted(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.allow)


# The machine's side ---------------------------------------------------------------------------------------------------


@devices.post("/api/v1/devices", status=201)
def ask(body: DeviceRequest) -> WaitingDevice:
    """A machine asks for a grant to its node key."""
    here = service()
    node_key.public_pem(body.node_key)  # refuses what is no point of the curve
    with here.database.writing() as session:
        secret, device = rules.open_device(session, body.node_key, body.name, _source(), here.now())
    link = f"{here.settings.public_uri}/device"
    return WaitingDevice(
        device_code=secret,
        user_code=device.shown_code,
        verification_uri=link,
        verification_uri_complete=f"{link}?code={device.shown_code}",
        expires_in=device.expires - here.now(),
        interval=device.interval,
    )


@devices.post("/api/v1/devices/poll")
def poll(body: PollRequest) -> PollAnswer:
    """Whether the person has answered; the grant and its signature where it has been given."""
    here = service()
    with here.database.writing() as session:
        told, grant_id = rules.poll(session, body.device_code, here.now())
        if grant_id is None:
            return PollAnswer(Unanswered(state=told.state, interval=told.interval))
        grant, row = grants.granted(session, grant_id)
        return PollAnswer(Answered(state="done", interval=told.interval, grant=grant, signature=row.signature))


@devices.post("/api/v1/node-keys/retire")
def retire(body: RetireRequest) -> RetiredKey:
    """Shut an old node key out for good.

    Its own signature is the authorisation, and a newer grant, which the wallet has signed.
    """
    here, order = service(), body.retire_key
    if order.dao != here.policy.dao:
        raise NotAllowed(f"The order is for another DAO: {order.dao}, not {here.policy.dao}.", "Sign it for this one.")
    try:
        node_key.verify(order.old, order.canonical(), body.signature)
    except ContributionRefused as error:
        raise NotAllowed(
            "The order is not signed with the old node key.", "Sign it on the machine that has it."
        ) from error
    with here.database.reading() as session:
        node_id = grants.require_replaced_key(session, order.old, order.new, here.now())
    here.unregister_node(node_id)
    return RetiredKey(retired=order.old)


# The person's side ----------------------------------------------------------------------------------------------------


@devices.post("/api/v1/devices/proposal")
def propose(body: ProposalRequest) -> Proposal:
    """The grant to sign for a machine that waits, on chosen tokens of the session's wallet."""
    here = service()
    mine = _mine(here, signed_in(here))
    device = _pending(here, body.user_code)
    if body.days not in rules.DAYS:
        raise BadInput(f"A grant lasts {', '.join(map(str, rules.DAYS))} days.", "Choose one of these.")
    verdicts = {verdict.token: verdict for verdict in mine.verdicts}
    if other := next((token for token in body.tokens if token not in verdicts), None):
        raise NotAllowed(f"{other} is not {mine.wallet}'s.", "Load the page again: it may have been sold.")
    chosen = [verdicts[token] for token in dict.fromkeys(body.tokens)]
    expires = here.now() + body.days * DAY_SECONDS
    grant = rules.proposed(here.policy, here.base_hash, mine.wallet, chosen, device.node_key, expires)
    return Proposal(grant=grant, typed_data=json_for_wallets(grant.typed_data()))


@devices.post("/api/v1/devices/grant", status=201)
def grant_to_device(body: GrantForDevice) -> GivenGrant:
    """Give a grant to a machine that waits; it is checked as every grant is."""
    here = service()
    device = _pending(here, body.user_code)
    if body.grant.node_key != device.node_key:
        raise NotAllowed("The grant is for another machine's node key.", "Load the page again and sign again.")
    grant_id = stored_grant(here, grants.SignedGrant(grant=body.grant, signature=body.signature))
    with here.database.writing() as session:
        rules.decide(session, device.user_code, grant_id, here.now())
    return GivenGrant(grant_id=grant_id)


@devices.post("/api/v1/devices/deny")
def deny(body: CodeRequest) -> Denial:
    """Have a machine that waits told no."""
    here = service()
    require_own_page(here)
    device = _pending(here, body.user_code)
    with here.database.writing() as session:
        rules.decide(session, device.user_code, None, here.now())
    return Denial()


@device_pages.get("/device")
def page() -> tuple[str, int]:
    here, typed = service(), request.args.get("code", "")
    try:
        device = _found(here, typed) if typed else None
        mine = _mine_if_signed_in(here) if device else None
    except CoterieError as error:
        return _rendered(here, typed=typed, problem=error), error.status
    return _rendered(here, device=device and _asking(here, device), mine=mine), 200


def _rendered(here: Service, **facts: Any) -> str:
    days = [(number, f"{number} days") for number in rules.DAYS]
    return render_template(
        "device.html",
        policy=here.policy,
        base_name=here.settings.base_name,
        uri=here.settings.public_uri,
        days=days,
        base_hash=here.base_hash,
        **{"device": None, "mine": None, "typed": "", "problem": None, **facts},
    )


def _asking(here: Service, device: Device) -> Asking:
    state, grant = device.state, None
    if state == "pending" and here.now() >= device.expires:
        state = "expired"
    if device.grant_id:
        with here.database.reading() as session:
            grant, _ = grants.granted(session, device.grant_id)
    return Asking(device.shown_code, device.name, device.node_key, node_key.fingerprint(device.node_key), state, grant)


def _mine_if_signed_in(here: Service) -> Mine | None:
    try:
        wallet = signed_in(here)
    except NotSignedIn:
        return None
    return _mine(here, wallet)


def _mine(here: Service, wallet: Address) -> Mine:
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    found: Sequence[Verdict] = verdicts_for(rpc, here.policy, wallet, snapshot, here.sources)
    return Mine(wallet, snapshot, tuple(sorted(found, key=lambda one: (not one.allow, one.collection, one.token))))


def _pending(here: Service, typed: str) -> Device:
    device = _found(here, typed)
    rules.require_pending(device, here.now())
    return device


def _found(here: Service, typed: str) -> Device:
    """The machine with this code; a wrong one is counted.

    Raises:
        BadInput, NotFound, TooMany: it cannot be a code, is nobody's, or too many were wrong before.
    """
    code, source, now = rules.read_code(typed), _source(), here.now()
    with here.database.reading() as session:
        rules.require_guesses_left(session, source, now)
        device = rules.find(session, code)
    if device:
        return device
    with here.database.writing() as session:
        rules.note_wrong_code(session, source, now)
    raise NotFound(
        f"No machine waits with the code {rules.shown(code)}.", "Compare it with the terminal, letter by letter."
    )


def _source() -> str:
    return rules.source_of(request.remote_addr)
