"""The pages behind the front page: releases and their comparison, rounds, exclusions, rules, the log with its check."""

import html
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from dao_parts import COMMERCIAL, NOUNS, NOW, PERSONAL, POLICY, Dao, published, sheet, sold, token, two_members
from sqlalchemy import Engine, event

from contracts_abi.model import Token
from coordinator.database import EventRow, RoundRow
from coordinator.rounds import events
from coordinator.web.public import history, pages
from coordinator.web.public.cloth import members_of, pairs_of, ribbon_of
from coordinator.web.public.glance import contract_of, glance_at, id_of
from coordinator.web.public.plain import rules_of, terms_of
from coordinator.web.public.shelf import Shelf
from protocol.canonical import sha256
from protocol.events import GENESIS, chained
from protocol.policy import AdminSafe, AdminWallets, CollectionRule, Policy
from protocol.policy.membership import AnyOf, HoldsErc721, OnList


@pytest.fixture
def dao(tmp_path: Path) -> Iterator[Dao]:
    there = Dao(tmp_path)
    yield there
    there.service.database.close()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dao, str, str]]:
    """A DAO with one release, for tests that only read: (it, alice, the release's CID)."""
    there = Dao(tmp_path_factory.mktemp("dao"))
    alice, _, cid = published(there)
    yield there, alice, cid
    there.service.database.close()


def words(page: str) -> str:
    """What a reader sees."""
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", page)))


def two_releases(dao: Dao) -> tuple[str, str]:
    """Alice and bob's, and after bob's sale alice's alone."""
    *_, first = published(dao)
    return first, dao.publish(sold(dao))


# Releases -------------------------------------------------------------------------------------------------------------


def test_a_release_says_who_contributed_what_how_it_was_merged_and_how_to_check_it(told: tuple[Dao, str, str]) -> None:
    dao, alice, cid = told
    page = dao.page("/releases/1")
    said = words(page)
    assert cid in page and alice in page
    assert "Nouns #1 #2" in said and "Commercial Nouns #4" in said
    assert "Rank 2, the least that keeps nearly everything" in said
    assert "Gain 1, chosen by the scores of 2 members" in said
    assert "regression mean published" in said
    assert "ab" * 3 not in said and "cd" * 32 in said, "the commitment"
    assert f"/rules/{POLICY.digest()}.json" in page
    assert "What you can check yourself" in said


def test_the_licence_is_told_with_the_reasons_for_which_it_is_this_one(told: tuple[Dao, str, str]) -> None:
    dao, *_ = told
    for path in ("/", "/releases/1"):
        said = words(dao.page(path))
        assert "CBE-COMMERCIAL AND CC0 : the strictest of what went in holds for the whole." in said
        assert "It carries no duties." in said
        assert "CC0 Nouns: CC0 allows training. 3" in said
        assert re.search(r"CBE-COMMERCIAL Commercial Nouns: .* admitted on the holder's warrant\. 1 ", said)


def test_what_several_ask_for_at_once_is_made_once() -> None:
    shelf: Shelf[int] = Shelf(4)
    made: list[int] = []
    begin, go_on = Event(), Event()

    def make() -> int:
        begin.set()
        go_on.wait(5)
        made.append(1)
        return 7

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(shelf.get_or, "page", make)
        begin.wait(5)
        others = [pool.submit(shelf.get_or, "page", make) for _ in range(2)]
        go_on.set()
        assert {one.result(5) for one in (first, *others)} == {7}
    assert made == [1]


def test_a_release_that_was_followed_by_another_says_so(dao: Dao) -> None:
    two_releases(dao)
    assert "This is not the newest release." in dao.page("/releases/1")
    assert "This release holds what has ended since." in dao.page("/releases/1")
    assert "This is not the newest release." not in dao.page("/releases/2")


def test_the_swatches_stand_beside_the_words_they_were_drawn_from(dao: Dao) -> None:
    dao.samples = sheet(columns=2)  # as many as there are captions that were trained on
    published(dao)
    page = dao.page()
    assert "head 2" in page and "head 4" in page and 'alt="After: head 4"' in page
    assert page.count('class="of-2 column-1 below"') == 1
    assert "Words that call it up" in page and "<q>head</q>" in page


def test_a_sheet_that_is_not_divided_as_the_captions_are_is_shown_as_it_is(told: tuple[Dao, str, str]) -> None:
    dao, *_ = told
    page = dao.page()
    assert "column-1" not in page
    assert "Drawn from, left to right:" in page and "<li>head 2</li>" in page


