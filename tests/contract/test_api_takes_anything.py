"""Whatever the OpenAPI document allows is sent to a real coordinator on a real chain: nothing fails, all is as it says.

Schemathesis makes up the requests, the same ones each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import schemathesis
from conftest import Chain
from hypothesis import HealthCheck, Phase, given, settings
from round_parts import write_small_base
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.schemas import OpenApiSchema
from test_coordinator_api import ALICE, Coordinator
from web_parts import UNCOUNTED

from coordinator.web.access import WHO
from coordinator.web.app import create_app
from coordinator.web.limits import KINDS, Kind

pytestmark = pytest.mark.slow

HELD = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)
LISTS = ("GET /api/v1/rounds", "GET /api/v1/releases", "GET /api/v1/events")


@pytest.fixture(scope="module")
def here(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    chain.anvil.finalize()
    folder = tmp_path_factory.mktemp("web")
    there = Coordinator(chain, folder, write_small_base(folder / "base"))
    there.service.database.close()
    there.app = create_app(there.settings.model_copy(update=UNCOUNTED), there.registered)
    there.client = there.app.test_client()
    yield there
    there.service.database.close()


@pytest.fixture(scope="module")
def document(here: Coordinator) -> OpenApiSchema:
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", here.app, config=SchemathesisConfig())


def tried() -> list[tuple[str, GenerationMode]]:
    """What fits the document, to every route; what does not, where there is something to be wrong."""
    described = [route for route in WHO if " /api/" in route and KINDS.get(route) is not Kind.STREAMS]
    described.remove("GET /api/v1/openapi.json")
    wrong = [one for one in described if one.startswith("POST ") or one in LISTS]
    return [(one, GenerationMode.POSITIVE) for one in described] + [(one, GenerationMode.NEGATIVE) for one in wrong]


@pytest.mark.parametrize(("route", "mode"), tried())
def test_no_request_makes_the_coordinator_fail(
    here: Coordinator, document: OpenApiSchema, route: str, mode: GenerationMode
) -> None:
    """Each is sent by nobody and by a member; the member signs in anew where the session has ended."""
    method, rule = route.split()
    operation = document[re.sub(r"<(\w+)>", r"{\1}", rule)][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=8,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: Case) -> None:
        case.call_and_validate(checks=HELD)
        case.call_and_validate(headers=session_of(here), checks=HELD)

    holds()


def session_of(here: Coordinator) -> dict[str, str]:
    headers: dict[str, str] = here.app.extensions.setdefault("session in the test", {})
    if here.client.get("/api/v1/wallets", headers=headers).status_code == 401:
        headers.update(here.sign_in(ALICE))
    return headers
