"""The crowd's database is one that the coordinator itself could have left behind."""

from pathlib import Path

from bench.web.filled import Size, fill
from bench.web.served import prepared
from coordinator.config import CoordinatorSettings
from coordinator.rounds import events
from coordinator.rounds.events import is_chain
from coordinator.web.app import create_app
from coordinator.web.service import Service
from coordinator.web.views import releases

SIZE = Size(members=8, releases=3, contributors=4)


def test_the_filled_database_holds_what_the_ledger_would_have_written(tmp_path: Path) -> None:
    settings = CoordinatorSettings.load(prepared(tmp_path / "dao"))
    app = create_app(settings)
    service: Service = app.extensions["coterie"]
    fill(service.database, settings.base_hash, tmp_path, SIZE)
    with service.database.reading() as session:
        listed = releases(session)
        log = events.after(session, 0)
    assert is_chain(log) and len(log) == events_expected()
    assert [len(one.manifest.contributions) for one in listed] == [4, 4, 4]
    assert [len(one.manifest.removals) for one in listed] == [2, 2, 0]
    for release in listed:
        release.manifest.check(release.manifest.files)
    assert app.test_client().get("/").status_code == 200
    service.database.close()


def events_expected() -> int:
    """A grant of every member; of every round its opening and its release; a contribution of whoever was in any."""
    contributed = {member for number in range(SIZE.releases) for member in SIZE.window(number)}
    return SIZE.members + 2 * SIZE.releases + len(contributed)
