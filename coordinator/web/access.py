"""Who may use which route: one table, and nothing is served that is not in it.

Where a session is needed, it is asked for before the view begins. What only the thing itself can tell (whose it is,
whether an order is signed by the right wallet) the view asks; ``Who`` names it, so that tests can go over every
route with every kind of caller.
"""

from collections.abc import Mapping
from enum import StrEnum

from flask import Flask, g, request

from coordinator.web.requests import require_no_other_site, route_of, signed_in
from coordinator.web.service import service


class Who(StrEnum):
    """Whom a route is for. A session can do no admin's act, whoever's it is."""

    VISITOR = "anyone"
    MEMBER = "a session"
    OWNER = "a session of whoever it belongs to"
    ADMIN = "a session of an admin's wallet, to look and not to act"
    WALLET = "a message that the wallet has signed"
    MEMBER_ORDER = "an order that the member's wallet has signed"
    ADMIN_ORDER = "an order that an admin's wallet has signed"
    NODE = "an order that the node key has signed"
    NODE_MESSAGE = "a message that the node key has signed"
    DEVICE = "the machine's own secret"
    OWN_PAGE = "one of our own pages"


SESSIONS = frozenset({Who.MEMBER, Who.OWNER, Who.ADMIN})
"""Those who come with a session."""

ONCE = frozenset({Who.OWNER, Who.MEMBER_ORDER, Who.ADMIN_ORDER, Who.NODE})
"""Whose acts are done once where they come with an Idempotency-Key: grants and orders."""

