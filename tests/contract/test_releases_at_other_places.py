"""A release beyond the local store: at a real IPFS node, at a pinning service, at mirrors; lost there and put back."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server
from release_parts import PinningServer, manifest_of, merged_contribution, publish
from round_parts import write_small_base

from coordinator.cli import app
from coordinator.config import CoordinatorSettings
from coordinator.database import ContributionRow, Database
from coordinator.releases.gateway import respond
from coordinator.releases.pinning import Pin, Pinning, check_all, pause, pins
from coordinator.releases.places import MirrorPlace, NodePlace, ServicePlace, State, places_of
from coordinator.releases.store import CarStore
from coordinator.rounds.worker import Worker
from deploy.ipfs.node import IpfsNode
from ipfs.kubo import Kubo
from protocol.car import write_car
from protocol.errors import BadInput, ContentMismatch, Unreachable
from protocol.policy import AdminRole, CollectionRule, Policy
from protocol.unixfs import Cid, build_directory

pytestmark = pytest.mark.slow

FILES = {"manifest.json": b'{"round": 1}', "weights/adapter.bin": bytes(range(256)) * 9000, "家/Дом.txt": b"home"}
TOKEN = "s3cret-of-the-service"
CHECK_S = 3600.0


@pytest.fixture(scope="module")
def node() -> Iterator[IpfsNode]:
    with IpfsNode() as running:
        yield running


@pytest.fixture
def kubo(node: IpfsNode, monkeypatch: pytest.MonkeyPatch) -> Kubo:
    monkeypatch.setattr("ipfs.kubo.TIMEOUT_S", (5.0, 20.0))
    return Kubo(node.api)


class Dao:
    """A database with releases, a store that has them, and a clock that the test turns."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.database = Database(f"sqlite:///{folder / 'coordinator.sqlite'}")
        self.store = CarStore(folder / "cars")
        self.folder = folder

    def release(self, number: int = 1, contributions: tuple = ()) -> Cid:
        cid = self.store.put({**FILES, "number": str(number).encode()})
        publish(self.database, number, str(cid), manifest_of(contributions))
        return cid

    def pinning(self, *places) -> Pinning:
        return Pinning(self.database, self.store, places, CHECK_S, lambda: self.now)

    def pins(self) -> list[Pin]:
        with self.database.reading() as session:
            return pins(session)


@pytest.fixture
def dao(tmp_path: Path) -> Iterator[Dao]:
    here = Dao(tmp_path)
    yield here
    here.database.close()


@pytest.fixture
def mirror(dao: Dao) -> Iterator[Server]:
    """Another gateway with the same store."""

    def answer(path: str, query: dict[str, list[str]]):
        _, _, cid, *rest = path.split("/")
        status, content_type, body = respond(dao.store, cid, "/".join(rest), query["format"][0])
        return status, {"Content-Type": content_type}, [body] if isinstance(body, bytes) else body

    with Server(answer) as server:
        yield server


def test_a_release_is_pinned_at_the_node_and_read_back_block_by_block(dao: Dao, kubo: Kubo) -> None:
    cid = dao.release()
    assert not kubo.pinned(cid)
    dao.pinning(NodePlace(kubo)).step()
    assert dao.pins() == [Pin(str(cid), f"node {kubo.name}", State.VERIFIED, "", 1000)]
    assert kubo.pinned(cid)
    with kubo.export(cid) as pieces:
        assert b"".join(pieces) == dao.store.car(cid).read_bytes()


def test_what_the_node_lost_is_pinned_again_at_the_next_check(dao: Dao, kubo: Kubo) -> None:
    cid = dao.release(2)
    pinning = dao.pinning(NodePlace(kubo))
    pinning.step()
    kubo.unpin(cid)
    pinning.step()
    assert not kubo.pinned(cid), "nothing is due before its time"
    dao.now += CHECK_S
    pinning.step()
    assert kubo.pinned(cid)


def test_the_node_s_addresses_may_be_a_multiaddr_or_a_url(node: IpfsNode, dao: Dao) -> None:
    cid = dao.release(3)
    port = node.api.rpartition(":")[2]
    for address in (f"/ip4/127.0.0.1/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}/http", f"http://localhost:{port}/"):
        assert not Kubo(address).pinned(cid)


@pytest.mark.parametrize("address", ["", "here", "/ip4/127.0.0.1", "/unix/x", "ftp://x", "http://u:p@h:1/path", "/x/y"])
def test_what_is_no_node_s_address_is_refused_without_being_repeated(address: str) -> None:
    with pytest.raises(BadInput, match="ipfs_api") as refused:
        Kubo(address)
    assert "u:p" not in str(refused.value)


