"""How errors are told: as problem documents (RFC 9457), and as a page to whoever came with a browser."""

import structlog
from flask import Flask, Response, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from coordinator.web.openapi import PROBLEM, Problem
from coordinator.web.service import service
from protocol.errors import Busy, CoterieError, NotFound, Unreachable

RETRY_SECONDS = 10
"""What whoever asked is told to wait, when something that the answer needs does not answer itself."""
HTTP_CODES = {
    404: (NotFound.code, "There is nothing at this address.", "Begin at / or at /api/v1/openapi.json."),
    405: ("method-not-allowed", "This address takes no such request.", "Look into /api/v1/openapi.json."),
    413: ("request-entity-too-large", "The request is too large.", "Send less at once."),
    500: ("internal-error", "The coordinator failed; its log says why.", "Tell its operator."),
}
"""Status → code, sentence and hint, of what is told before a view begins, or instead of what it would have said."""
log = structlog.get_logger(__name__)


def tell_problems(app: Flask) -> None:
    """Have every error of ``app`` told in this way."""
    app.register_error_handler(CoterieError, tell)
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(Exception, _unforeseen)


def tell(error: CoterieError) -> Response:
    """The problem that this error is."""
    answer = _answer(error.status, error.code, error.message, error.hint)
    if isinstance(error, Unreachable | Busy):
        answer.headers["Retry-After"] = str(RETRY_SECONDS)
    return answer


def _http_problem(error: HTTPException) -> Response:
    status = error.code or 500
    plain = ((error.name or "error").lower().replace(" ", "-"), error.description or error.name, "")
    answer = _answer(status, *HTTP_CODES.get(status, plain))
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value
    return answer


def _unforeseen(error: Exception) -> Response:
    log.exception("unforeseen", exc_info=error)
    return _answer(500, *HTTP_CODES[500])


def _answer(status: int, code: str, message: str, hint: str) -> Response:
    problem = Problem(
        type=f"urn:coterie:error:{code}",
        title=code.replace("-", " "),
        status=status,
        detail=message,
        code=code,
        hint=hint,
    )
    if wants_page():
        return make_response(render_template("error.html", problem=problem, policy=service().policy), status)
    answer = jsonify(problem.model_dump())
    answer.status_code, answer.content_type = status, PROBLEM
    return answer


def wants_page() -> bool:
    """Whether a browser asks for something to look at, rather than a program for something to read."""
    return (
        not request.path.startswith(("/api/", "/ipfs/"))
        and request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html"
    )
