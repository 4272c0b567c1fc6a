"""The admins' desk: pages that show an admin what is under way, and whose buttons ask their wallet for an order.

To look takes a session of a wallet that is an admin now; to act takes a signature over exactly that act, each time.
The pages work without JavaScript, but for the wallet.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from flask import Blueprint, Response, current_app, make_response, redirect, render_template, request
from pydantic import JsonValue
from werkzeug.wrappers import Response as AnyResponse

from coordinator.releases.pinning import check_all
from coordinator.rounds.queries import awaited_until, round_row
from coordinator.rounds.transitions import RoundKind
from coordinator.web.desk import drafts, orders, plan_form
from coordinator.web.desk.alike import Comparisons, live_of
from coordinator.web.desk.health import Health, health
from coordinator.web.desk.machines import Machines
from coordinator.web.desk.rehearsal import Asked, rehearse, seconds_of_training
from coordinator.web.desk.removals import removals
from coordinator.web.desk.rounds import Merges, contribution_of, orders_on, standing_of
from coordinator.web.desk.seats import Seat, who_is_admin
from coordinator.web.desk.tasks import desk
from coordinator.web.openapi import Answer, Routes
from coordinator.web.problems import RETRY_SECONDS, tell, wants_page
from coordinator.web.requests import signed_in
from coordinator.web.service import Service, service
from protocol.errors import Busy, CoterieError, NotAllowed, NotSignedIn, Unreachable
from protocol.grant import RoundPlan

admin = Blueprint("admin", __name__, url_prefix="/admin")
health_routes = Routes("health", __name__, tag="Health", url_prefix="/api/v1")

_FORMS = "same-origin"
"""A browser names its page in the ``Origin`` of a form that it posts only where it may name it as referrer."""


class Remembered:
    """What the desk asked before and need not ask again; all of it can be lost."""

    @cached_property
    def asked(self) -> Asked:
        return Asked()

    @cached_property
    def merges(self) -> Merges:
        return Merges()

    @cached_property
    def comparisons(self) -> Comparisons:
        return Comparisons()

    @cached_property
    def machines(self) -> Machines:
        return Machines()


# Pages ----------------------------------------------------------------------------------------------------------------


@admin.get("")
def front() -> AnyResponse:
    here = service()
    found = health(here)
    with here.database.reading() as session:
        return _page("admin/front.html", desk=desk(session, here, found), health=found)


@admin.get("/rounds/new")
def plan_round() -> AnyResponse:
    plan, begun_from = _plan_to_begin_with(service(), request.args.get("from", ""))
    return _planned(plan_form.written(plan), {}, None, begun_from)


@admin.post("/rounds/new")
def rehearse_round() -> AnyResponse:
    typed = {name: request.form.get(name, "") for name in plan_form.FIELDS}
    plan, wrong = plan_form.read(typed)
    return _planned(typed, wrong, plan, None)


@admin.get("/rounds/<round_id>")
def show_round(round_id: str) -> AnyResponse:
    return _round("admin/round.html", round_id)


@admin.get("/rounds/<round_id>/now")
def show_round_now(round_id: str) -> AnyResponse:
    return _round("admin/round_now.html", round_id)


@admin.get("/rounds/<round_id>/alike")
def show_alike(round_id: str) -> AnyResponse:
    here = service()
    with here.database.reading() as session:
        row = round_row(session, round_id)
        mode = RoundPlan.model_validate_json(row.plan).mode
        rows = live_of(session, round_id)
        found = _remembered().comparisons.of(here.settings.contributions, rows) if mode == "open" else None
    if found is None:
        found = "Contributions of a private mode cannot be compared: nobody but their member has seen them whole."
    return _page("admin/alike.html" if _is_part() else "admin/alike_page.html", alike=found, round_id=round_id)


@admin.get("/contributions/<contribution_id>")
def show_contribution(contribution_id: str) -> AnyResponse:
    here = service()
    with here.database.reading() as session:
        one, round_id = contribution_of(session, _remembered().merges, here.settings.candidates, contribution_id)
        number = round_row(session, round_id).number
        given = orders_on(session, [contribution_id])
    return _page(
        "admin/contribution.html",
        one=one,
        round_id=round_id,
        number=number,
        given=given,
        forms=tuple(orders.of_contribution(one)),
        here=f"/admin/contributions/{contribution_id}",
        done=_done(),
    )


@admin.get("/policy")
def show_policy() -> AnyResponse:
    text = service().policy.model_dump_json(indent=2, exclude_defaults=True)
    return _policy(text, "")


@admin.post("/policy")
def explain_policy() -> AnyResponse:
    return _policy(request.form.get("document", ""), request.form.get("token", "").strip()[:300])


@admin.get("/removals")
def show_removals() -> AnyResponse:
    with service().database.reading() as session:
        return _page("admin/removals.html", queue=removals(session))


@admin.get("/health")
def show_health() -> AnyResponse:
    return _page("admin/health.html", health=health(service()), done=_done())


@admin.post("/health/pins")
def look_at_pins() -> AnyResponse:
    """Only brings forward what the worker does anyway."""
    with service().database.writing() as session:
        check_all(session)
    return redirect("/admin/health?done=check_pins", 303)


# For programs ---------------------------------------------------------------------------------------------------------


class CheckAnswer(Answer):
    name: str
    state: str
    """good, watch or bad."""
    words: str
    hint: str


class PinAnswer(Answer):
    cid: str
    place: str
    state: str
    reason: str
    tries: int
    """In vain, since it stood there last."""
    checked_at: int | None
    due_at: int | None
    """Unix seconds."""


class HealthAnswer(Answer):
    state: str
    """The worst of all: good, watch or bad."""
    at: int
    """Unix seconds."""
    checks: tuple[CheckAnswer, ...]
    pins: tuple[PinAnswer, ...]
    versions: dict[str, str]


@health_routes.get("/health")
def tell_health() -> HealthAnswer:
    """How everything is that the coordinator stands on; always 200, the parts say how they are."""
    found: Health = health(service())
    return HealthAnswer(
        state=found.state.value,
        at=found.at,
        checks=tuple(CheckAnswer(name=c.name, state=c.state.value, words=c.words, hint=c.hint) for c in found.checks),
        pins=tuple(
            PinAnswer(
                cid=one.pin.cid,
                place=one.pin.place,
                state=one.pin.state.value,
                reason=one.pin.reason,
                tries=one.tries,
                checked_at=one.pin.checked_at,
                due_at=one.due_at,
            )
            for one in found.pins
        ),
        versions=dict(found.versions),
    )


# Who may not, and what does not answer --------------------------------------------------------------------------------


@admin.errorhandler(NotSignedIn)
def _sign_in(error: NotSignedIn) -> AnyResponse:
    if not wants_page():
        return tell(error)
    who, _how = who_is_admin(service().policy)
    return _told("admin/sign_in.html", 401, who=who, next=request.path if request.method == "GET" else "/admin")


@admin.errorhandler(NotAllowed)
def _not_admin(error: NotAllowed) -> AnyResponse:
    if not wants_page():
        return tell(error)
    who, how = who_is_admin(service().policy)
    return _told("admin/not_admin.html", 403, error=error, who=who, how=how)


@admin.errorhandler(CoterieError)
def _trouble(error: CoterieError) -> AnyResponse:
    if not wants_page():
        return tell(error)
    answer = _told("admin/trouble.html", error.status, error=error)
    if isinstance(error, Busy | Unreachable):
        answer.headers["Retry-After"] = str(RETRY_SECONDS)
    return answer


@admin.after_request
def _name_our_page(answer: Response) -> Response:
    answer.headers["Referrer-Policy"] = _FORMS
    return answer


@admin.app_template_filter("lasting")
def _lasting(seconds: float) -> str:
    """3 hours 20 minutes: the two largest units."""
    left, words = round(seconds), []
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return " ".join(words[:2]) or "no time"


@admin.app_template_filter("clock")
def _clock(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b %H:%M:%S UTC").lstrip("0")


# Parts ----------------------------------------------------------------------------------------------------------------


def _seat(here: Service) -> Seat:
    return here.seats.of(lambda: here.rpc, here.policy, signed_in(here))


def _remembered() -> Remembered:
    found: Remembered = current_app.extensions.setdefault("coterie-desk", Remembered())
    return found


def _is_part() -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("HX-Request") == "true"


def _page(template: str, **facts: Any) -> AnyResponse:
    here = service()
    seat = _seat(here)
    return make_response(render_template(template, seat=seat, uri=here.settings.public_uri, part=_is_part(), **facts))


def _told(template: str, status: int, **facts: Any) -> AnyResponse:
    name = "admin/told_part.html" if _is_part() else template
    return make_response(render_template(name, uri=service().settings.public_uri, **{"error": None, **facts}), status)


def _done() -> str:
    return orders.DONE.get(request.args.get("done", ""), "")


def _plan_to_begin_with(here: Service, round_id: str) -> tuple[RoundPlan, int | None]:
    """The defaults, in a mode that the policy admits; or the plan of a round that was, and its number."""
    if round_id:
        with here.database.reading() as session:
            row = round_row(session, round_id)
            return RoundPlan.model_validate_json(row.plan), row.number
    return RoundPlan(mode=here.policy.modes[0]), None


def _planned(
    typed: Mapping[str, str], wrong: Mapping[str, str], plan: RoundPlan | None, begun_from: int | None
) -> AnyResponse:
    here = service()
    rehearsal, trouble = None, None
    if plan:
        try:
            rehearsal = rehearse(here, _remembered().asked, plan)
        except CoterieError as error:
            trouble = error
    fields: dict[str, JsonValue] = {"plan": plan.model_dump(mode="json")} if plan else {}
    return _page(
        "admin/rehearsal.html" if _is_part() else "admin/plan.html",
        groups=plan_form.GROUPS,
        opened=plan_form.groups_open(wrong),
        costs=plan_form.MODE_COSTS,
        modes=here.policy.modes,
        typed=typed,
        wrong=wrong,
        fields=plan_form.FIELDS,
        rehearsal=rehearsal,
        trouble=trouble,
        order=fields,
        begun_from=begun_from,
        base_name=here.settings.base_name,
    )


def _round(template: str, round_id: str) -> AnyResponse:
    here, remembered = service(), _remembered()
    with here.database.reading() as session:
        row = round_row(session, round_id)
        standing = standing_of(session, remembered.merges, here.settings.candidates, round_id, here.now())
        until = awaited_until(session, round_id)
        most = standing.plan.sized(standing.most_tokens)
        pace = seconds_of_training(session, row.base_hash, most) if standing.gathers else None
    seen = None if standing.ended else remembered.machines.seen(here.settings)
    return _page(
        template,
        round=standing,
        seen=seen,
        pace=pace,
        removal=standing.kind == RoundKind.REMOVAL,
        forms=tuple(orders.of_round(standing, until)),
        here=f"/admin/rounds/{round_id}",
        shown=request.args.get("shown", f"{standing.state}{standing.paused_at or ''}"),
        mark=f"{standing.state}{standing.paused_at or ''}",
        done=_done(),
    )


def _policy(text: str, token: str) -> AnyResponse:
    here = service()
    asked = _remembered().asked
    policy, problems = drafts.read(text)
    draft, effect, explained, trouble = None, None, None, None
    if policy:
        with here.database.reading() as session:
            draft = drafts.described(session, here, policy)
        try:
            explained = drafts.explain(here, policy, token) if token else None
            effect = None if draft.same else drafts.effect(here, asked, policy)
        except CoterieError as error:
            trouble = error
    return _page(
        "admin/policy.html",
        text=text,
        token=token,
        problems=problems,
        draft=draft,
        effect=effect,
        explained=explained,
        trouble=trouble,
        file=here.settings.policy,
        in_force=here.policy.digest(),
        example=next(iter(here.policy.ownership), ""),
    )
