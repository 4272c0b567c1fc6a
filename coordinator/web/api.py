"""The JSON API, version 1: the DAO, signing in, grants, rounds, releases, events."""

from typing import Annotated, Any

from flask import request
from pydantic import Field, RootModel

from contracts_abi.admin import require_admin
from contracts_abi.model import Address, Snapshot
from contracts_abi.signatures import at_block
from coordinator.eligibility.verdicts import denied_of, opening_verdicts, recheck, take_snapshot, verdicts_for
from coordinator.identity import grants, sign_in
from coordinator.releases.signing import shown_key
from coordinator.rounds import events
from coordinator.rounds.acts import revoked_at
from coordinator.rounds.events import Event
from coordinator.rounds.parts import Part
from coordinator.web import views
from coordinator.web.asking import asker, fresh_nonce
from coordinator.web.openapi import Answer, Request, Routes, point_to_next
from coordinator.web.requests import signed_in
from coordinator.web.service import Service, service
from coordinator.web.views import ReleaseView, RoundView
from protocol import node_key
from protocol.acts import require_current
from protocol.errors import BadInput, NotAllowed, NotFound
from protocol.grant import Grant, Hash, StartRound, require_signer
from protocol.policy import Policy, Verdict

MAX_SIGN_IN_BODY = 8192
"""The message has 2 kB of it at most; the rest is for the signature of a wallet that is not deployed yet (ERC-6492)."""
PAGE, MAX_PAGE = 100, 500
"""How many entries of a list come at once: where nothing is asked for, and at most."""
api = Routes("api", __name__, tag="Coordinator", url_prefix="/api/v1")
Number = Annotated[int, Field(ge=0, lt=10**15)]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]


class SignInRequest(Request):
    message: str
    signature: str


class StartRoundRequest(Request):
    start_round: StartRound
    signature: str


class GrantPath(Request):
    grant_id: str


class RoundPath(Request):
    round_id: str


class Older(Request):
    """A piece of a list that begins with the newest."""

    limit: Limit = PAGE
    after: Annotated[Number | None, Field(description="The number of the last one that came before.")] = None


class Newer(Request):
    """A piece of the log, which begins with the oldest."""

    limit: Limit = 2 * PAGE
    after: Annotated[Number, Field(description="The number of the last one that came before.")] = 0


class Base(Answer):
    """The frozen base model, by name and hash."""

    name: str
    hash: Hash


class SuperLink(Answer):
    """Where SuperNodes connect: host:port, and the PEM certificate that it is known by."""

    address: str
    root_certificate: str


class Dao(Answer):
    """Everything that one has to know before signing anything."""

    name: str
    purpose: str
    chain_id: int
    domain: str
    uri: str
    policy: Policy
    policy_hash: Hash
    base: Base
    superlink: SuperLink
    gateways: tuple[str, ...]
    signing_key: str | None
    """What releases are signed with: its public half, PEM; null before there is one."""


class Nonce(Answer):
    nonce: str


class OpenedSession(Answer):
    token: str
    wallet: Address
    expires: int
    """Unix seconds."""


class Eligibility(Answer):
    """All of a wallet's tokens in the policy's collections, each with its verdict, at a finalized block."""

    wallet: Address
    snapshot: Snapshot
    verdicts: tuple[Verdict, ...]


class GivenGrant(Answer):
    grant_id: str


class ShownGrant(Answer):
    grant_id: str
    grant: Grant
    signature: str
    given_at: int
    signed_at: Snapshot
    """The block at which the signature held."""
    replaced: bool
    revoked_at: int | None
    newer: str | None
    """The id of the grant that has replaced this one for the same node key: a renewal."""


class StartedRound(Answer):
    round_id: str


class Round(RootModel[RoundView]):
    pass


class Rounds(RootModel[tuple[RoundView, ...]]):
    pass


class Release(RootModel[ReleaseView]):
    pass


class Releases(RootModel[tuple[ReleaseView, ...]]):
    pass


class Events(RootModel[tuple[Event, ...]]):
    pass


@api.get("/dao")
def dao() -> Dao:
    """Who the DAO is, its policy, its base, and where to connect."""
    here = service()
    settings, link = here.settings, here.superlink()
    return Dao(
        name=here.policy.dao,
        purpose=here.policy.purpose,
        chain_id=here.policy.chain_id,
        domain=settings.domain,
        uri=settings.public_uri,
        policy=here.policy,
        policy_hash=here.policy.digest(),
        base=Base(name=settings.base_name, hash=here.base_hash),
        superlink=SuperLink(address=link.address, root_certificate=link.root_certificate),
        gateways=(settings.public_uri, *settings.gateways),
        signing_key=shown_key(settings.credentials),
    )


@api.get("/nonce")
def nonce() -> Nonce:
    """A nonce to sign in with: good once, for some minutes, and with the cookie that comes with it."""
    return Nonce(nonce=fresh_nonce(service()))


@api.post("/session")
def open_session(body: SignInRequest) -> OpenedSession:
    """Sign in: an EIP-4361 message and its signature for a session's token."""
    return opened(service(), body.message, body.signature)


