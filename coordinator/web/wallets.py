"""A member's wallets and sessions: signing in from a browser, linking a second wallet, ending sessions."""

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify, render_template
from pydantic import BaseModel

from contracts_abi.model import Address
from coordinator.identity.members import link, link_statement, require_link_statement, unlink, wallets_of
from coordinator.identity.sessions import end_sessions, open_sessions, session_id_of
from coordinator.web.api import nonce, open_session
from coordinator.web.requests import (
    body_of,
    cookie_name,
    is_https,
    require_own_page,
    session_token,
    signed_in,
)
from coordinator.web.service import service
from protocol.errors import NotSignedIn
from protocol.sign_in import STATEMENT, sign_in_message

wallets = Blueprint("wallets", __name__)


class SignInTextRequest(BaseModel):
    address: Address
    link_to: Address | None = None
    """For linking: the wallet that is signed in, to whose member the address is to be linked."""


class LinkRequest(BaseModel):
    message: str
    signature: str


class UnlinkRequest(BaseModel):
    wallet: Address


class EndRequest(BaseModel):
    which: str
    """``this``, ``all`` or a session's id."""


@wallets.post("/api/v1/session/text")
def sign_in_text() -> Response:
    here, asked = service(), body_of(SignInTextRequest)
    settings = here.settings
    given = nonce().get_json()["nonce"]
    message = sign_in_message(
        asked.address,
        settings.domain,
        settings.public_uri,
        here.policy.chain_id,
        given,
        datetime.fromtimestamp(here.now(), UTC),
        link_statement(asked.link_to) if asked.link_to else STATEMENT,
    )
    return jsonify(address=asked.address, message=message)


@wallets.post("/api/v1/session/browser")
def open_browser_session() -> Response:
    here = service()
    require_own_page(here)
    opened = open_session().get_json()
    answer = jsonify(wallet=opened["wallet"], expires=opened["expires"])
    answer.set_cookie(
        cookie_name(here),
        opened["token"],
        max_age=opened["expires"] - here.now(),
        path="/",
        secure=is_https(here),
        httponly=True,
        samesite="Strict",
    )
    return answer


@wallets.get("/api/v1/sessions")
def list_sessions() -> Response:
    here = service()
    wallet, this = signed_in(here), session_id_of(session_token(here))
    with here.database.reading() as session:
        found = open_sessions(session, wallets_of(session, wallet), here.now())
    return jsonify([{**asdict(one), "this": one.session_id == this} for one in found])


@wallets.post("/api/v1/sessions/end")
def end() -> Response:
    here, asked = service(), body_of(EndRequest)
    wallet, this = signed_in(here), session_id_of(session_token(here))
    which = {"this": this, "all": None}.get(asked.which, asked.which)
    with here.database.writing() as session:
        ended = end_sessions(session, wallets_of(session, wallet), which)
    answer = jsonify(ended=ended)
    if which in (None, this):
        answer.delete_cookie(cookie_name(here), path="/", httponly=True, samesite="Strict", secure=is_https(here))
    return answer


@wallets.get("/api/v1/wallets")
def list_wallets() -> Response:
    here = service()
    wallet = signed_in(here)
    with here.database.reading() as session:
        return jsonify(wallet=wallet, wallets=wallets_of(session, wallet))


@wallets.post("/api/v1/wallets/link")
def link_wallet() -> Response:
    """The session is the first wallet's, the message and its signature the second's."""
    here, asked = service(), body_of(LinkRequest)
    wallet = signed_in(here)
    require_link_statement(asked.message, wallet)
    opened = open_session().get_json()  # checks message, nonce and signature; the session itself is not wanted
    with here.database.writing() as session:
        end_sessions(session, [opened["wallet"]], session_id_of(opened["token"]))
        return jsonify(wallet=wallet, wallets=link(session, wallet, opened["wallet"], here.now()))


@wallets.post("/api/v1/wallets/unlink")
def unlink_wallet() -> Response:
    here, asked = service(), body_of(UnlinkRequest)
    wallet = signed_in(here)
    with here.database.writing() as session:
        return jsonify(wallet=wallet, wallets=unlink(session, wallet, asked.wallet))


@wallets.get("/wallets")
def page() -> str:
    here = service()
    facts: dict[str, object] = {"wallet": None}
    with suppress(NotSignedIn):
        wallet = signed_in(here)
        with here.database.reading() as session:
            linked = wallets_of(session, wallet)
            found = open_sessions(session, linked, here.now())
        facts = {"wallet": wallet, "linked": linked, "sessions": found, "this": session_id_of(session_token(here))}
    return render_template("wallets.html", policy=here.policy, uri=here.settings.public_uri, **facts)
