"""How often one may ask: per source address, and per session too where a route needs one.

What is counted lies in the memory of each server process, or in a storage that they share; both are settings. An
address counts as ``source_of`` says: an IPv6 customer's network is one source.
"""

import time
from collections.abc import Mapping
from enum import StrEnum

import structlog
from flask import Flask, Response, after_this_request, g, request
from limits import parse_many
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from coordinator.config import CoordinatorSettings
from coordinator.identity.devices import source_of
from coordinator.identity.sessions import session_id_of
from coordinator.web.requests import route_of, session_token
from coordinator.web.service import service
from protocol.errors import BadInput, TooMany

log = structlog.get_logger(__name__)


class Kind(StrEnum):
    """What is counted together; each has a setting ``limit_…``."""

    READS = "reads"
    FILES = "files"
    SIGN_IN = "sign_in"
    MACHINES = "machines"
    PROGRESS = "progress"
    ACTS = "acts"
    STREAMS = "streams"


KINDS: Mapping[str, Kind | None] = {
    "GET /healthz": None,
    "GET /static/<path:filename>": Kind.FILES,
    "GET /ipfs/<cid>": Kind.FILES,
    "GET /ipfs/<cid>/<path:path>": Kind.FILES,
    "GET /api/v1/nonce": Kind.SIGN_IN,
    "POST /api/v1/session": Kind.SIGN_IN,
    "POST /api/v1/session/text": Kind.SIGN_IN,
    "POST /api/v1/session/browser": Kind.SIGN_IN,
    "POST /api/v1/wallets/link": Kind.SIGN_IN,
    "POST /api/v1/devices": Kind.MACHINES,
    "POST /api/v1/devices/poll": Kind.MACHINES,
    "POST /api/v1/rounds/<round_id>/progress": Kind.PROGRESS,
    "POST /admin/rounds/new": Kind.READS,
    "POST /admin/policy": Kind.READS,
    # stream.py
    "GET /api/v1/events/stream": Kind.STREAMS,
}
"""Of the routes that are counted by themselves; of the others a GET is a read and the rest are acts."""


class Limits:
    """The settings' limits, counted. While the storage does not answer nobody is refused, and the log says so."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        """Raises BadInput when the storage is none, or needs a package that is not there."""
        try:
            storage = storage_from_string(settings.limit_storage, wrap_exceptions=True)
        except ConfigurationError as error:
            raise BadInput(f"limit_storage: {error}.", "Leave it out, or install what it needs.") from error
        self._counter = SlidingWindowCounterRateLimiter(storage)
        self._rates = {kind: parse_many(text) if (text := _setting(settings, kind)) else [] for kind in Kind}

    def count(self, kind: Kind, who: str) -> None:
        """Count one more of ``who``. Raises TooMany where that is over a limit; the answer says when to come again."""
        try:
            over = next((rate for rate in self._rates[kind] if not self._counter.hit(rate, kind.value, who)), None)
            free = self._counter.get_window_stats(over, kind.value, who).reset_time if over else 0.0
        except StorageError as error:
            log.warning("requests are not counted", why=str(error.storage_error))
            return
        if over:
            wait = max(1, round(free - time.time()))
            _tell_to_wait(wait)
            raise TooMany("You ask more often than this coordinator answers.", f"Try again in {wait} seconds.")


def count_requests(app: Flask, limits: Limits) -> None:
    """Have each request counted by its source, before anything is done for it."""

    @app.before_request
    def by_source() -> None:
        if kind := _kind():
            limits.count(kind, source_of(request.remote_addr))


def count_sessions(app: Flask, limits: Limits) -> None:
    """Have each request with a session that was asked for counted by that too. Belongs after ``access.guard``."""

    @app.before_request
    def by_session() -> None:
        if "wallet" in g and (kind := _kind()):
            limits.count(kind, session_id_of(session_token(service())))


def _kind() -> Kind | None:
    return KINDS.get(route_of(), Kind.READS if request.method in ("GET", "HEAD", "OPTIONS") else Kind.ACTS)


def _setting(settings: CoordinatorSettings, kind: Kind) -> str:
    return str(getattr(settings, f"limit_{kind.value}"))


def _tell_to_wait(seconds: int) -> None:
    @after_this_request
    def told(answer: Response) -> Response:
        answer.headers["Retry-After"] = str(seconds)
        return answer