def test_a_node_s_password_is_never_shown() -> None:
    node = Kubo("http://admin:hunter2@127.0.0.1:9")
    assert node.name == "http://127.0.0.1:9"
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9") as unreachable:
        node.pinned(Cid.of(0x55, b""))
    assert "hunter2" not in str(unreachable.value)


def test_a_node_that_is_down_is_tried_again_and_the_release_is_out_all_the_same(dao: Dao) -> None:
    cid = dao.release()
    place = NodePlace(Kubo("http://127.0.0.1:9"))
    pinning = dao.pinning(place)
    pinning.step()
    [pin] = dao.pins()
    assert pin.state is State.WAITING and "No IPFS node answers at http://127.0.0.1:9" in pin.reason
    assert dao.store.verify(cid)
    with dao.database.reading() as session:
        assert [one.cid for one in pins(session)] == [str(cid)]
    with IpfsNode() as back:
        place._node = Kubo(back.api)
        dao.now += 4
        pinning.step()
        assert dao.pins()[0].state is State.WAITING, "five seconds after the first failure"
        dao.now += 1
        pinning.step()
        assert dao.pins()[0].state is State.VERIFIED


def test_a_node_that_is_killed_in_the_middle_gets_it_at_the_next_try(dao: Dao) -> None:
    cid = dao.release()
    with IpfsNode() as node:
        pinning = dao.pinning(NodePlace(Kubo(node.api)))
        os.kill(node._process.pid, signal.SIGKILL)
        node._process.wait()
        pinning.step()
        assert dao.pins()[0].state is State.WAITING
    with IpfsNode() as fresh:
        again = NodePlace(Kubo(fresh.api))
        assert again.settle(cid, dao.store.car(cid), "").state is State.VERIFIED


def test_a_node_that_has_a_part_of_it_gets_the_rest(dao: Dao, kubo: Kubo) -> None:
    """js-ipfs imports what is incomplete and says that all is well; only reading back tells."""
    files = {"a": b"x" * 3_000_000, "b": b"here only"}
    root, blocks = build_directory(files)
    lacking = io.BytesIO()
    write_car(root, list(blocks)[:-1], lacking)
    lacking.seek(0)
    with contextlib.suppress(AssertionError):  # the library wants one line in answer; without a pin there is none
        kubo._client.dag.imprt(lacking, opts={"pin-roots": "false"})
    cid = dao.store.put(files)
    assert NodePlace(kubo).settle(cid, dao.store.car(cid), "").state is State.VERIFIED
    with kubo.export(cid) as pieces:
        assert b"".join(pieces) == dao.store.car(cid).read_bytes()


def test_a_damaged_car_is_never_given_away_as_whole(dao: Dao, kubo: Kubo) -> None:
    cid = dao.release(9)
    car = dao.store.car(cid)
    car.write_bytes(car.read_bytes().replace(b"home", b"hole"))
    dao.pinning(NodePlace(kubo)).step()
    assert dao.pins()[0].state is State.WAITING
    car.unlink()
    dao.now += CHECK_S
    dao.pinning(NodePlace(kubo)).step()
    assert "not in the store" in dao.pins()[0].reason


def test_a_mirror_that_serves_it_is_verified_and_one_that_lies_is_told(dao: Dao, mirror: Server) -> None:
    cid = dao.release()
    dao.pinning(MirrorPlace(mirror.url + "/")).step()
    assert dao.pins() == [Pin(str(cid), f"mirror {mirror.url}", State.VERIFIED, "", 1000)]
    forged = dao.store.car(cid).read_bytes().replace(b"home", b"hole")
    other = dao.store.car(dao.store.put({"other": b"x"})).read_bytes()
    car_type = {"Content-Type": "application/vnd.ipld.car"}
    with Server(lambda *_: (200, car_type, forged)) as liar, pytest.raises(ContentMismatch):
        MirrorPlace(liar.url).settle(cid, dao.store.car(cid), "")
    with Server(lambda *_: (404, {}, b"")) as empty, pytest.raises(Unreachable, match="404"):
        MirrorPlace(empty.url).settle(cid, dao.store.car(cid), "")
    with Server(lambda *_: (200, car_type, other)) as liar, pytest.raises(ContentMismatch, match="missing there"):
        MirrorPlace(liar.url).settle(cid, dao.store.car(cid), "")


def test_a_pinning_service_is_asked_once_and_then_looked_at_until_it_has_pinned(dao: Dao, kubo: Kubo) -> None:
    cid = dao.release()
    with PinningServer(TOKEN) as service:
        pinning = dao.pinning(ServicePlace(service.url, TOKEN, kubo))
        states = []
        for _ in range(3):
            pinning.step()
            states.append(dao.pins()[0].state)
            dao.now += 60
        assert states == [State.PINNING, State.PINNING, State.PINNED]
        assert [one for one in service.asked if one.startswith("POST")] == ["POST /pins"]
        [pin] = service.pins.values()
        assert pin["pin"]["cid"] == str(cid)
        dao.now += CHECK_S
        pinning.step()
        assert dao.pins()[0].state is State.PINNED and len(service.pins) == 1
        service.pins.clear()
        dao.now += CHECK_S
        pinning.step()
        assert dao.pins()[0].state is State.PINNING and len(service.pins) == 1, (
            "what the service lost is asked for again"
        )


