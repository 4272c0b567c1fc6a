"""What the routes of the JSON API share, and the OpenAPI 3.1 document that is made of them.

A new route, in a module of its own or beside its siblings:

1. ``things = Routes("things", __name__, tag="Things")``; list it among the blueprints of ``create_app`` in ``app.py``.
2. Models: ``class ThingPath(Request)`` with the names in the path, ``class ThingRequest(Request)`` for the body,
   ``class Thing(Answer)`` for what comes back (a list: ``class Things(RootModel[tuple[Thing, ...]])``).
3. ``@things.post("/api/v1/things/<thing_id>", status=201)`` above
   ``def make_thing(path: ThingPath, body: ThingRequest) -> Thing:``. Take only what is needed, by these very names:
   ``path``, ``query``, ``body``, ``header``. The first line of the docstring is the summary; the function's name is
   the operation's id. What cannot be read is answered as BadInput, which names the field, before the view begins.
4. Return the answer's model; raise one of ``protocol.errors`` for anything else. Cookies: ``after_this_request``.
5. Name the route and who may use it in ``access.WHO``. Without that the app does not start. For ``MEMBER``, ``OWNER``
   and ``ADMIN`` the session is asked for before the view begins; ``signed_in(service())`` is its wallet.
6. HTML pages stay on a plain ``flask.Blueprint``; they too are in ``access.WHO``. Every route is in
   ``docs/architecture.md``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from flask import Response, jsonify, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.info import Info
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from coordinator.web.access import SESSIONS, WHO
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
    """What the document says of a route: the rule with its prefix, what is sent, what comes back at success."""

    rule: str
    body: type[BaseModel] | None
    status: int
    answer: type[BaseModel]


class Routes(APIBlueprint):
    """A blueprint of JSON routes that are in the document, with what they take and what they answer."""

    def __init__(self, name: str, import_name: str, *, tag: str, **options: Any) -> None:
        super().__init__(name, import_name, abp_tags=[Tag(name=tag)], abp_responses={"default": _PROBLEM}, **options)
        self.operations: dict[str, Operation] = {}

    def get(self, rule: str, **options: Any) -> Callable[[View], View]:
        return self._route(super().get, rule, 200, options)

    def post(self, rule: str, *, status: int = 200, **options: Any) -> Callable[[View], View]:
        return self._route(super().post, rule, status, options)

    def delete(self, rule: str, **options: Any) -> Callable[[View], View]:
        return self._route(super().delete, rule, 200, options)

    def _route(
        self, method: Callable[..., Any], rule: str, status: int, options: dict[str, Any]
    ) -> Callable[[View], View]:
        def register(view: View) -> View:
            hints = get_type_hints(view)
            name = view.__name__
            whole = (self.url_prefix or "") + rule
            self.operations[name] = Operation(whole, hints.get("body"), status, hints["return"])
            summary, _, rest = (inspect.getdoc(view) or "").partition("\n")
            method(
                rule,
                summary=summary,
                description=" ".join(rest.split()) or summary,
                operation_id=name,
                responses={status: hints["return"]},
                **options,
            )(view)
            return view

        return register

    @staticmethod
    def create_view_func(  # type: ignore[override]
        func: Callable[..., BaseModel],
        header: type[BaseModel] | None,
        cookie: type[BaseModel] | None,
        path: type[BaseModel] | None,
        query: type[BaseModel] | None,
        form: type[BaseModel] | None,
        body: type[BaseModel] | None,
        raw: type[BaseModel] | None,
        responses: Mapping[int, type[BaseModel]],
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
            answer = jsonify(func(**given).model_dump(mode="json"))
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
        self._operations: dict[str, Operation] = {}

    def register_api(self, api: APIBlueprint, **options: Any) -> None:
        super().register_api(api, **options)
        if isinstance(api, Routes):
            self._operations.update(api.operations)

    def generate_spec_json(self) -> None:
        """The library's document, with the schemas as pydantic writes them: one for what is sent, one for answers."""
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        known = self._operations.values()
        sent: set[_Written] = {(one.body, _SENT) for one in known if one.body}
        answered: set[_Written] = {(one.answer, _ANSWERED) for one in known} | {(Problem, _ANSWERED)}
        order = sorted(sent | answered, key=lambda one: (one[0].__name__, one[1]))
        references, schemas = models_json_schema(order, ref_template=SCHEMAS)
        self.spec_json["components"]["schemas"] = schemas["$defs"]
        for path in self.spec_json["paths"].values():
            for method, written in path.items():
                one = self._operations[written["operationId"]]
                if one.body:
                    written["requestBody"]["content"] = {"application/json": {"schema": references[one.body, _SENT]}}
                content = {"application/json": {"schema": references[one.answer, _ANSWERED]}}
                written["responses"][str(one.status)]["content"] = content
                who = WHO[f"{method.upper()} {one.rule}"]
                written["x-who"] = who.value
                if who in SESSIONS:
                    written["security"] = [{"bearer": []}, {"cookie": []}]


_ABOUT = "What members, admins and readers ask a DAO's coordinator. Errors are problem documents (RFC 9457)."
_PROBLEM = {"description": "A problem", "content": {PROBLEM: {"schema": {"$ref": SCHEMAS.format(model="Problem")}}}}
_Written = tuple[type[BaseModel], JsonSchemaMode]
_SENT: JsonSchemaMode = "validation"
_ANSWERED: JsonSchemaMode = "serialization"
