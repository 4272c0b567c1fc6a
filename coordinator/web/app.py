"""The Flask app: an app factory, a blueprint per concern, one way to tell errors."""

from flask import Flask, Response, jsonify
from werkzeug.middleware.proxy_fix import ProxyFix

from coordinator.config import CoordinatorSettings
from coordinator.web.access import guard
from coordinator.web.acts import acts
from coordinator.web.api import api
from coordinator.web.caching import settle_caching
from coordinator.web.desk.pages import admin, health_routes
from coordinator.web.devices import device_pages, devices
from coordinator.web.gateway import gateway
from coordinator.web.limits import Limits, count_requests, count_sessions
from coordinator.web.openapi import DocumentedApp
from coordinator.web.own.pages import member, member_api
from coordinator.web.problems import tell_problems
from coordinator.web.progress import progress
from coordinator.web.proposals import proposals
from coordinator.web.public.pages import pages
from coordinator.web.requests import cookie_name
from coordinator.web.round_acts import round_acts
from coordinator.web.service import RegisterNode, Service, UnregisterNode
from coordinator.web.stream import stream
from coordinator.web.wallets import wallet_pages, wallets

MAX_BODY = 1 << 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


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
    limits = Limits(settings)
    count_requests(app, limits)
    for routes in (acts, api, devices, health_routes, member_api, progress, proposals, round_acts, wallets):
        app.register_api(routes)
    for blueprint in (admin, device_pages, gateway, member, pages, stream, wallet_pages):
        app.register_blueprint(blueprint)
    app.add_url_rule("/healthz", "healthz", lambda: jsonify(status="ok"))
    app.add_url_rule("/api/v1/openapi.json", "openapi", lambda: jsonify(app.api_doc))
    guard(app)
    count_sessions(app, limits)
    tell_problems(app)
    app.after_request(settle_caching)
    app.after_request(_secure)
    return app


def _secure(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response
