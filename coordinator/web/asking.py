"""Whoever asks for a nonce gets a secret with it, in a cookie: only they can sign in with that nonce.

Browsers keep the cookie by themselves, and so does the client's HTTP session. It is no session: it opens nothing.
"""

import secrets

from flask import Response, after_this_request, request

from coordinator.identity import sign_in
from coordinator.web.service import Service


def fresh_nonce(here: Service) -> str:
    """A nonce for whoever sent this request; the answer to it carries the cookie."""
    seconds = here.settings.sign_in_seconds
    secret = asker(here) or secrets.token_urlsafe(32)
    nonce = sign_in.give_nonce(here.nonce_key, secret, here.now() + seconds)

    @after_this_request
    def keep(answer: Response) -> Response:
        answer.set_cookie(
            _name(here), secret, max_age=seconds, path="/", secure=_is_https(here), httponly=True, samesite="Strict"
        )
        return answer

    return nonce


def asker(here: Service) -> str:
    """The secret that this request carries; empty where there is none, and no nonce belongs to that."""
    return request.cookies.get(_name(here), "")


def _name(here: Service) -> str:
    """``__Host-`` where there is TLS: no other host of the domain can set it."""
    return "__Host-coterie-asker" if _is_https(here) else "coterie-asker"


def _is_https(here: Service) -> bool:
    return here.settings.public_uri.startswith("https:")
