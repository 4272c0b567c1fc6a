"""The Flask app: an app factory, a blueprint per concern, one way to tell errors."""

import structlog
from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from coordinator.config import CoordinatorSettings
from coordinator.web.access import guard
from coordinator.web.acts import acts
from coordinator.web.api import api
from coordinator.web.devices import devices
from coordinator.web.gateway import gateway
from coordinator.web.openapi import PROBLEM, DocumentedApp
from coordinator.web.pages import pages
from coordinator.web.requests import cookie_name
from coordinator.web.service import RegisterNode, Service, UnregisterNode
from coordinator.web.stream import stream
from coordinator.web.wallets import wallets
from protocol.errors import Busy, CoterieError, Unreachable

MAX_BODY = 1 << 20
RETRY_SECONDS = 10
"""What whoever asked is told to wait, when something that the answer needs does not answer itself."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
log = structlog.get_logger(__name__)


def create_app(
    settings: CoordinatorSettings,
    register_node: RegisterNode | None = None,
    unregister_node: UnregisterNode | None = None,
) -> Flask:
    """The coordinator's web side.

    Raises:
        BadInput: the policy or the base that the settings name cannot be read.
    """
    here = Service(settings, register_node, unregister_node=unregister_node)
    app = DocumentedApp("coordinator.web", cookie_name(here))
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    if settings.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    app.extensions["coterie"] = here
    for routes in (acts,):
        app.register_api(routes)
    for blueprint in (api, devices, gateway, pages, stream, wallets):
        app.register_blueprint(blueprint)
    app.add_url_rule("/healthz", "healthz", lambda: jsonify(status="ok"))
    app.add_url_rule("/api/v1/openapi.json", "openapi", lambda: jsonify(app.api_doc))
    guard(app)
    app.register_error_handler(CoterieError, _problem)
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(Exception, _unforeseen)
    app.after_request(_secure)
    return app


def _problem(error: CoterieError) -> Response:
    answer = _answer(error.status, error.code, error.message, error.hint)
    if isinstance(error, Unreachable | Busy):
        answer.headers["Retry-After"] = str(RETRY_SECONDS)
    return answer


def _http_problem(error: HTTPException) -> Response:
    status = error.code or 500
    return _answer(status, (error.name or "error").lower().replace(" ", "-"), error.description or error.name, "")


def _unforeseen(error: Exception) -> Response:
    log.exception("unforeseen", exc_info=error)
    return _answer(500, "internal-error", "The coordinator failed; its log says why.", "Tell its operator.")


def _answer(status: int, code: str, message: str, hint: str) -> Response:
    response = jsonify(
        type=f"urn:coterie:error:{code}",
        title=code.replace("-", " "),
        status=status,
        detail=message,
        code=code,
        hint=hint,
    )
    response.status_code = status
    response.content_type = PROBLEM
    return response


def _secure(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response
