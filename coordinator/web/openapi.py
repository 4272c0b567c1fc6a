"""What the routes of the JSON API share, and the OpenAPI 3.1 document that is made of them.

A new route, in a module of its own or beside its siblings:

1. ``things = Routes("things", __name__, tag="Things")``; list it among the blueprints of ``create_app`` in ``app.py``.
2. Models: ``class ThingPath(Request)`` with the names in the path, ``class ThingRequest(Request)`` for the body,
   ``class Thing(Answer)`` for what comes back (a list: ``class Things(RootModel[tuple[Thing, ...]])``).
3. ``@things.post("/api/v1/things/<thing_id>", status=201)`` above
   ``def make_thing(path: ThingPath, body: ThingRequest) -> Thing:``. Take only what is needed, by these very names:
   ``path``, ``query``, ``body``, ``header``. The first line of the docstring is the summary; the function's name is
   the operation's id. What cannot be read is answered as BadInput, which names the field, before the view begins.
4. Return the answer's model; raise one of ``protocol.errors`` for anything else. Cookies: ``after_this_request``. A
   view that answers a file returns flask's ``Response``, and its route says ``file="application/octet-stream"``.
5. Name the route and who may use it in ``access.WHO``. Without that the app does not start. For ``MEMBER``, ``OWNER``
   and ``ADMIN`` the session is asked for before the view begins; ``signed_in(service())`` is its wallet. What is to be
   counted by itself (a stream, say) is named in ``limits.KINDS`` too. Orders and grants take an Idempotency-Key.
6. HTML pages stay on a plain ``flask.Blueprint``; they too are in ``access.WHO``. Every route is in
   ``docs/architecture.md``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlencode

from flask import Response, after_this_request, jsonify, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.info import Info
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from coordinator.web.access import ONCE, SESSIONS, WHO
from coordinator.web.once import HEADER, MAX_KEY, once
from coordinator.web.requests import body_of, read_as

View = TypeVar("View", bound=Callable[..., Any])
PROBLEM = "application/problem+json"
SCHEMAS = "#/components/schemas/{model}"


class Request(BaseModel):
    """Something that is sent: a body, a query, the names in a path. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)


class Answer(BaseModel):
    """Something that comes back."""

    model_config = ConfigDict(frozen=True)


class Problem(Answer):
    """Any answer that is no success (RFC 9457). ``code`` is stable, ``detail`` a sentence, ``hint`` what to do next."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


@dataclass(frozen=True)
class Operation:
    """What the document says of a route: what is sent, what comes back at success."""

    route: str
    """As ``access.WHO`` names it."""
    body: type[BaseModel] | None
    status: int
    answer: type[BaseModel] | str
    """A model; or the media type, where a file comes back."""
    keyed: bool
    """Whether it takes an Idempotency-Key."""


def point_to_next(**query: int) -> None:
    """The answer to this request gets a link to the next piece of the list (RFC 8288)."""
    link = f'<{request.path}?{urlencode(query)}>; rel="next"'

    @after_this_request
    def linked(answer: Response) -> Response:
        answer.headers["Link"] = link
        return answer


class Routes(APIBlueprint):
    """A blueprint of JSON routes that are in the document, with what they take and what they answer."""

    def __init__(self, name: str, import_name: str, *, tag: str, **options: Any) -> None:
        super().__init__(name, import_name, abp_tags=[Tag(name=tag)], abp_responses={"default": _PROBLEM}, **options)
        self.operations: dict[str, Operation] = {}

    def get(self, rule: str, *, file: str = "", **options: Any) -> Callable[[View], View]:
        """``file`` is the media type where the view answers a file, as flask's ``Response``."""
        return self._route("GET", super().get, rule, 200, options, file)

    def post(self, rule: str, *, status: int = 200, **options: Any) -> Callable[[View], View]:
        return self._route("POST", super().post, rule, status, options)

    def delete(self, rule: str, **options: Any) -> Callable[[View], View]:
        return self._route("DELETE", super().delete, rule, 200, options)

    def _route(
        self, method: str, place: Callable[..., Any], rule: str, status: int, options: dict[str, Any], file: str = ""
    ) -> Callable[[View], View]:
        def register(view: View) -> View:
            hints = get_type_hints(view)
            name, route = view.__name__, f"{method} {self.url_prefix or ''}{rule}"
            keyed = method != "GET" and WHO.get(route) in ONCE
            self.operations[name] = Operation(route, hints.get("body"), status, file or hints["return"], keyed)
            summary, _, rest = (inspect.getdoc(view) or "").partition("\n")
            place(
                rule,
                summary=summary,
                description=" ".join(rest.split()) or summary,
                operation_id=name,
                responses={status: {"content": {file: {}}} if file else hints["return"]},
                **options,
            )(once(view) if keyed else view)
            return view

        return register

    @staticmethod
    def create_view_func(  # type: ignore[override]
        func: Callable[..., BaseModel | Response],
        header: type[BaseModel] | None,
        cookie: type[BaseModel] | None,
        path: type[BaseModel] | None,
        query: type[BaseModel] | None,
        form: type[BaseModel] | None,
        body: type[BaseModel] | None,
        raw: type[BaseModel] | None,
        responses: Mapping[int, Any],
        **_: Any,
    ) -> Callable[..., Response]:
        """Read what the view takes, call it, write what it answers: status and model as the route declares them."""
        (status,) = responses

        @wraps(func)
        def view(**named: str) -> Response:
            given: dict[str, BaseModel] = {}
            if path:
                given["path"] = read_as(path, named)
            if query:
                given["query"] = read_as(query, request.args.to_dict())
            if header:
                given["header"] = read_as(header, {k.lower().replace("-", "_"): v for k, v in request.headers.items()})
            if body:
                given["body"] = body_of(body)
            said = func(**given)
            if isinstance(said, Response):
                return said
            answer = jsonify(said.model_dump(mode="json"))
            answer.status_code = status
            return answer

        return view


