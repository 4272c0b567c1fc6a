"""Long lists come in pieces over HTTP, and those who need the whole of one put it together."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from flask import Flask, Response, after_this_request
from web_parts import plain_app, plain_settings
from werkzeug.serving import make_server

from client.coordinator_api import CoordinatorApi
from contracts_abi.model import Snapshot
from coordinator.config import CoordinatorSettings
from coordinator.database import RoundRow
from coordinator.orders import call
from coordinator.web import api
from processes.ports import free_ports
from protocol.errors import Unreachable
from protocol.grant import RoundPlan

pytestmark = pytest.mark.slow
MANY = 205


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorSettings]:
    """A coordinator after many rounds."""
    folder, (port,) = tmp_path_factory.mktemp("web"), free_ports(1)
    with plain_app(folder, port=port) as app:
        _fill(app)
        server = make_server("127.0.0.1", port, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield plain_settings(folder, port=port)
        server.shutdown()
        thread.join()


def _fill(app: Flask) -> None:
    snapshot = Snapshot(chain_id=1, number=1, hash="0x" + "0" * 64, timestamp=1)
    with app.extensions["coterie"].database.writing() as session:
        for number in range(1, MANY + 1):
            session.add(
                RoundRow(
                    round_id=f"{number:016x}",
                    number=number,
                    kind="training",
                    state="cancelled",
                    epoch=1,
                    plan=RoundPlan().model_dump_json(),
                    policy_hash="",
                    base_hash="",
                    snapshot=snapshot.model_dump_json(),
                    opened_at=number,
                    deadline=number,
                )
            )


def test_a_member_gets_the_whole_of_a_long_list(served: CoordinatorSettings) -> None:
    numbers = [one.number for one in CoordinatorApi(served.public_uri).rounds()]
    assert numbers == list(range(MANY, 0, -1))


def test_an_admin_gets_the_whole_of_a_long_list(served: CoordinatorSettings) -> None:
    assert [one["number"] for one in call(served, "GET", "rounds")] == list(range(MANY, 0, -1))


def test_only_the_query_of_a_link_is_followed(served: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever address the link names, the member's side asks the coordinator again."""

    def elsewhere(limit: int, after: int) -> None:
        @after_this_request
        def linked(answer: Response) -> Response:
            answer.headers["Link"] = f'<http://127.0.0.1:9/evil?limit={limit}&after={after}>; rel="next"'
            return answer

    monkeypatch.setattr(api, "point_to_next", elsewhere)
    assert len(CoordinatorApi(served.public_uri).rounds()) == MANY


def test_a_list_without_an_end_is_given_up(served: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.coordinator_api.MAX_PIECES", 2)
    with pytest.raises(Unreachable, match="do not end"):
        CoordinatorApi(served.public_uri).rounds()
