"""A member's own page: what taking part means, where they stand, NFTs, grants, machines, contributions, their adapter.

Pages are quick, from the database alone. What the chain or the SuperLink has to be asked for is a part of its own,
which the page fetches; it is a whole page too, for browsers without JavaScript.
"""

from collections.abc import Mapping
from contextlib import suppress

from flask import Blueprint, Response, render_template, request, send_file
from pydantic import JsonValue

from contracts_abi.delegation import REGISTRY, vaults_of
from contracts_abi.model import Address, Snapshot
from coordinator.eligibility.verdicts import recheck, take_snapshot, verdicts_for
from coordinator.identity import devices as rules
from coordinator.identity import grants
from coordinator.identity.members import wallets_of
from coordinator.rounds.ledger import ADAPTER
from coordinator.web.openapi import Answer, Request, Routes
from coordinator.web.own.part import Holding, OwnPart, Seen, cards, known_holdings, own_part, require_own, with_seen
from coordinator.web.public.pages import at_hand
from coordinator.web.requests import signed_in
from coordinator.web.service import Service, service
from coordinator.wiring import superlink_control
from protocol.errors import BadInput, CoterieError, NotAllowed, NotFound, NotSignedIn
from protocol.modes import Mode
from protocol.policy import Verdict
from protocol.typed_data import json_for_wallets

DAY_SECONDS = 24 * 3600
KEPT_SECRET = {
    Mode.SECAGG: "In a round with a secret sum nobody but your machine ever has your adapter.",
    Mode.DP: "In a round with noise the coordinator has your update with its noise only; your machine has the adapter.",
}

member = Blueprint("member", __name__)
member_api = Routes("member_api", __name__, tag="Members", url_prefix="/api/v1")


# Pages ----------------------------------------------------------------------------------------------------------------


@member.get("/me")
def me() -> str:
    here = service()
    return _page("me.html", here, _part_if_signed_in(here))


@member.get("/me/nfts")
def me_nfts() -> str:
    """Asks the chain; where that does not answer, shows what the database knows."""
    here = service()
    part = _part_if_signed_in(here)
    if part is None:
        return _page("me.html", here, None)
    problem: CoterieError | None = None
    snapshot: Snapshot | None = None
    vaults: dict[Address, list[Address]] = {}
    try:
        found, snapshot, vaults = _asked(here, part)
    except CoterieError as error:
        problem = error
        with here.database.reading() as session:
            found = known_holdings(session, part)
    shown = cards(found, part)
    return _page(
        "me_nfts.html", here, part, cards=shown, problem=problem, snapshot=snapshot, vaults=vaults, registry=REGISTRY
    )


@member.get("/me/machines")
def me_machines() -> str:
    """Asks the SuperLink which machines are connected; without its answer, shows the rest."""
    here = service()
    part = _part_if_signed_in(here)
    seen: Mapping[int, Seen] | None = None
    if part and part.nodes:
        with suppress(CoterieError):
            seen = {number: Seen(*told) for number, told in superlink_control(here.settings).last_seen().items()}
            part = with_seen(part, seen)
    return _page("me_machines.html" if part else "me.html", here, part, asked=True, silent=seen is None)


def _page(template: str, here: Service, part: OwnPart | None, **facts: object) -> str:
    days = [(number, f"{number} days") for number in rules.DAYS]
    return render_template(
        template,
        me=part,
        wallet=signed_in(here) if part else None,
        uri=here.settings.public_uri,
        partial=_is_part(),
        now=here.now(),
        days=days,
        **facts,
    )


def _is_part() -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("HX-Request") == "true"


def _part_if_signed_in(here: Service) -> OwnPart | None:
    try:
        wallet = signed_in(here)
    except NotSignedIn:
        if _is_part():
            raise  # a page that refreshes itself keeps what it shows
        return None
    with here.database.reading() as session:
        wallets = wallets_of(session, wallet)
        return own_part(session, at_hand(here).memory, wallets, here.policy, here.base_hash, here.now(), {})


