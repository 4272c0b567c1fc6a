"""A browser's wallet: the text that it signs to sign in, and the session that a cookie carries."""

from dataclasses import asdict
from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify
from pydantic import BaseModel

from contracts_abi.model import Address
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
from protocol.sign_in import sign_in_message

wallets = Blueprint("wallets", __name__, url_prefix="/api/v1")


class SignInTextRequest(BaseModel):
    address: Address


class EndRequest(BaseModel):
    which: str
    """``this``, ``all`` or a session's id."""


@wallets.post("/session/text")
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
    )
    return jsonify(address=asked.address, message=message)


@wallets.post("/session/browser")
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


@wallets.get("/sessions")
def list_sessions() -> Response:
    here = service()
    wallet, this = signed_in(here), session_id_of(session_token(here))
    with here.database.reading() as session:
        found = open_sessions(session, [wallet], here.now())
    return jsonify([{**asdict(one), "this": one.session_id == this} for one in found])


@wallets.post("/sessions/end")
def end() -> Response:
    here, asked = service(), body_of(EndRequest)
    wallet, this = signed_in(here), session_id_of(session_token(here))
    which = {"this": this, "all": None}.get(asked.which, asked.which)
    with here.database.writing() as session:
        ended = end_sessions(session, [wallet], which)
    answer = jsonify(ended=ended)
    if which in (None, this):
        answer.delete_cookie(cookie_name(here), path="/", httponly=True, samesite="Strict", secure=is_https(here))
    return answer