WHO: Mapping[str, Who] = {
    # app.py
    "GET /healthz": Who.VISITOR,
    "GET /static/<path:filename>": Who.VISITOR,
    "GET /api/v1/openapi.json": Who.VISITOR,
    # api.py
    "GET /api/v1/dao": Who.VISITOR,
    "GET /api/v1/nonce": Who.VISITOR,
    "POST /api/v1/session": Who.WALLET,
    "GET /api/v1/verdicts": Who.MEMBER,
    "POST /api/v1/grants": Who.OWNER,
    "GET /api/v1/grants/<grant_id>": Who.VISITOR,
    "POST /api/v1/rounds": Who.ADMIN_ORDER,
    "GET /api/v1/rounds": Who.VISITOR,
    "GET /api/v1/rounds/<round_id>": Who.VISITOR,
    "GET /api/v1/releases": Who.VISITOR,
    "GET /api/v1/releases/latest": Who.VISITOR,
    "GET /api/v1/events": Who.VISITOR,
    # acts.py
    "POST /api/v1/rounds/<round_id>/cancellation": Who.ADMIN_ORDER,
    "POST /api/v1/contributions/<contribution_id>/removal": Who.ADMIN_ORDER,
    "POST /api/v1/grants/<grant_id>/revocation": Who.MEMBER_ORDER,
    # progress.py
    "POST /api/v1/rounds/<round_id>/progress": Who.NODE_MESSAGE,
    # round_acts.py
    "POST /api/v1/rounds/<round_id>/pause": Who.ADMIN_ORDER,
    "POST /api/v1/rounds/<round_id>/resumption": Who.ADMIN_ORDER,
    "POST /api/v1/rounds/<round_id>/extension": Who.ADMIN_ORDER,
    "POST /api/v1/rounds/<round_id>/publication": Who.ADMIN_ORDER,
    "POST /api/v1/contributions/<contribution_id>/quarantine": Who.ADMIN_ORDER,
    "POST /api/v1/contributions/<contribution_id>/acceptance": Who.ADMIN_ORDER,
    # proposals.py
    "POST /api/v1/acts/typed-data": Who.MEMBER,
    # devices.py
    "GET /device": Who.VISITOR,
    "POST /api/v1/devices": Who.VISITOR,
    "POST /api/v1/devices/poll": Who.DEVICE,
    "POST /api/v1/devices/proposal": Who.MEMBER,
    "POST /api/v1/devices/grant": Who.OWNER,
    "POST /api/v1/devices/deny": Who.OWN_PAGE,
    "POST /api/v1/node-keys/retire": Who.NODE,
    # wallets.py
    "GET /wallets": Who.VISITOR,
    "POST /api/v1/session/text": Who.VISITOR,
    "POST /api/v1/session/browser": Who.WALLET,
    "GET /api/v1/sessions": Who.MEMBER,
    "POST /api/v1/sessions/end": Who.MEMBER,
    "GET /api/v1/wallets": Who.MEMBER,
    "POST /api/v1/wallets/link": Who.MEMBER,
    "POST /api/v1/wallets/unlink": Who.MEMBER,
    # gateway.py
    "GET /ipfs/<cid>": Who.VISITOR,
    "GET /ipfs/<cid>/<path:path>": Who.VISITOR,
    # public/pages.py
    "GET /": Who.VISITOR,
    "GET /releases": Who.VISITOR,
    "GET /releases/<int:number>": Who.VISITOR,
    "GET /releases/compare": Who.VISITOR,
    "GET /rounds": Who.VISITOR,
    "GET /rounds/<round_id>": Who.VISITOR,
    "GET /rounds/<round_id>/progress": Who.VISITOR,
    "GET /left-out": Who.VISITOR,
    "GET /rules": Who.VISITOR,
    "GET /rules/<digest>.json": Who.VISITOR,
    "GET /log": Who.VISITOR,
    "GET /log/lines": Who.VISITOR,
    # own/pages.py
    "GET /me": Who.VISITOR,
    "GET /me/nfts": Who.VISITOR,
    "GET /me/machines": Who.VISITOR,
    "GET /api/v1/contributions/<contribution_id>/adapter": Who.OWNER,
    "POST /api/v1/grants/<grant_id>/renewal": Who.OWNER,
    # desk/pages.py
    "GET /admin": Who.ADMIN,
    "GET /admin/rounds/new": Who.ADMIN,
    "POST /admin/rounds/new": Who.ADMIN,
    "GET /admin/rounds/<round_id>": Who.ADMIN,
    "GET /admin/rounds/<round_id>/now": Who.ADMIN,
    "GET /admin/rounds/<round_id>/alike": Who.ADMIN,
    "GET /admin/contributions/<contribution_id>": Who.ADMIN,
    "GET /admin/policy": Who.ADMIN,
    "POST /admin/policy": Who.ADMIN,
    "GET /admin/removals": Who.ADMIN,
    "GET /admin/health": Who.ADMIN,
    "POST /admin/health/pins": Who.ADMIN,
    "GET /api/v1/health": Who.ADMIN,
    # stream.py
    "GET /api/v1/events/stream": Who.VISITOR,
}


def guard(app: Flask) -> None:
    """Have the table hold for all routes that ``app`` has. Raises LookupError when it does not name exactly these."""
    routes = {f"{m} {rule.rule}" for rule in app.url_map.iter_rules() for m in (rule.methods or set()) - _AUTOMATIC}
    if difference := routes ^ set(WHO):
        raise LookupError(f"Routes and the table in coordinator/web/access.py differ: {sorted(difference)}.")
    app.before_request(_admit)


_AUTOMATIC = {"HEAD", "OPTIONS"}
_SAFE = {"GET", *_AUTOMATIC}


def _admit() -> None:
    """Raises NotAllowed when another site's page asks for an act, NotSignedIn when a session is needed,
    NotAllowed where it has to be an admin's and is not, Unreachable when the chain does not say whether it is."""
    here = service()
    g.pop("wallet", None)  # where an outer context outlives requests, it is not to outlive this one
    if request.method not in _SAFE:
        require_no_other_site(here)
    who = WHO.get(route_of())
    if who in SESSIONS:
        wallet = signed_in(here)
        if who is Who.ADMIN:
            here.seats.of(lambda: here.rpc, here.policy, wallet)
