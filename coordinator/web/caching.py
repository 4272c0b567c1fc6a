"""What caches may keep: public answers have a strong ETag of their content, private ones are kept nowhere."""

from flask import Response, request

from coordinator.web.access import SESSIONS, WHO
from coordinator.web.requests import cookie_name, route_of
from coordinator.web.service import service


def settle_caching(answer: Response) -> Response:
    """Say how long this answer may be kept, unless its view has; 304 where the asker has it already."""
    if "Cache-Control" in answer.headers:
        return answer
    if request.method not in ("GET", "HEAD") or answer.status_code != 200 or _private(answer):
        answer.headers["Cache-Control"] = "no-store"
        return answer
    answer.headers["Cache-Control"] = "no-cache"
    if answer.is_streamed:
        return answer
    answer.add_etag()
    return answer.make_conditional(request)  # type: ignore[return-value]


def _private(answer: Response) -> bool:
    """Whether it is for one person: it came by a session, sets a cookie, or is a page that knows who looks at it."""
    if "Set-Cookie" in answer.headers or WHO.get(route_of()) in SESSIONS:
        return True
    return answer.mimetype == "text/html" and cookie_name(service()) in request.cookies