def test_a_request_that_was_forgotten_here_is_found_again_there(dao: Dao) -> None:
    dao.release()
    with PinningServer(TOKEN, ["queued"]) as service:
        dao.pinning(ServicePlace(service.url, TOKEN, None)).step()
        service.troubles = [(500, b"oops")]
        dao.now += 60
        dao.pinning(ServicePlace(service.url, TOKEN, None)).step()
        assert dao.pins()[0].state is State.WAITING
        dao.now += 60
        dao.pinning(ServicePlace(service.url, TOKEN, None)).step()
        assert dao.pins()[0].state is State.PINNING and len(service.pins) == 1


def test_a_service_that_failed_is_asked_anew(dao: Dao) -> None:
    dao.release()
    with PinningServer(TOKEN, ["queued", "failed"]) as service:
        told = []
        for _ in range(3):
            dao.pinning(ServicePlace(service.url, TOKEN, None)).step()
            told.append(dao.pins()[0])
            dao.now += 60
        assert [pin.state for pin in told] == [State.PINNING, State.WAITING, State.PINNING]
        assert "could not pin it: Queue position: 3 of 9" in told[1].reason
        assert len(service.pins) == 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ((500, b"<html>"), "answered 500"),
        ((200, b"[]"), "answered 200"),
        ((302, b"{}"), "answered 302"),
        ((402, json.dumps({"error": {"reason": "INSUFFICIENT_FUNDS", "details": "\x1b[31mPay"}}).encode()), "FUNDS"),
    ],
)
def test_a_service_in_trouble_is_told_with_its_words_made_harmless(dao: Dao, trouble: tuple[int, bytes], words: str):
    cid = dao.release()
    with PinningServer(TOKEN) as service:
        service.troubles = [trouble]
        with pytest.raises(Unreachable, match=words) as told:
            ServicePlace(service.url, TOKEN, None).settle(cid, dao.store.car(cid), "")
    assert "\x1b" not in str(told.value)


def test_a_service_that_answers_for_another_cid_is_not_believed(dao: Dao) -> None:
    cid = dao.release()
    other = {"requestid": "1", "status": "pinned", "pin": {"cid": str(Cid.of(0x55, b"other"))}}
    with PinningServer(TOKEN) as service:
        service.troubles = [(200, json.dumps({"results": [other]}).encode())]
        with pytest.raises(Unreachable, match="does not answer for"):
            ServicePlace(service.url, TOKEN, None).settle(cid, dao.store.car(cid), "")


def test_the_token_is_in_no_message_no_row_and_no_setting_that_is_shown(dao: Dao, tmp_path: Path, capfd) -> None:
    dao.release()
    with PinningServer("another one") as service:
        dao.pinning(ServicePlace(service.url, TOKEN, None)).step()
    [pin] = dao.pins()
    assert "401" in pin.reason and "pinning_token" in pin.reason and TOKEN not in repr(pin)
    settings = settings_in(tmp_path, pinning_service="http://127.0.0.1:9", pinning_token=TOKEN)
    assert TOKEN not in repr(settings) and TOKEN not in str(places_of(settings))
    out = capfd.readouterr()
    assert TOKEN not in out.out + out.err


def settings_in(folder: Path, **given) -> CoordinatorSettings:
    return CoordinatorSettings(
        data=folder, rpc_url="http://127.0.0.1:9", policy=folder, base=folder, base_name="b", **given
    )


def test_settings_say_where_releases_are_kept(tmp_path: Path) -> None:
    assert places_of(settings_in(tmp_path)) == []
    everything = settings_in(
        tmp_path,
        ipfs_api="/ip4/127.0.0.1/tcp/5001",
        pinning_service="https://pins.example/api",
        pinning_token=TOKEN,
        mirrors=("https://mirror.example",),
    )
    names = ["node /ip4/127.0.0.1/tcp/5001", "service pins.example", "mirror https://mirror.example"]
    assert [place.name for place in places_of(everything)] == names
    with pytest.raises(BadInput, match="needs `pinning_token`"):
        places_of(settings_in(tmp_path, pinning_service="https://pins.example"))
    with pytest.raises(BadInput, match="http"):
        places_of(settings_in(tmp_path, mirrors=("ipfs://x",)))


