"""The OpenAPI document: all JSON routes are in it, with what they take, what they answer, and who may use them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, jsonify
from web_parts import ROOT, plain_app

from coordinator.web import access, problems
from coordinator.web.access import SESSIONS, WHO
from coordinator.web.api import list_rounds
from coordinator.web.limits import KINDS, Kind
from coordinator.web.openapi import Routes
from protocol.errors import CoterieError


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    with plain_app(tmp_path_factory.mktemp("web")) as there:
        yield there


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    return dict(app.test_client().get("/api/v1/openapi.json").json)


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``GET /api/v1/rounds/{round_id}`` → the operation."""
    return {
        f"{method.upper()} {path}": written
        for path, methods in document["paths"].items()
        for method, written in methods.items()
    }


def test_every_route_of_the_api_is_in_the_document(document: dict[str, Any]) -> None:
    routes = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route) for route in WHO if " /api/" in route}
    streams = {route for route in routes if KINDS.get(route) == "streams"}
    assert document["openapi"] == "3.1.0"
    assert set(operations(document)) | streams | {"GET /api/v1/openapi.json"} == routes


def test_every_operation_says_what_it_is_for_whom_it_is_and_what_comes_back(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name, written in operations(document).items():
        assert written["summary"].endswith("."), name
        who = access.Who(written["x-who"])
        assert (written.get("security") is not None) == (who in SESSIONS), name
        answers = {key: next(iter(one["content"].items())) for key, one in written["responses"].items()}
        _, problem = answers.pop("default")
        assert problem["schema"]["$ref"] == "#/components/schemas/Problem", name
        [(kind, answer)] = answers.values()
        if kind == "application/json":  # a file has no model
            assert answer["schema"]["$ref"].removeprefix("#/components/schemas/") in schemas, name


def test_no_page_comes_with_the_document(app: Flask) -> None:
    assert not [rule.rule for rule in app.url_map.iter_rules() if "swagger" in rule.rule or "redoc" in rule.rule]


def test_an_app_with_a_route_that_is_not_in_the_table_does_not_start(tmp_path: Path) -> None:
    with plain_app(tmp_path) as app:
        app.add_url_rule("/secret", "secret", lambda: jsonify(all="of it"))
        with pytest.raises(LookupError, match="GET /secret"):
            access.guard(app)


def test_two_views_of_one_name_are_told_when_the_coordinator_starts(tmp_path: Path) -> None:
    again = Routes("again", __name__, tag="Again")
    again.get("/api/v1/again")(list_rounds)
    with plain_app(tmp_path) as app, pytest.raises(LookupError, match="list_rounds"):
        app.register_api(again)


def test_the_tables_name_no_route_that_is_not_there(app: Flask) -> None:
    assert set(KINDS) <= set(WHO)


# docs/api.md ----------------------------------------------------------------------------------------------------------


def table(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table below ``## heading``, without backticks."""
    section = (ROOT / "docs" / "api.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip().replace("`", "") for cell in row) for row in rows[1:]]


def test_the_documented_table_of_who_may_use_what_is_the_one_in_force() -> None:
    documented = {route: (who, counted) for route, who, counted in table("Who may use what")}
    in_force = {route: (who.value, counted_as(route)) for route, who in WHO.items()}
    missing = [
        f"| `{route}` | {who} | {f'`{counted}`' if counted != 'nothing' else counted} |"
        for route, (who, counted) in in_force.items()
        if documented.get(route) != (who, counted)
    ]
    assert not missing, "docs/api.md lacks:\n" + "\n".join(missing)
    assert set(documented) == set(in_force)


def counted_as(route: str) -> str:
    kind = KINDS.get(route, Kind.READS if route.startswith("GET ") else Kind.ACTS)
    return f"limit_{kind}" if kind else "nothing"


def test_every_error_is_documented_with_its_status() -> None:
    known = {
        (kind.code, str(kind.status)) for kind in CoterieError.__subclasses__() if kind.__module__ == "protocol.errors"
    }
    known |= {(code, str(status)) for status, (code, _, _) in problems.HTTP_CODES.items()}
    assert {(code, status) for code, status, *_ in table("Errors")} == known