class DocumentedApp(OpenAPI):
    """A Flask app whose ``Routes`` make up one OpenAPI document. It serves no pages about it, and loads none."""

    def __init__(self, import_name: str, cookie: str) -> None:
        """``cookie`` is the name of the cookie that carries a browser's session."""
        super().__init__(
            import_name,
            info=Info(title="Coterie coordinator", version="1", description=_ABOUT),
            security_schemes={
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": cookie},
            },
            validation_error_status="default",
            validation_error_model=Problem,
            doc_ui=False,
        )
        self.described: dict[str, Operation] = {}
        """By the operation's id."""

    def register_api(self, api: APIBlueprint, **options: Any) -> None:
        """Raises LookupError when another operation has the name of one of these."""
        super().register_api(api, **options)
        if isinstance(api, Routes):
            if taken := sorted(self.described.keys() & api.operations.keys()):
                raise LookupError(f"Two views of the API are called {taken[0]}; its document needs a name for each.")
            self.described.update(api.operations)

    def generate_spec_json(self) -> None:
        """The library's document, with the schemas as pydantic writes them: one for what is sent, one for answers."""
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        known = self.described.values()
        sent: set[_Written] = {(one.body, _SENT) for one in known if one.body}
        answered: set[_Written] = {(one.answer, _ANSWERED) for one in known if not isinstance(one.answer, str)}
        references, schemas = _schemas(frozenset(sent | answered | {(Problem, _ANSWERED)}))
        self.spec_json["components"]["schemas"] = schemas["$defs"]
        for path in self.spec_json["paths"].values():
            for written in path.values():
                one = self.described[written["operationId"]]
                if one.body:
                    written["requestBody"]["content"] = {"application/json": {"schema": references[one.body, _SENT]}}
                if not isinstance(one.answer, str):
                    content = {"application/json": {"schema": references[one.answer, _ANSWERED]}}
                    written["responses"][str(one.status)]["content"] = content
                if one.keyed:
                    written["parameters"] = [*written.get("parameters", []), _KEY]
                who = WHO[one.route]
                written["x-who"] = who.value
                if who in SESSIONS:
                    written["security"] = [{"bearer": []}, {"cookie": []}]


_ABOUT = "What members, admins and readers ask a DAO's coordinator. Errors are problem documents (RFC 9457)."
_PROBLEM = {"description": "A problem", "content": {PROBLEM: {"schema": {"$ref": SCHEMAS.format(model="Problem")}}}}
_KEY = {
    "in": "header",
    "name": HEADER,
    "description": "The same key with the same request gets the first answer again, for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[ -~]+$"},
}
_Written = tuple[type[BaseModel], JsonSchemaMode]
_SENT: JsonSchemaMode = "validation"
_ANSWERED: JsonSchemaMode = "serialization"


@cache
def _schemas(models: frozenset[_Written]) -> tuple[Mapping[Any, dict[str, Any]], dict[str, Any]]:
    """How each is referred to, and all their schemas; nobody changes them, so all apps of a process have the same."""
    order = sorted(models, key=lambda one: (one[0].__name__, one[1]))
    return models_json_schema(order, ref_template=SCHEMAS)
