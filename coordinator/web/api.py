"""The JSON API, version 1. Errors are ``application/problem+json`` (RFC 9457)."""

import json

from flask import Blueprint, Response, jsonify, request
from pydantic import BaseModel

from contracts_abi.admin import require_admin
from contracts_abi.signatures import at_block
from coordinator.eligibility.verdicts import denied_of, opening_verdicts, recheck, take_snapshot, verdicts_for
from coordinator.identity import grants, sign_in
from coordinator.releases.signing import shown_key
from coordinator.rounds import events
from coordinator.rounds.acts import revoked_at
from coordinator.rounds.ledger import Part
from coordinator.web import views
from coordinator.web.asking import asker, fresh_nonce
from coordinator.web.requests import body_of, signed_in
from coordinator.web.service import Service, service
from protocol import node_key
from protocol.acts import require_current
from protocol.errors import BadInput, NotAllowed, NotFound
from protocol.grant import StartRound, require_signer

MAX_SIGN_IN_BODY = 8192
"""The message has 2 kB of it at most; the rest is for the signature of a wallet that is not deployed yet (ERC-6492)."""
api = Blueprint("api", __name__, url_prefix="/api/v1")


class SignInRequest(BaseModel):
    message: str
    signature: str


class StartRoundRequest(BaseModel):
    start_round: StartRound
    signature: str


@api.get("/dao")
def dao() -> Response:
    here = service()
    settings, link = here.settings, here.superlink()
    return jsonify(
        name=here.policy.dao,
        purpose=here.policy.purpose,
        chain_id=here.policy.chain_id,
        domain=settings.domain,
        uri=settings.public_uri,
        policy=here.policy.model_dump(mode="json"),
        policy_hash=here.policy.digest(),
        base={"name": settings.base_name, "hash": here.base_hash},
        superlink={"address": link.address, "root_certificate": link.root_certificate},
        gateways=[settings.public_uri, *settings.gateways],
        signing_key=shown_key(settings.credentials),
    )


@api.get("/nonce")
def nonce() -> Response:
    return jsonify(nonce=fresh_nonce(service()))


@api.post("/session")
def open_session() -> Response:
    if (request.content_length or MAX_SIGN_IN_BODY + 1) > MAX_SIGN_IN_BODY:
        raise BadInput(f"A sign-in has at most {MAX_SIGN_IN_BODY} bytes and says how many it has.")
    here, asked = service(), body_of(SignInRequest)
    settings = here.settings
    terms = sign_in.SignInTerms(settings.domain, settings.public_uri, here.policy.chain_id, settings.sign_in_seconds)
    signed = sign_in.verify(asked.message, asked.signature, terms, here.now(), here.ask_wallet)
    with here.database.writing() as session:
        token, expires = sign_in.open_session(session, signed, asker(here), here.now())
    return jsonify(token=token, wallet=signed.wallet, expires=expires)


@api.get("/verdicts")
def verdicts() -> Response:
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
    return jsonify(
        wallet=wallet, snapshot=snapshot.model_dump(mode="json"), verdicts=[v.model_dump(mode="json") for v in found]
    )


@api.post("/grants")
def give_grant() -> tuple[Response, int]:
    here, signed = service(), body_of(grants.SignedGrant)
    wallet, rpc = signed_in(here), here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    found = recheck(rpc, here.policy, signed.grant, snapshot)
    grants.check_grant(signed, wallet, here.policy, here.base_hash, found, here.now(), at_block(rpc, snapshot))
    with here.database.reading() as session:
        grants.require_free_key(session, signed.grant)
    node_id = here.register_node(node_key.public_pem(signed.grant.node_key))
    with here.database.writing() as session:
        grant_id = grants.store_grant(session, signed, node_id, snapshot, here.now())
    return jsonify(grant_id=grant_id), 201


@api.get("/grants/<grant_id>")
def show_grant(grant_id: str) -> Response:
    with service().database.reading() as session:
        grant, row = grants.granted(session, grant_id)
        return jsonify(
            grant_id=grant_id,
            grant=grant.model_dump(mode="json"),
            signature=row.signature,
            given_at=row.given_at,
            signed_at=json.loads(row.snapshot),
            replaced=row.replaced,
            revoked_at=revoked_at(session, grant_id),
        )


@api.post("/rounds")
def start_round() -> tuple[Response, int]:
    here, asked = service(), body_of(StartRoundRequest)
    order = asked.start_round
    _require_ours(here, order)
    require_current(order, here.policy.dao, here.policy.chain_id, here.now())
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    require_signer(order, asked.signature, order.admin, at_block(rpc, snapshot))
    require_admin(rpc, here.policy, order.admin, snapshot)
    with here.database.reading() as session:
        live = grants.live_grants(session, order.policy_hash, order.base_hash, here.now())
    parts = [Part(grant, tuple(opening_verdicts(rpc, here.policy, grant, snapshot, here.sources))) for grant in live]
    round_id = here.ledger.open_training(order, asked.signature, snapshot, parts)
    return jsonify(round_id=round_id), 201


@api.get("/rounds")
def list_rounds() -> Response:
    with service().database.reading() as session:
        return jsonify([views.as_json(one) for one in views.rounds(session)])


@api.get("/rounds/<round_id>")
def show_round(round_id: str) -> Response:
    with service().database.reading() as session:
        found = next((one for one in views.rounds(session) if one.round_id == round_id), None)
    if found is None:
        raise NotFound(f"There is no round {round_id}.")
    return jsonify(views.as_json(found))


@api.get("/releases")
def list_releases() -> Response:
    with service().database.reading() as session:
        return jsonify([views.as_json(one) for one in views.releases(session)])


@api.get("/releases/latest")
def latest_release() -> Response:
    with service().database.reading() as session:
        found = views.releases(session)
    if not found:
        raise NotFound("Nothing is released yet.", "Wait for the first round to end.")
    return jsonify(views.as_json(found[0]))


@api.get("/events")
def list_events() -> Response:
    after = request.args.get("after", "0")
    if not after.isdigit() or len(after) > 15:
        raise BadInput("after is the number of an event.")
    with service().database.reading() as session:
        return jsonify([views.as_json(one) for one in events.after(session, int(after))])


def _require_ours(here: Service, order: StartRound) -> None:
    for what, said, meant in (
        ("policy", order.policy_hash, here.policy.digest()),
        ("base", order.base_hash, here.base_hash),
    ):
        if said != meant:
            raise NotAllowed(
                f"The order is for another {what}: {said}, not {meant}.", "Ask /api/v1/dao and sign again."
            )
