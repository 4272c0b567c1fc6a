"""Device login: what a machine without a wallet asks over HTTP, and the page where a person answers with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify, render_template, request
from pydantic import BaseModel, Field

from contracts_abi.model import Address, Snapshot, Token
from coordinator.eligibility.verdicts import take_snapshot, verdicts_for
from coordinator.identity import devices as rules
from coordinator.identity import grants
from coordinator.identity.devices import Device
from coordinator.web.api import give_grant
from coordinator.web.requests import body_of, require_own_page, signed_in
from coordinator.web.service import Service, service
from protocol import node_key
from protocol.errors import BadInput, ContributionRefused, CoterieError, NotAllowed, NotFound, NotSignedIn
from protocol.grant import Grant
from protocol.policy import Verdict
from protocol.typed_data import json_for_wallets

DAY_SECONDS = 24 * 3600
devices = Blueprint("devices", __name__)


class DeviceRequest(BaseModel):
    node_key: Annotated[str, Field(pattern=r"^0[23][0-9a-f]{96}$")]
    name: str


class RetireRequest(BaseModel):
    retire_key: node_key.RetireKey
    signature: str


class PollRequest(BaseModel):
    device_code: str


class CodeRequest(BaseModel):
    user_code: str


class ProposalRequest(CodeRequest):
    tokens: tuple[Token, ...]
    days: int


class GrantForDevice(CodeRequest):
    grant: Grant


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


@devices.post("/api/v1/devices")
def ask() -> tuple[Response, int]:
    here, asked = service(), body_of(DeviceRequest)
    node_key.public_pem(asked.node_key)  # refuses what is no point of the curve
    with here.database.writing() as session:
        secret, device = rules.open_device(session, asked.node_key, asked.name, _source(), here.now())
    link = f"{here.settings.public_uri}/device"
    return jsonify(
        device_code=secret,
        user_code=device.shown_code,
        verification_uri=link,
        verification_uri_complete=f"{link}?code={device.shown_code}",
        expires_in=device.expires - here.now(),
        interval=device.interval,
    ), 201


@devices.post("/api/v1/devices/poll")
def poll() -> Response:
    here, asked = service(), body_of(PollRequest)
    with here.database.writing() as session:
        told, grant_id = rules.poll(session, asked.device_code, here.now())
        if grant_id is None:
            return jsonify(state=told.state, interval=told.interval)
        grant, row = grants.granted(session, grant_id)
        return jsonify(
            state=told.state, interval=told.interval, grant=grant.model_dump(mode="json"), signature=row.signature
        )


@devices.post("/api/v1/node-keys/retire")
def retire() -> Response:
    """The old key's own signature is the authorisation, and a newer grant, which the wallet has signed."""
    here, asked = service(), body_of(RetireRequest)
    order = asked.retire_key
    if order.dao != here.policy.dao:
        raise NotAllowed(f"The order is for another DAO: {order.dao}, not {here.policy.dao}.", "Sign it for this one.")
    try:
        node_key.verify(order.old, order.canonical(), asked.signature)
    except ContributionRefused as error:
        raise NotAllowed(
            "The order is not signed with the old node key.", "Sign it on the machine that has it."
        ) from error
    with here.database.reading() as session:
        node_id = grants.require_replaced_key(session, order.old, order.new, here.now())
    here.unregister_node(node_id)
    return jsonify(retired=order.old)


# The person's side ----------------------------------------------------------------------------------------------------


@devices.post("/api/v1/devices/proposal")
def propose() -> Response:
    here, asked = service(), body_of(ProposalRequest)
    mine = _mine(here, signed_in(here))
    device = _pending(here, asked.user_code)
    if asked.days not in rules.DAYS:
        raise BadInput(f"A grant lasts {', '.join(map(str, rules.DAYS))} days.", "Choose one of these.")
    verdicts = {verdict.token: verdict for verdict in mine.verdicts}
    if other := next((token for token in asked.tokens if token not in verdicts), None):
        raise NotAllowed(f"{other} is not {mine.wallet}'s.", "Load the page again: it may have been sold.")
    chosen = [verdicts[token] for token in dict.fromkeys(asked.tokens)]
    expires = here.now() + asked.days * DAY_SECONDS
    grant = rules.proposed(here.policy, here.base_hash, mine.wallet, chosen, device.node_key, expires)
    return jsonify(grant=grant.model_dump(mode="json"), typed_data=json_for_wallets(grant.typed_data()))


@devices.post("/api/v1/devices/grant")
def grant_to_device() -> tuple[Response, int]:
    here, asked = service(), body_of(GrantForDevice)
    signed_in(here)
    device = _pending(here, asked.user_code)
    if asked.grant.node_key != device.node_key:
        raise NotAllowed("The grant is for another machine's node key.", "Load the page again and sign again.")
    answer, status = give_grant()  # the same body, checked as every grant is
    with here.database.writing() as session:
        rules.decide(session, device.user_code, answer.get_json()["grant_id"], here.now())
    return answer, status


@devices.post("/api/v1/devices/deny")
def deny() -> Response:
    here, asked = service(), body_of(CodeRequest)
    require_own_page(here)
    device = _pending(here, asked.user_code)
    with here.database.writing() as session:
        rules.decide(session, device.user_code, None, here.now())
    return jsonify(state="denied")


@devices.get("/device")
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
