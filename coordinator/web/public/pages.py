"""The DAO's public pages: what the collective is now, how it came about, what was left out and why, the rules, the log.

Rendered on the server and readable without JavaScript, without a request to anyone else. ``history`` reads, ``cloth``
tells, the templates show. A page is composed again only when the log has grown, or a minute has passed.
"""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from typing import ParamSpec, cast

from flask import Blueprint, Response, current_app, render_template, request
from sqlalchemy.orm import Session

from coordinator.eligibility.policies import kept
from coordinator.releases.samples import PROMPTS
from coordinator.rounds import events
from coordinator.rounds.events import lines_after, newest_lines
from coordinator.web.public import cloth, history
from coordinator.web.public.audit import Audit
from coordinator.web.public.glance import Ground
from coordinator.web.public.history import Memory, Release, RoundLine
from coordinator.web.public.plain import given_up, rules_of, terms_of
from coordinator.web.public.shelf import Shelf
from coordinator.web.service import Service, service
from coordinator.web.views import short
from protocol.canonical import sha256
from protocol.counted import counted
from protocol.errors import BadInput, CoterieError, NotFound
from protocol.policy import Policy
from protocol.unixfs import Cid

PAGE_SECONDS = 60
"""How long a composed page is good for while nothing happens: it says how long there is until a deadline."""
PROGRESS_SECONDS = 5
LINES_A_PAGE = 50
LINES_TO_CHECK = 5000
"""Of the log, in one answer to whoever checks it."""
ROUNDS_IN_FRONT = 4
RELEASES_IN_FRONT = 5
THREADS_IN_FRONT = 24
GROUNDS_SHOWN = 200
_ASKED = ("a", "b", "before", "collection", "kind", "page", "token")
"""What an address may ask of a page; the rest of a query changes nothing."""

pages = Blueprint("pages", __name__)
Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Sheet:
    """A sample sheet: how many pictures are side by side in each of its two rows, and whether they are small."""

    columns: int
    small: bool


@dataclass(frozen=True)
class Composed:
    """A page as it was composed; ``mark`` names its bytes."""

    html: str
    mark: str


@dataclass
class AtHand:
    """What the public pages of one coordinator have at hand between requests."""

    memory: Memory = field(default_factory=Memory)
    audit: Audit = field(default_factory=Audit)
    sheets: Shelf[Sheet] = field(default_factory=lambda: Shelf(400))
    passages: Shelf[str] = field(default_factory=lambda: Shelf(800))
    composed: Shelf[Composed] = field(default_factory=lambda: Shelf(400))