def test_a_release_whose_contribution_ended_is_let_go(dao: Dao, kubo: Kubo, mirror: Server, tmp_path: Path) -> None:
    contribution = merged_contribution(tmp_path)
    cid = dao.release(contributions=(contribution,))
    with PinningServer(TOKEN) as service:
        places = (NodePlace(kubo), MirrorPlace(mirror.url), ServicePlace(service.url, TOKEN, kubo))
        pinning = dao.pinning(*places)
        pinning.step()
        assert kubo.pinned(cid) and service.pins
        with dao.database.writing() as session:
            session.get_one(ContributionRow, contribution.contribution_id).state = "dead"
        service.troubles = [(500, b"oops")]
        dao.now += CHECK_S
        pinning.step()
        states = {pin.place.split()[0]: pin.state for pin in dao.pins()}
        assert states == {"node": State.LET_GO, "mirror": State.LET_GO, "service": State.WAITING}
        dao.now += CHECK_S
        pinning.step()
        assert {(pin.state, pin.reason) for pin in dao.pins()} == {(State.LET_GO, "A contribution in it has ended.")}
        assert not kubo.pinned(cid) and not service.pins
        asked = len(service.asked)
        with dao.database.writing() as session:
            check_all(session)
        dao.now += CHECK_S
        pinning.step()
        assert len(service.asked) == asked, "it is never looked at again"
    assert dao.store.verify(cid), "the local store keeps it, for whoever checks what came of it"


def test_a_place_that_stalls_does_not_stop_the_worker_and_an_unexpected_error_is_told(dao: Dao) -> None:
    cid = dao.release()

    class Odd:
        name = "odd"

        def settle(self, cid: Cid, car: Path, request: str):
            time.sleep(0.5)
            raise ZeroDivisionError

        def let_go(self, cid: Cid, request: str) -> None:
            raise NotImplementedError

    pinning = dao.pinning(Odd())
    begun = time.monotonic()
    pinning.tick()
    pinning.tick()
    assert time.monotonic() - begun < 0.4
    pinning._thread.join()
    [pin] = dao.pins()
    assert (pin.cid, pin.state) == (str(cid), State.WAITING) and "ZeroDivisionError" in pin.reason


def test_the_worker_pins_what_is_published_even_while_the_chain_is_silent(node: IpfsNode, tmp_path: Path) -> None:
    rule = CollectionRule(name="Nouns", contract="0x" + "ab" * 20, licence="CC0", evidence="nouns.wtf")
    policy = Policy(dao="d", purpose="p", chain_id=31337, collections=(rule,), admin=AdminRole(contract=rule.contract))
    (tmp_path / "policy.json").write_bytes(policy.canonical())
    settings = CoordinatorSettings(
        data=tmp_path / "data",
        rpc_url="http://127.0.0.1:9",
        policy=tmp_path / "policy.json",
        base=write_small_base(tmp_path / "base"),
        base_name="small",
        ipfs_api=node.api,
    )
    settings.data.mkdir()
    database = Database(settings.database)
    worker = Worker(settings, lambda: None)
    cid = CarStore(settings.store).put({**FILES, "by": b"the worker"})
    publish(database, 1, str(cid), manifest_of())
    worker.tick()
    worker._pinning._thread.join()
    with database.reading() as session:
        assert [pin.state for pin in pins(session)] == [State.VERIFIED]
    assert Kubo(node.api).pinned(cid)


def test_a_place_is_tried_soon_then_later_and_never_later_than_a_check() -> None:
    assert [pause(tries, 3600) for tries in (0, 1, 2, 3, 20)] == [3600, 5, 10, 20, 3600]


def test_the_command_shows_how_every_release_stands(dao: Dao, tmp_path: Path, capsys, monkeypatch) -> None:
    config = tmp_path / "coordinator.toml"
    config.write_text('rpc_url = "http://127.0.0.1:9"\npolicy = "p"\nbase = "b"\nbase_name = "b"\ndata = "."\n')
    monkeypatch.setenv("COTERIE_COORDINATOR_CONFIG", str(config))
    app(["pins", "--config", str(config)], standalone_mode=False)
    assert "nowhere else" in capsys.readouterr().out
    cid = dao.release()
    dao.pinning(NodePlace(Kubo("http://127.0.0.1:9"))).step()
    app(["pins", "--now", "--config", str(config)], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "waiting" in shown and str(cid)[:20] in shown
    assert dao.pinning(NodePlace(Kubo("http://127.0.0.1:9")))._due() == [(str(cid), "node http://127.0.0.1:9")]


def test_a_node_that_has_not_pinned_something_says_so(kubo: Kubo) -> None:
    cid = Cid.of(0x55, b"never there")
    assert not kubo.pinned(cid)
    kubo.unpin(cid)
