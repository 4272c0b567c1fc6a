"""A member's wallets and sessions: signing in from a browser, linking a second wallet, ending sessions."""

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from flask import Blueprint, Response, after_this_request, render_template
from pydantic import RootModel

from contracts_abi.model import Address
from coordinator.identity.members import link, link_statement, require_link_statement, unlink, wallets_of
from coordinator.identity.sessions import end_sessions, open_sessions, session_id_of
from coordinator.web.api import SignInRequest, opened
from coordinator.web.asking import fresh_nonce
from coordinator.web.openapi import Answer, Request, Routes
from coordinator.web.requests import (
    cookie_name,
    is_https,
    require_own_page,
    session_token,
    signed_in,
)
from coordinator.web.service import service
from protocol.errors import NotSignedIn
from protocol.sign_in import STATEMENT, sign_in_message

wallets = Routes("wallets", __name__, tag="Wallets and sessions")
wallet_pages = Blueprint("wallet_pages", __name__)


class SignInTextRequest(Request):
    address: Address
    link_to: Address | None = None
    """For linking: the wallet that is signed in, to whose member the address is to be linked."""


class LinkRequest(Request):
    message: str
    signature: str


class UnlinkRequest(Request):
    wallet: Address


class EndRequest(Request):
    which: str
    """``this``, ``all`` or a session's id."""


class SignInText(Answer):
    address: Address
    message: str


class BrowserSession(Answer):
    wallet: Address
    expires: int
    """Unix seconds."""


class ListedSession(Answer):
    session_id: str
    wallet: Address
    began: int
    ends: int
    this: bool
    """Whether it is the one that asks."""


class Sessions(RootModel[tuple[ListedSession, ...]]):
    pass


class EndedSessions(Answer):
    ended: int
    """How many."""


class MemberWallets(Answer):
    wallet: Address
    """The one that is signed in."""
    wallets: tuple[Address, ...]


@wallets.post("/api/v1/session/text")
def sign_in_text(body: SignInTextRequest) -> SignInText:
    """The EIP-4361 text for a browser's wallet, with a fresh nonce; or the text that links it to a member."""
    here = service()
    settings = here.settings
    message = sign_in_message(
        body.address,
        settings.domain,
        settings.public_uri,
        here.policy.chain_id,
        fresh_nonce(here),
        datetime.fromtimestamp(here.now(), UTC),
        link_statement(body.link_to) if body.link_to else STATEMENT,
    )
    return SignInText(address=body.address, message=message)


@wallets.post("/api/v1/session/browser")
def open_browser_session(body: SignInRequest) -> BrowserSession:
    """Sign in from our own page: the session comes as a cookie that no script can read."""
    here = service()
    require_own_page(here)
    session = opened(here, body.message, body.signature)

    @after_this_request
    def remembered(answer: Response) -> Response:
        answer.set_cookie(
            cookie_name(here),
            session.token,
            max_age=session.expires - here.now(),
            path="/",
            secure=is_https(here),
            httponly=True,
            samesite="Strict",
        )
        return answer

    return BrowserSession(wallet=session.wallet, expires=session.expires)


@wallets.get("/api/v1/sessions")
def list_sessions() -> Sessions:
    """The open sessions of the member's wallets, without their tokens."""
    here = service()
    wallet, this = signed_in(here), session_id_of(session_token(here))
    with here.database.reading() as session:
        found = open_sessions(session, wallets_of(session, wallet), here.now())
    return Sessions(tuple(ListedSession(**asdict(one), this=one.session_id == this) for one in found))


@wallets.post("/api/v1/sessions/end")
def end(body: EndRequest) -> EndedSessions:
    """End one session of the member's wallets, or all."""
    here = service()
    wallet, this = signed_in(here), session_id_of(session_token(here))
    which = {"this": this, "all": None}.get(body.which, body.which)
    with here.database.writing() as session:
        ended = end_sessions(session, wallets_of(session, wallet), which)
    if which in (None, this):
        after_this_request(_forgotten)
    return EndedSessions(ended=ended)


def _forgotten(answer: Response) -> Response:
    here = service()
    answer.delete_cookie(cookie_name(here), path="/", httponly=True, samesite="Strict", secure=is_https(here))
    return answer


@wallets.get("/api/v1/wallets")
def list_wallets() -> MemberWallets:
    """All wallets of the member."""
    here = service()
    wallet = signed_in(here)
    with here.database.reading() as session:
        return MemberWallets(wallet=wallet, wallets=tuple(wallets_of(session, wallet)))


@wallets.post("/api/v1/wallets/link")
def link_wallet(body: LinkRequest) -> MemberWallets:
    """Link a second wallet: the session is the first wallet's, the message and its signature the second's."""
    here = service()
    wallet = signed_in(here)
    require_link_statement(body.message, wallet)
    second = opened(here, body.message, body.signature)  # checks all of it; the session itself is not wanted
    with here.database.writing() as session:
        end_sessions(session, [second.wallet], session_id_of(second.token))
        return MemberWallets(wallet=wallet, wallets=tuple(link(session, wallet, second.wallet, here.now())))


@wallets.post("/api/v1/wallets/unlink")
def unlink_wallet(body: UnlinkRequest) -> MemberWallets:
    """Take a wallet out of the member; the wallets that stay."""
    here = service()
    wallet = signed_in(here)
    with here.database.writing() as session:
        return MemberWallets(wallet=wallet, wallets=tuple(unlink(session, wallet, body.wallet)))


@wallet_pages.get("/wallets")
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
