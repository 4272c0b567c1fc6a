"""The front page, from the real Flask app over a real database that the real ledger has filled."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from dao_parts import NOW, URI, Dao, Links, published, sold, two_members
from sqlalchemy import select
from werkzeug.test import TestResponse

from coordinator.database import EventRow, RoundRow
from coordinator.rounds import events
from coordinator.web.access import SESSIONS, WHO


@pytest.fixture
def dao(tmp_path: Path) -> Iterator[Dao]:
    there = Dao(tmp_path)
    yield there
    there.service.database.close()


def test_before_the_first_round_the_page_says_how_to_take_part(dao: Dao) -> None:
    page = dao.page()
    assert "Nouns &amp; friends" in page
    assert "Nothing has been released yet" in page
    assert f"coterie join {URI}" in page
    assert "No round has been started yet" in page


def test_a_round_under_way_shows_how_many_contributions_are_in(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    dao.contribute(round_id, alice)
    page = dao.page()
    assert "members are training, each on their own machine; 1 of 2 contributions are in" in page
    assert re.search(r'aria-current="step">train<', page)
    assert "live, not merged yet" in dao.page(f"/rounds/{round_id}")


def test_a_failed_round_tells_its_reason(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    dao.contribute(round_id, alice)
    dao.now += 601
    dao.step(round_id)
    page = dao.page()
    assert "The newest round ended without a release." in page
    assert "The deadline has passed with 1 of 2 contributions. The quorum is 2." in page
    assert "Nothing has been released yet" in page


def test_a_published_release_shows_its_cid_its_pictures_and_who_is_in_it(dao: Dao) -> None:
    alice, _, cid = published(dao)
    page = dao.page()
    assert f"coterie pull {cid} --gateway {URI} --into collective" in re.sub("<[^>]+>", "", page)
    assert f'src="/ipfs/{cid}/samples.png"' in page
    assert "from 0.452 to 0.179" in page
    assert "CBE-COMMERCIAL AND CC0" in page
    assert f"coterie verify {cid} --gateway {URI}" in re.sub("<[^>]+>", "", page)
    assert page.count("50.0%") == 2  # two threads
    assert alice in page and f"{alice[:6]}…{alice[-4:]}" in page
    of_it = dao.page("/releases/1")
    assert of_it.count("50.0%") == 2  # two contributions
    assert "and 1 kept for scoring" in of_it
    assert "were checked and hang together" in dao.page("/log")


def test_what_was_left_out_is_told_once_for_each_reason(dao: Dao) -> None:
    published(dao)
    assert "2 tokens stayed out" in dao.page()
    page = dao.page("/left-out")
    assert "Personal Nouns #7 #8" in page
    assert page.count("CBE-PERSONAL does not allow derivatives") == 1


def test_the_sample_sheet_comes_from_the_same_origin_as_a_picture(dao: Dao) -> None:
    *_, cid = published(dao)
    answer = dao.client.get(f"/ipfs/{cid}/samples.png")
    assert (answer.status_code, answer.content_type) == (200, "image/png")
    assert answer.data == dao.samples


def test_between_sale_and_removal_the_page_warns_of_the_release(dao: Dao) -> None:
    published(dao)
    sold(dao)
    page = dao.page()
    assert "Part of this release has ended." in page
    assert "A removal round is under way" in page


def test_after_a_removal_the_history_says_who_went_and_why(dao: Dao) -> None:
    alice, bob, first = published(dao)
    second = dao.publish(sold(dao))
    page = dao.page()
    assert first != second
    assert page.index(second) < page.index(first)
    assert "Part of this release has ended" not in page
    went = page[page.index('<span class="sign went">') :]
    assert f"{bob[:6]}…{bob[-4:]}" in went[:200]
    assert "ends for the seller with the transfer" in went[:600]
    assert "100.0%" in page  # alice's share now
    assert "holds what has ended since" in page  # the first release
    assert alice in page


def test_text_from_the_chain_is_never_markup(dao: Dao) -> None:
    two_members(dao)
    with dao.service.database.writing() as session:
        events.append(session, NOW, "test", "<script>alert(1)</script>")
    for path in ("/", "/log"):
        page = dao.page(path)
        assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_log_that_was_changed_is_told(dao: Dao) -> None:
    published(dao)
    with dao.service.database.writing() as session:
        row = session.get_one(EventRow, 2)
        row.body = row.body.replace("granted", "was granted")
    page = dao.page("/log")
    assert "do not hang together" in page and "Line 2 does not follow" in page
    assert "were checked and hang together" not in page


@dataclass(frozen=True)
class AllPages:
    """A DAO's public pages as they were answered, by path."""

    dao: Dao
    answers: dict[str, TestResponse]


PAGES = ("/", "/releases", "/rounds", "/left-out", "/rules", "/log")


@pytest.fixture(scope="module", params=["none", "published", "under way", "removed"])
def all_pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AllPages]:
    """A DAO in each state, with the answers of all its public pages."""
    dao = Dao(tmp_path_factory.mktemp("dao"))
    paths = list(PAGES)
    if request.param != "none":
        published(dao)
        paths += ["/releases/1", "/releases/compare"]
    if request.param == "under way":
        dao.now += 60
        dao.start_round()
    if request.param == "removed":
        dao.publish(sold(dao))
        paths.append("/releases/2")
    with dao.service.database.reading() as session:
        rounds = session.scalars(select(RoundRow.round_id)).all()
    paths += [path for one in rounds for path in (f"/rounds/{one}", f"/rounds/{one}/progress")]
    yield AllPages(dao, {path: dao.client.get(path) for path in paths})
    dao.service.database.close()


def test_no_page_asks_anything_of_anyone_else(all_pages: AllPages) -> None:
    for path, answer in all_pages.answers.items():
        assert answer.status_code == 200, path
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        links = Links(answer.text)
        assert not links.blocked, path
        assert all(one.startswith(("/", "#", "?")) and not one.startswith("//") for one in links.targets), path


def test_every_link_on_every_page_leads_somewhere(all_pages: AllPages) -> None:
    found = {(path, one) for path, answer in all_pages.answers.items() for one in Links(answer.text).targets}
    for path, target in sorted(found):
        where, _, part = target.partition("#")
        if where.startswith(("/api/v1/", "/ipfs/")):
            continue
        answer = all_pages.dao.client.get(where or path)
        status = 401 if WHO.get(f"GET {where}") in SESSIONS else 200  # which asks to sign in
        assert answer.status_code == status, f"{path}: {target}"
        assert not part or f'id="{part}"' in answer.text, f"{path}: {target}"


def test_every_page_has_one_name_landmarks_and_headings_in_order(all_pages: AllPages) -> None:
    for path, answer in all_pages.answers.items():
        if path.endswith("/progress"):
            continue
        levels = [int(level) for level in re.findall(r"<h([1-6])", answer.text)]
        assert levels[0] == 1 and levels.count(1) == 1, path
        assert all(after <= before + 1 for before, after in pairwise(levels)), f"{path}: {levels}"
        assert answer.text.count("<main ") == answer.text.count("<footer ") == 1, path
        names = re.findall(r'\bid="([^"]+)"', answer.text)
        assert len(names) == len(set(names)), path


def test_the_style_sheet_loads_nothing_else(dao: Dao) -> None:
    css = dao.client.get("/static/page.css").get_data(as_text=True)
    assert "@import" not in css and "url(" not in css