def opened(here: Service, message: str, signature: str) -> OpenedSession:
    """A session for the wallet that signed this message with our nonce.

    Raises:
        BadInput: the request is too long to be a sign-in.
        NotSignedIn: the sign-in does not verify.
    """
    if (request.content_length or MAX_SIGN_IN_BODY + 1) > MAX_SIGN_IN_BODY:
        raise BadInput(f"A sign-in has at most {MAX_SIGN_IN_BODY} bytes and says how many it has.")
    settings = here.settings
    terms = sign_in.SignInTerms(settings.domain, settings.public_uri, here.policy.chain_id, settings.sign_in_seconds)
    signed = sign_in.verify(message, signature, terms, here.now(), here.ask_wallet)
    key, secret = here.nonce_key, asker(here)
    sign_in.require_nonce(key, secret, signed.nonce, here.now())  # nobody waits for the write lock with a wrong one
    with here.database.writing() as session:
        token, expires = sign_in.open_session(session, signed, key, secret, here.now())
    return OpenedSession(token=token, wallet=signed.wallet, expires=expires)


@api.get("/verdicts")
def verdicts() -> Eligibility:
    """The verdict on each of the wallet's tokens at the newest finalized block."""
    here = service()
    wallet, rpc = signed_in(here), here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    found = verdicts_for(rpc, here.policy, wallet, snapshot, here.sources)
    admitted = sum(v.allow for v in found)
    if admitted == 0:
        raise NotAllowed(
            f"Nothing of {wallet} may be trained on. {denied_of(found)}",
            "Sign in with a wallet that holds an admitted token.",
        )
    if admitted < here.policy.minimum_tokens:
        raise NotAllowed(f"{wallet} has {admitted} admitted tokens; the policy asks for {here.policy.minimum_tokens}.")
    return Eligibility(wallet=wallet, snapshot=snapshot, verdicts=tuple(found))


@api.post("/grants", status=201)
def give_grant(body: grants.SignedGrant) -> GivenGrant:
    """Give a grant that the session's wallet has signed, which registers its node key."""
    return GivenGrant(grant_id=stored_grant(service(), body))


def stored_grant(here: Service, signed: grants.SignedGrant) -> str:
    """Check the grant and keep it, its node key registered; its id. Raises what ``grants.check_grant`` does."""
    wallet, rpc = signed_in(here), here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    found = recheck(rpc, here.policy, signed.grant, snapshot)
    grants.check_grant(signed, wallet, here.policy, here.base_hash, found, here.now(), at_block(rpc, snapshot))
    with here.database.reading() as session:
        grants.require_free_key(session, signed.grant)
    node_id = here.register_node(node_key.public_pem(signed.grant.node_key))
    with here.database.writing() as session:
        return grants.store_grant(session, signed, node_id, snapshot, here.now())


@api.get("/grants/<grant_id>")
def show_grant(path: GrantPath) -> ShownGrant:
    """A grant, its signature, the block at which that held, and when it was revoked."""
    with service().database.reading() as session:
        grant, row = grants.granted(session, path.grant_id)
        return ShownGrant(
            grant_id=path.grant_id,
            grant=grant,
            signature=row.signature,
            given_at=row.given_at,
            signed_at=Snapshot.model_validate_json(row.snapshot),
            replaced=row.replaced,
            revoked_at=revoked_at(session, path.grant_id),
            newer=grants.newer_of(session, row),
        )


@api.post("/rounds", status=201)
def start_round(body: StartRoundRequest) -> StartedRound:
    """Open a training round."""
    here, order = service(), body.start_round
    _require_ours(here, order)
    require_current(order, here.policy.dao, here.policy.chain_id, here.now())
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    require_signer(order, body.signature, order.admin, at_block(rpc, snapshot))
    require_admin(rpc, here.policy, order.admin, snapshot)
    with here.database.reading() as session:
        live = grants.live_grants(session, order.policy_hash, order.base_hash, here.now())
    parts = [Part(grant, tuple(opening_verdicts(rpc, here.policy, grant, snapshot, here.sources))) for grant in live]
    return StartedRound(round_id=here.ledger.open_training(order, body.signature, snapshot, parts))


@api.get("/rounds")
def list_rounds(query: Older) -> Rounds:
    """The rounds, newest first."""
    with service().database.reading() as session:
        return Rounds(_piece(views.rounds(session, query.after, query.limit + 1), query))


@api.get("/rounds/<round_id>")
def show_round(path: RoundPath) -> Round:
    """One round: plan, snapshot, contributions, absences, exclusions."""
    with service().database.reading() as session:
        found = views.round_of(session, path.round_id)
    if found is None:
        raise NotFound(f"There is no round {path.round_id}.")
    return Round(found)


@api.get("/releases")
def list_releases(query: Older) -> Releases:
    """The releases with their manifests, newest first."""
    with service().database.reading() as session:
        return Releases(_piece(views.releases(session, query.after, query.limit + 1), query))


@api.get("/releases/latest")
def latest_release() -> Release:
    """The newest release."""
    with service().database.reading() as session:
        found = views.releases(session, limit=1)
    if not found:
        raise NotFound("Nothing is released yet.", "Wait for the first round to end.")
    return Release(found[0])


@api.get("/events")
def list_events(query: Newer) -> Events:
    """The lines of the log, oldest first."""
    with service().database.reading() as session:
        return Events(_piece(tuple(events.after(session, query.after, query.limit + 1)), query))


def _piece(found: tuple[Any, ...], query: Older | Newer) -> tuple[Any, ...]:
    """As much as was asked for; where there is more, the answer says where (``found`` has one more then)."""
    kept = found[: query.limit]
    if len(found) > len(kept):
        point_to_next(limit=query.limit, after=kept[-1].number)
    return kept


def _require_ours(here: Service, order: StartRound) -> None:
    for what, said, meant in (
        ("policy", order.policy_hash, here.policy.digest()),
        ("base", order.base_hash, here.base_hash),
    ):
        if said != meant:
            raise NotAllowed(
                f"The order is for another {what}: {said}, not {meant}.", "Ask /api/v1/dao and sign again."
            )
