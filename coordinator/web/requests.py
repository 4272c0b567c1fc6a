"""What a request brings: a body, a session, and whether it came from our own pages."""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from flask import g, request
from pydantic import BaseModel, ValidationError

from contracts_abi.model import Address
from coordinator.identity import sign_in
from coordinator.web.service import Service
from protocol.errors import BadInput, NotAllowed, NotJson, NotSignedIn

Model = TypeVar("Model", bound=BaseModel)


def body_of(model: type[Model]) -> Model:
    """The request's body as JSON. Raises BadInput, naming the field, or NotJson when it says that it is no JSON."""
    if request.mimetype != "application/json":
        raise NotJson("The body is not sent as JSON.", "Send it with Content-Type: application/json.")
    try:
        return model.model_validate_json(request.get_data())
    except ValidationError as error:
        raise _unreadable(error) from error


def read_as(model: type[Model], given: Mapping[str, str]) -> Model:
    """What a path, a query or the headers give, by name. Raises BadInput, naming the field."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise _unreadable(error) from error


def _unreadable(error: ValidationError) -> BadInput:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the body"
    return BadInput(f"{place}: {first['msg']}.", "Mend the request.")


def route_of() -> str:
    """The route of this request, as ``GET /wallets``; HEAD is answered as GET is. Empty where there is none."""
    method = "GET" if request.method == "HEAD" else request.method
    return f"{method} {request.url_rule.rule}" if request.url_rule else ""


def cookie_name(here: Service) -> str:
    """A ``__Host-`` cookie where there is TLS: no other host of the domain can set it."""
    return "__Host-coterie" if is_https(here) else "coterie"


def session_token(here: Service) -> str:
    """The token that the request carries, as a bearer token or as a browser's cookie; a cookie only from our pages.

    Raises:
        NotSignedIn: it carries none.
        NotAllowed: a browser was made to send it by another site.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    if cookie := request.cookies.get(cookie_name(here)):
        if request.method not in ("GET", "HEAD"):
            require_own_page(here)
        return cookie
    raise NotSignedIn("This needs a session.", "Sign in, and send its token as Authorization: Bearer.")


def signed_in(here: Service) -> Address:
    """Whose session the request carries. Raises NotSignedIn, or NotAllowed as above."""
    if "wallet" not in g:
        token = session_token(here)
        with here.database.reading() as session:
            g.wallet = sign_in.wallet_of(session, token, here.now())
    return str(g.wallet)


def require_own_page(here: Service) -> None:
    """A browser sends ``Origin`` with every post: only that of our own pages will do.

    Raises:
        NotAllowed: it names another site, or none.
    """
    meant = urlsplit(here.settings.public_uri)
    origin = f"{meant.scheme}://{meant.netloc}"
    if request.headers.get("Origin") != origin:
        raise NotAllowed(
            "This did not come from one of our own pages, so nothing was done.", f"Open {origin} and try again there."
        )


def require_no_other_site(here: Service) -> None:
    """What a browser says about where a request was made is believed, whether or not it brings a cookie.

    Raises:
        NotAllowed: a page of another site made it.
    """
    if "Origin" in request.headers:
        require_own_page(here)
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise NotAllowed(
            "A page of another site sent this, so nothing was done.", f"Open {here.settings.public_uri} and try there."
        )


def is_https(here: Service) -> bool:
    """Whether members reach the coordinator by TLS, so that a cookie may be kept to it."""
    return here.settings.public_uri.startswith("https:")