def test_the_line_of_releases_goes_on_over_pages(dao: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RELEASES_A_PAGE", 1)
    first, second = two_releases(dao)
    newest = dao.page("/releases")
    assert "Release 2" in newest and "Release 1<" not in newest and 'href="/releases?before=2"' in newest
    assert 'class="sign went"' in newest and 'class="sign came"' not in newest, "the parent is known beyond the page"
    older = dao.page("/releases?before=2")
    assert "Release 1<" in older and "Older releases" not in older and "The newest" in older
    assert first != second


def test_two_releases_are_compared_on_the_words_that_both_were_drawn_from(dao: Dao) -> None:
    dao.samples = sheet(columns=2)
    *_, first = published(dao)
    round_id = sold(dao)
    dao.samples = sheet(columns=1)
    second = dao.publish(round_id)
    page = dao.page("/releases/compare?a=1&b=2")
    said = words(page)
    assert f"/ipfs/{first}/samples.png" in page and f"/ipfs/{second}/samples.png" in page
    assert 'alt="Release 1: head 2"' in page and 'alt="Release 2: head 2"' in page and "head 4" not in page
    assert "The dice are not the same everywhere" in said
    assert '<input type="range"' in page
    assert "Members 2 1" in said and "Licence CBE-COMMERCIAL AND CC0 CC0" in said and "Rank 2 the same" in said
    assert "went 50.0% none" in said
    assert dao.page("/releases/compare") == page, "the newest two"


def test_releases_that_share_no_words_are_shown_below_each_other(dao: Dao) -> None:
    two_releases(dao)
    page = dao.page("/releases/compare?a=1&b=2")
    assert '<input type="range"' not in page
    assert page.count("Sample sheet of release") == 4


def test_what_is_not_there_is_told_to_a_person_on_a_page(told: tuple[Dao, str, str]) -> None:
    dao, *_ = told
    browser = {"Accept": "text/html"}
    for path, said in (
        ("/releases/7", "There is no release 7."),
        ("/releases/compare?a=1&b=9", "There is no release 9."),
        ("/rounds/none", "There is no round none."),
        ("/rules/" + "0" * 64 + ".json", "No policy with this fingerprint was ever in force here."),
        ("/rules/mine.json", "A policy is called by its fingerprint, 64 hex digits."),
    ):
        answer = dao.client.get(path, headers=browser)
        assert answer.status_code == 404 and said in answer.text and "<h1>" in answer.text, path
    answer = dao.client.get("/releases?before=1e3", headers=browser)
    assert answer.status_code == 400 and "before is a whole number." in answer.text


# Rounds ---------------------------------------------------------------------------------------------------------------


def test_a_round_says_who_contributed_and_who_did_not_and_why(dao: Dao) -> None:
    alice, bob = two_members(dao)
    round_id = dao.start_round(denied=(token(PERSONAL, 7),))
    dao.contribute(round_id, alice)
    dao.ledger.decline(round_id, dao.members[bob].node_key, "The disk is full.")
    said = words(dao.page(f"/rounds/{round_id}"))
    assert "live, not merged yet" in said
    assert "Who did not, and why" in said and "The disk is full." in said and f"{bob[:6]}…" in said
    assert "1 token of its members may not be trained on." in said
    assert "Quorum 2 contributions" in said
    assert "Round 1 training" in words(dao.page("/rounds"))


def test_a_round_that_led_to_a_release_links_to_it(told: tuple[Dao, str, str]) -> None:
    dao, *_ = told
    page = dao.page("/rounds")
    (path,) = re.findall(r'<a href="(/rounds/\w+)">', page)
    assert 'href="/releases/1"' in dao.page(path)


def test_a_paused_round_says_so_and_counts_no_minutes(dao: Dao) -> None:
    two_members(dao)
    round_id = dao.start_round()
    with dao.service.database.writing() as session:
        session.get_one(RoundRow, round_id).paused_at = NOW
    said = words(dao.page(f"/rounds/{round_id}"))
    assert "An admin has paused it since" in said and "minutes left" not in said


def test_the_part_that_tells_of_progress_asks_for_itself_until_the_round_has_ended(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    path = f"/rounds/{round_id}/progress"
    assert f'hx-get="{path}"' in dao.page() and "htmx.min.js" in dao.page()
    before = dao.client.get(path, headers={"HX-Request": "true"})
    assert "0 of 2 contributions are in" in before.text and "HX-Refresh" not in before.headers
    assert "About 10 minutes left" in before.text
    dao.contribute(round_id, alice)
    assert "1 of 2 contributions are in" in dao.page(path)
    dao.now += 601
    dao.step(round_id)
    after = dao.client.get(path, headers={"HX-Request": "true"})
    assert after.headers["HX-Refresh"] == "true" and "hx-get" not in after.text
    assert "HX-Refresh" not in dao.client.get(path).headers
    assert "htmx" not in dao.page()


# Exclusions and rules -------------------------------------------------------------------------------------------------


def test_what_was_left_out_can_be_asked_for_by_collection_and_by_token(told: tuple[Dao, str, str]) -> None:
    dao, *_ = told
    assert "Personal Nouns #7 #8" in dao.page("/left-out?collection=Personal+Nouns")
    assert "Nothing of that was left out" in dao.page("/left-out?collection=Nouns")
    one = dao.page("/left-out?token=7")
    assert "Personal Nouns #7" in one and "#8" not in one
    assert "Commercial Nouns #4 was admitted." in words(dao.page("/left-out?token=4"))
    assert "Nothing of that was left out" in dao.page("/left-out?token=99")


def test_before_the_first_round_nothing_had_to_stay_out(dao: Dao) -> None:
    assert "So far nothing had to stay out." in dao.page("/left-out")


def test_the_rules_are_told_in_words_and_as_the_bytes_that_were_hashed(told: tuple[Dao, str, str]) -> None:
    dao, *_ = told
    page = dao.page("/rules")
    said = words(page)
    assert "CC0" in said and "nouns.wtf says so" in said
    assert "What was learned from a token stays when it is sold." in said
    assert "admitted, when the holder warrants the right to train by signature" in said
    assert POLICY.digest() in page
    document = dao.client.get(f"/rules/{POLICY.digest()}.json")
    assert sha256(document.data) == POLICY.digest()


def test_every_kind_of_admin_and_of_membership_is_said_in_words() -> None:
    def rules(**changes: object) -> dict[str, str]:
        return dict(rules_of(Policy.model_validate({**POLICY.model_dump(mode="json"), **changes})))

    safe = rules(admin=AdminSafe(safe=NOUNS), refused_duties=["non-commercial"], modes=["open", "dp"])
    assert NOUNS in safe["Who starts rounds and takes things out"]
    assert safe["Duties that the DAO does not take on"] == "non-commercial"
    assert "ε = 8" in safe["What noise has to hide"]
    told = rules(
        admin=AdminWallets(wallets=(NOUNS, PERSONAL)),
        membership=AnyOf(any=(HoldsErc721(contract=NOUNS, name="Nouns"), OnList(addresses=(NOUNS,), name="founders"))),
        minimum_holding_days=30,
        maximum_tokens=9,
        maximum_share_percent=20,
        publish_contributions=True,
    )
    assert PERSONAL in told["Who starts rounds and takes things out"]
    assert "and either holds 1 of Nouns or is on founders; of one member 9 tokens" in told["Who may take part"]
    assert told["How long a token must have been held"] == "30 days"
    assert "nobody has more than 20%" in told["How much a member counts"]
    assert "make the merge again" in told["What becomes of contributions"]


def test_a_collection_that_is_kept_out_is_told_with_its_reason() -> None:
    out = CollectionRule(contract=COMMERCIAL, name="Commercial Nouns", allow=False, reason="Its artist asked for that.")
    [one] = terms_of(POLICY.model_copy(update={"collections": (out,)}))
    assert (one.allow, one.evidence) == (False, "Its artist asked for that.")


# The log --------------------------------------------------------------------------------------------------------------


def grown(dao: Dao, lines: int) -> None:
    with dao.service.database.writing() as session:
        for number in range(lines):
            events.append(session, NOW, "test.odd" if number % 2 else "test.even", f"It happened: {number}.")


def test_the_log_is_read_page_by_page_and_by_what_happened(dao: Dao) -> None:
    grown(dao, 120)
    newest = dao.page("/log")
    assert "All 120 lines were checked and hang together." in newest
    assert "It happened: 119." in newest and "It happened: 69." not in newest
    assert 'href="/log?before=71"' in newest
    assert "It happened: 69." in dao.page("/log?before=71")
    odd = dao.page("/log?kind=test.odd")
    assert "It happened: 119." in odd and "It happened: 118." not in odd
    assert 'href="/log?kind=test.odd&amp;before=22"' in odd
    assert "It happened: 118." in dao.page("/log?kind=nothing%25"), "an unknown kind filters nothing"


def test_the_check_goes_on_where_it_was_and_sees_a_past_that_was_told_anew(dao: Dao) -> None:
    grown(dao, 5)
    assert "All 5 lines were checked" in dao.page("/log")
    grown(dao, 2)
    page = dao.page("/log")
    with dao.service.database.reading() as session:
        _, newest = history.newest_line(session)
    assert "All 7 lines were checked" in page and newest in page
    with dao.service.database.writing() as session:  # a whole other chain, right in itself
        past = GENESIS
        for number in range(1, 8):
            row = session.get_one(EventRow, number)
            row.body = row.body.replace("happened", "never happened")
            row.previous, row.hash = past, chained(past, row.body.encode())
            past = row.hash
    assert "Line 7 does not follow" in dao.page("/log")


def test_old_lines_are_checked_again_now_and_then(dao: Dao) -> None:
    grown(dao, 5)
    assert "were checked and hang together" in dao.page("/log")
    with dao.service.database.writing() as session:
        row = session.get_one(EventRow, 2)
        row.body = row.body.replace("happened", "never happened")
    dao.now += 700
    assert "Line 2 does not follow" in dao.page("/log")
    dao.now += 60
    assert "Line 2 does not follow" in dao.page("/log")


def test_the_program_on_the_page_checks_the_log_with_nothing_but_python(
    dao: Dao, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published(dao)
    monkeypatch.setattr(pages, "LINES_TO_CHECK", 4)
    (program,) = re.findall(r'id="check-command">(.*?)</code>', dao.page("/log"), re.S)

    def opened(url: str) -> BytesIO:
        asked = urlsplit(url)
        return BytesIO(dao.client.get(f"{asked.path}?{asked.query}").data)

    monkeypatch.setattr("urllib.request.urlopen", opened)
    exec(html.unescape(program), {})  # noqa: S102 - it is our own, and what people are told to run
    with dao.service.database.reading() as session:
        number, newest = history.newest_line(session)
    assert capsys.readouterr().out == f"{number} {newest}\n"
    with dao.service.database.writing() as session:
        row = session.get_one(EventRow, 3)
        row.body = row.body.replace("a", "b", 1)
    with pytest.raises(AssertionError, match="line 3 was changed"):
        exec(html.unescape(program), {})  # noqa: S102 - it is our own, and what people are told to run


# Speed ----------------------------------------------------------------------------------------------------------------


def test_a_page_that_somebody_has_is_not_sent_again_until_something_happens(dao: Dao) -> None:
    published(dao)
    for path in ("/", "/releases", "/releases/1", "/rounds", "/left-out", "/rules", "/log"):
        first = dao.client.get(path)
        assert first.headers["Cache-Control"] == "no-cache"
        again = dao.client.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b""), path
    mark = dao.client.get("/").headers["ETag"]
    grown(dao, 1)
    assert dao.client.get("/", headers={"If-None-Match": mark}).status_code == 200


def test_a_page_costs_no_more_questions_for_a_longer_history(dao: Dao) -> None:
    two_releases(dao)
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)

    def questions(path: str) -> int:
        asked.clear()
        dao.page(path)
        return len([one for one in asked if one.startswith("SELECT")])

    short = {path: questions(path) for path in ("/", "/releases", "/rounds", "/log")}
    assert all(questions(path) == 1 for path in short), "nothing has happened"
    for _ in range(3):
        dao.now += 60
        round_id = dao.start_round()
        for member in dao.members:
            dao.contribute(round_id, member)
        dao.step(round_id)
        dao.publish(round_id)
    for path, before in short.items():
        assert questions(path) <= before + 2, path
    event.remove(Engine, "before_cursor_execute", note)


def test_a_manifest_is_read_once(dao: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    two_releases(dao)
    read: list[str] = []

    def counted(manifest: str) -> object:
        read.append(manifest)
        return glance_at(manifest)

    monkeypatch.setattr(history, "glance_at", counted)
    for path in ("/", "/releases", "/releases/1", "/releases/2", "/releases/compare", "/"):
        dao.page(path)
        grown(dao, 1)
    assert len(read) == 2


def test_a_full_shelf_lets_go_of_what_was_not_asked_for_the_longest() -> None:
    shelf: Shelf[int] = Shelf(2)
    shelf.put("a", 1)
    shelf.put("b", 2)
    assert shelf.get("a") == 1
    shelf.put("c", 3)
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c")) == (1, None, 3)


def test_a_ribbon_of_many_members_is_drawn_with_a_bounded_number_of_threads() -> None:
    crowd = SimpleNamespace(shares={f"0x{number:040x}": 1 / 500 for number in range(500)}, gone=())
    threads = ribbon_of(crowd, {})  # type: ignore[arg-type]
    assert len(threads) == 121 and threads[-1].label == "380 more"
    assert sum(one.width for one in threads) == 1000


def test_shares_and_words_of_two_releases_are_paired() -> None:
    first = SimpleNamespace(prompts=("a", "b"), shares={"0x1": 1.0}, pieces=())
    second = SimpleNamespace(prompts=("b", "c"), shares={"0x1": 0.5, "0x2": 0.5}, pieces=())
    [pair] = pairs_of(first, second)  # type: ignore[arg-type]
    assert (pair.prompt, pair.first, pair.second) == ("b", 1, 0)
    changes = members_of(first, second, {})  # type: ignore[arg-type]
    assert {(one.member, one.first, one.second) for one in changes} == {("0x1", 1.0, 0.5), ("0x2", None, 0.5)}


def test_a_token_s_name_gives_its_contract_and_id_without_more() -> None:
    name = str(Token(chain_id=31337, contract=NOUNS, token_id=2**200))
    assert (contract_of(name), id_of(name)) == (Token.parse(name).contract, 2**200)