def public(seconds: int) -> Callable[[Callable[Parameters, str]], Callable[Parameters, Response]]:
    """A page that is the same for everybody: kept until the log grows, for ``seconds`` at most, with an ETag."""

    def around(view: Callable[Parameters, str]) -> Callable[Parameters, Response]:
        @wraps(view)
        def answer(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Response:
            here = service()
            with here.database.reading() as session:
                newest = history.newest_line(session)
            asked = tuple((name, request.args[name]) for name in _ASKED if name in request.args)
            key = (request.path, asked, newest, here.now() // seconds)
            composed = at_hand(here).composed.get_or(key, lambda: _composed(view(*args, **kwargs)))
            response = current_app.make_response(composed.html)
            response.cache_control.no_cache = True
            response.set_etag(composed.mark)
            response.make_conditional(request)
            return response

        return answer

    return around


def at_hand(here: Service) -> AtHand:
    """What is at hand for this service; another one, as tests put in its place, begins with nothing."""
    found = current_app.extensions.get("coterie-pages")
    if found is None or found[0] is not here:
        found = current_app.extensions["coterie-pages"] = (here, AtHand())
    return cast(AtHand, found[1])


def _composed(html: str) -> Composed:
    return Composed(html, sha256(html.encode())[:32])


@pages.get("/")
@public(PAGE_SECONDS)
def front() -> str:
    here = service()
    kept_here = at_hand(here)
    with here.database.reading() as session:
        colours = history.colours(session, kept_here.memory, cloth.COLOURS)
        recent = history.releases(session, kept_here.memory, limit=RELEASES_IN_FRONT + 1)  # and a parent
        latest = next(iter(recent), None)
        rounds = history.rounds(session, limit=ROUNDS_IN_FRONT)
        return render_template(
            "front.html",
            latest=latest,
            sheet=_sheet(here, latest) if latest else None,
            ribbon=cloth.ribbon_of(latest.glance, colours) if latest else (),
            threads_shown=THREADS_IN_FRONT,
            admitted=_grounds(latest, here.policy) if latest else (),
            bytes_moved=history.bytes_of(session, latest.glance) if latest else 0,
            under_way=[_progress(session, one, here.now()) for one in history.rounds_under_way(session)],
            rounds=rounds,
            states=cloth.STATES,
            left_out=history.denied(session, rounds),
            passages=_passages(here, recent, colours, 3)[:RELEASES_IN_FRONT],
            totals=history.totals(session),
            lines=events.tail(session, 4),
            uri=here.settings.public_uri,
            base_name=here.settings.base_name,
        )


@pages.get("/releases")
@public(PAGE_SECONDS)
def releases() -> str:
    here = service()
    memory = at_hand(here).memory
    with here.database.reading() as session:
        found = history.releases(session, memory, _number("before"), history.RELEASES_A_PAGE + 1)
        passages = _passages(here, found, history.colours(session, memory, cloth.COLOURS), 2)
        shown = found[: history.RELEASES_A_PAGE]
        return render_template(
            "releases.html",
            passages=passages[: len(shown)],
            older=shown[-1].number if len(found) > len(shown) else None,
            newest="before" not in request.args,
        )


@pages.get("/releases/<int:number>")
@public(PAGE_SECONDS)
def release(number: int) -> str:
    here = service()
    memory = at_hand(here).memory
    with here.database.reading() as session:
        one = _release(session, memory, number)
        parent = history.release_called(session, memory, one.parent)
        colours = history.colours(session, memory, cloth.COLOURS)
        line = history.round_line(session, one.round_id)
        return render_template(
            "release.html",
            release=one,
            parent=parent,
            passage=cloth.passage_of(one, parent, colours),
            next=history.release_after(session, one.number),
            newest=history.release_after(session, one.number) is None,
            sheet=_sheet(here, one),
            ribbon=cloth.ribbon_of(one.glance, colours),
            colours=colours,
            named=lambda tokens: cloth.named(tokens, here.policy),
            pieces=cloth.pieces_of(one.glance, colours)[: cloth.THREADS_DRAWN],
            admitted=_grounds(one, here.policy),
            bytes_moved=history.bytes_of(session, one.glance),
            gives_up=given_up(one.glance.merge.mode),
            line=line,
            uri=here.settings.public_uri,
        )


@pages.get("/releases/compare")
@public(PAGE_SECONDS)
def compare() -> str:
    """Two releases; the newest two where the address names none."""
    here = service()
    memory = at_hand(here).memory
    with here.database.reading() as session:
        choices = history.release_choices(session)
        newest = [number for number, _ in choices[:2]] or [0]
        asked = _number("a"), _number("b")
        first, second = (
            _release(session, memory, default if number is None else number)
            for number, default in zip(asked, (newest[-1], newest[0]), strict=True)
        )
        sheets = _sheet(here, first), _sheet(here, second)
        pairs = cloth.pairs_of(first.glance, second.glance)
        return render_template(
            "compare.html",
            first=first,
            second=second,
            sheets=sheets,
            pairs=pairs if all(sheets) else (),
            same_dice=all(cloth.same_dice(first.glance, second.glance, pair) for pair in pairs),
            changes=cloth.changes_of(first, second),
            members=cloth.members_of(first.glance, second.glance, history.colours(session, memory, cloth.COLOURS)),
            members_shown=cloth.THREADS_DRAWN,
            choices=choices,
        )


@pages.get("/rounds")
@public(PAGE_SECONDS)
def rounds() -> str:
    with service().database.reading() as session:
        found = history.rounds(session, _number("before"), history.ROUNDS_A_PAGE + 1)
        shown = found[: history.ROUNDS_A_PAGE]
        return render_template(
            "rounds.html",
            rounds=shown,
            states=cloth.STATES,
            older=shown[-1].number if len(found) > len(shown) else None,
            newest="before" not in request.args,
            uri=service().settings.public_uri,
        )


@pages.get("/rounds/<round_id>")
@public(PAGE_SECONDS)
def show_round(round_id: str) -> str:
    here = service()
    memory, page = at_hand(here).memory, max(1, _number("page") or 1)
    with here.database.reading() as session:
        line = _round(session, round_id)
        story = history.story(session, line, page - 1)
        latest = history.newest_release(session, memory)
        colours = history.colours(session, memory, cloth.COLOURS)
        return render_template(
            "round.html",
            line=line,
            story=story,
            progress=cloth.progress_of(line, story.scored, story.scorers, here.now()),
            told=cloth.told_of(story, latest, colours, here.policy),
            made=history.release_called(session, memory, line.cid),
            page=page,
            pages=-(-story.count // history.CONTRIBUTIONS_A_PAGE),
            gives_up=given_up(line.plan.mode),
            newest=history.newest_line(session)[0],
        )


@pages.get("/rounds/<round_id>/progress")
def progress(round_id: str) -> Response:
    """The part of a page that refreshes itself; when the round has ended it asks for the whole page again."""
    here = service()
    response = _progress_part(round_id)
    if response.status_code == 200 and request.headers.get("HX-Request"):
        with here.database.reading() as session:
            if _round(session, round_id).ended:
                response.headers["HX-Refresh"] = "true"
    return response


@public(PROGRESS_SECONDS)
def _progress_part(round_id: str) -> str:
    here = service()
    with here.database.reading() as session:
        return render_template("progress.html", one=_progress(session, _round(session, round_id), here.now()))


@pages.get("/left-out")
@public(PAGE_SECONDS)
def left_out() -> str:
    here = service()
    collection, token_id = request.args.get("collection", ""), _number("token")
    with here.database.reading() as session:
        line, grounds = history.left_out(session, at_hand(here).memory, history.newest_line(session))
        asked: tuple[tuple[Ground, ...], tuple[Ground, ...]] = (grounds, ())
        if token_id is not None and line is not None:
            asked = history.asked_about(session, line.round_id, token_id)
        found, admitted = (cloth.chosen(each, collection) for each in asked)
    return render_template(
        "left_out.html",
        line=line,
        grounds=found[:GROUNDS_SHOWN],
        more=max(0, len(found) - GROUNDS_SHOWN),
        admitted=admitted,
        collections=sorted({one.collection for one in grounds}),
        collection=collection,
        token_id=token_id,
        asked_before=bool(grounds),
    )


@pages.get("/rules")
@public(PAGE_SECONDS)
def rules() -> str:
    policy = service().policy
    return render_template("rules.html", terms=terms_of(policy), rules=rules_of(policy), digest=policy.digest())


@pages.get("/rules/<digest>.json")
def policy_document(digest: str) -> Response:
    """A policy that is or was in force, byte by byte as it was hashed."""
    here = service()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise NotFound("A policy is called by its fingerprint, 64 hex digits.", "Follow the link on /rules.")
    policy = here.policy if digest == here.policy.digest() else kept(here.settings.policies, digest)
    if policy is None:
        raise NotFound("No policy with this fingerprint was ever in force here.", "Follow the link on /rules.")
    response = Response(policy.canonical(), content_type="application/json")
    response.cache_control.public, response.cache_control.max_age = True, 29_030_400
    response.cache_control.immutable = True
    return response


@pages.get("/log")
@public(PAGE_SECONDS)
def log() -> str:
    here = service()
    before, kind = _number("before"), request.args.get("kind", "")
    with here.database.reading() as session:
        checked = at_hand(here).audit.check(session, here.now())
        found = newest_lines(session, LINES_A_PAGE + 1, before, kind if kind in checked.kinds else "")
        shown = found[:LINES_A_PAGE]
    return render_template(
        "log.html",
        checked=checked,
        lines=shown,
        older=shown[-1].number if len(found) > len(shown) else None,
        kind=kind if kind in checked.kinds else "",
        newest=before is None,
        uri=here.settings.public_uri,
    )


@pages.get("/log/lines")
def log_lines() -> Response:
    """For whoever checks the chain: one line each, its fingerprint and its body, byte by byte as it was hashed."""
    with service().database.reading() as session:
        lines = lines_after(session, _number("after") or 0, LINES_TO_CHECK)
    body = "".join(f"{fingerprint} {body}\n" for fingerprint, body in lines)
    response = Response(body, content_type="text/plain; charset=utf-8")
    response.cache_control.no_cache = True
    return response


def _passages(here: Service, releases: Sequence[Release], colours: Mapping[str, int], level: int) -> list[str]:
    """The history of ``releases``, newest first, each beside its parent where that is among them, as pages show it.

    What a release brought never changes, so its row is woven once; ``level`` is that of its heading.
    """
    by_cid = {one.cid: one for one in releases}
    woven, parts = at_hand(here).passages, current_app.jinja_env.get_template("parts.html").module

    def row(one: Release) -> str:
        parent = by_cid.get(one.parent or "")
        key = one.number, one.cid, one.withdrawn, parent is None, len(colours), level

        def weave() -> str:
            passage = cloth.passage_of(one, parent, colours)
            return cast(str, parts.passage(passage, f"release-{one.number}", level))  # type: ignore[attr-defined]

        return woven.get_or(key, weave)

    return [row(one) for one in releases]


def _progress(session: Session, line: RoundLine, now: int) -> cloth.Progress:
    return cloth.progress_of(line, *history.scoring(session, line.round_id), now)


def _release(session: Session, memory: Memory, number: int) -> Release:
    found = history.release_numbered(session, memory, number)
    if found is None:
        raise NotFound(f"There is no release {number}.", "All releases are on /releases.")
    return found


def _round(session: Session, round_id: str) -> RoundLine:
    found = history.round_line(session, round_id)
    if found is None:
        raise NotFound(f"There is no round {round_id}.", "All rounds are on /rounds.")
    return found


def _number(name: str) -> int | None:
    """A whole number that the address asks for."""
    text = request.args.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadInput(f"{name} is a whole number.", "Follow a link of the page, or leave it away.")
    return int(text)


def _grounds(release: Release, policy: Policy) -> tuple[tuple[str, str, int], ...]:
    """Why a release may be: (licence, reason, tokens), most tokens first."""
    found: dict[tuple[str, str], int] = {}
    for one in release.glance.admitted:
        key = one.licence or "the DAO's own word", f"{one.collection}: {one.reason}"
        found[key] = found.get(key, 0) + one.tokens.count
    return tuple((licence, reason, count) for (licence, reason), count in found.items())


def _sheet(here: Service, release: Release) -> Sheet | None:
    """How a release's sample sheet is divided, by its PNG header; None where it is not of squares in two rows."""
    known = at_hand(here).sheets.get(release.cid)
    if known is None:
        try:
            head = next(here.store.read(Cid.parse(release.cid), "samples.png"), b"")[:24]
        except CoterieError:
            return None
        if len(head) < 24 or head[12:16] != b"IHDR":
            return None
        width, height = struct.unpack(">II", head[16:24])
        columns = 2 * width // height if height else 0
        known = at_hand(here).sheets.put(release.cid, Sheet(columns, small=height <= 256))
    divided = 0 < known.columns <= PROMPTS and known.columns == len(release.glance.prompts)
    return known if divided else None


@pages.app_context_processor
def _everywhere() -> dict[str, object]:
    """What every page's head and foot name."""
    return {"policy": service().policy}


@pages.app_template_filter("short")
def _short(address: str) -> str:
    return short(address)


@pages.app_template_filter("brief")
def _brief(text: str) -> str:
    """A sentence with its addresses and CIDs cut to beginning and end."""
    text = re.sub(r"0x[0-9a-fA-F]{40}\b", lambda found: short(found[0]), text)
    return re.sub(r"\bbaf[a-z2-7]{50,}\b", lambda found: f"{found[0][:10]}…{found[0][-6:]}", text)


@pages.app_template_filter("day")
def _day(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


@pages.app_template_filter("date")
def _date(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%B %Y}"


@pages.app_template_filter("iso")
def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pages.app_template_filter("count")
def _count(number: int, noun: str) -> str:
    return counted(number, noun)


@pages.app_template_filter("size")
def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1_000_000 else f"{number / 1e3:.0f} kB"


@pages.app_template_filter("percent")
def _percent(part: float | None) -> str:
    return "none" if part is None else f"{100 * part:.1f}%"


@pages.app_template_filter("span")
def _span(minutes: int) -> str:
    """Minutes in the largest unit that says enough."""
    for size, noun in ((1440, "day"), (60, "hour")):
        if minutes >= 2 * size:
            return _count(round(minutes / size), noun)
    return _count(minutes, "minute")