def _asked(here: Service, part: OwnPart) -> tuple[tuple[Holding, ...], Snapshot, dict[Address, list[Address]]]:
    """The verdict on every token of the member's wallets and vaults now, and each wallet's vaults.

    Raises:
        Unreachable: the chain does not answer.
    """
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    contracts = [rule.contract for rule in here.policy.collections]
    found: list[Holding] = []
    vaults: dict[Address, list[Address]] = {}
    for wallet in part.wallets:
        vaults[wallet] = vaults_of(rpc, wallet, contracts, snapshot)
        verdicts = verdicts_for(rpc, here.policy, wallet, snapshot, here.sources)
        found += (_held(verdict, wallet, vaults[wallet]) for verdict in verdicts)
    return tuple(found), snapshot, vaults


def _held(verdict: Verdict, wallet: Address, vaults: list[Address]) -> Holding:
    """A verdict on what is in a vault names the vault."""
    vault = next((one for one in vaults if one in verdict.reason), None)
    return Holding(verdict, vault or wallet, in_vault=vault is not None)


# JSON and files -------------------------------------------------------------------------------------------------------


class GrantPath(Request):
    grant_id: str


class ContributionPath(Request):
    contribution_id: str


class RenewalRequest(Request):
    days: int
    """How long from now: one of the usual times."""


class Renewal(Answer):
    grant: dict[str, JsonValue]
    typed_data: str
    """JSON for ``eth_signTypedData_v4``."""
    left_out: tuple[str, ...]
    """Tokens of the old grant that are admitted no longer, each with the reason."""


@member_api.post("/grants/<grant_id>/renewal")
def propose_renewal(path: GrantPath, body: RenewalRequest) -> Renewal:
    """The grant to sign so that the same machine goes on with the same NFTs, as far as they are still admitted."""
    here, wallet = service(), signed_in(service())
    if body.days not in rules.DAYS:
        raise BadInput(f"A grant lasts {', '.join(map(str, rules.DAYS))} days.", "Choose one of these.")
    with here.database.reading() as session:
        old, row = grants.granted(session, path.grant_id)
    if old.member != wallet:
        raise NotAllowed(f"Grant {path.grant_id} is {old.member}'s.", "Sign in with the wallet that gave it.")
    if row.replaced:
        raise NotAllowed("This grant counts no more.", "Renew the newer one, or run coterie join on the machine.")
    rpc = here.rpc
    found = recheck(rpc, here.policy, old, take_snapshot(rpc, here.policy))
    admitted = [verdict for verdict in found if verdict.allow]
    expires = here.now() + body.days * DAY_SECONDS
    grant = rules.proposed(here.policy, here.base_hash, wallet, admitted, old.node_key, expires)
    return Renewal(
        grant=grant.model_dump(mode="json"),
        typed_data=json_for_wallets(grant.typed_data()),
        left_out=tuple(f"{v.collection} #{v.token.token_id}: {v.reason}" for v in found if not v.allow),
    )


@member_api.get("/contributions/<contribution_id>/adapter", file="application/octet-stream")
def own_adapter(path: ContributionPath) -> Response:
    """The adapter as the member's machine sent it, for any wallet of the member's."""
    here = service()
    wallet = signed_in(here)
    with here.database.reading() as session:
        row, mode = require_own(session, path.contribution_id, wallets_of(session, wallet))
    if mode in KEPT_SECRET:
        raise NotFound(KEPT_SECRET[mode], "Run coterie adapter on the machine that trained.")
    file = here.settings.contributions / row.contribution_id / ADAPTER
    if row.state == "refused" or not file.is_file():
        raise NotFound("The coordinator keeps no file of this contribution.", "Run coterie adapter on the machine.")
    answer = send_file(
        file.resolve(),
        mimetype="application/octet-stream",
        as_attachment=True,
        download_name=f"my-adapter-{row.round_id}-{row.contribution_id}.safetensors",
        conditional=True,
    )
    answer.headers["Cache-Control"] = "private, no-store"
    return answer
