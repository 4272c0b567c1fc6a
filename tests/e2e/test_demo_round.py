"""The demo's round in small, on the same real parts: chain, wallets, coordinator, Flower, training, merge, store."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from bases import EMBEDDED_BASE
from deploy.demo.measure import BASE, COLLECTIVE, Measured
from deploy.demo.story import Joined, Release, Scale, Story, Traffic
from deploy.demo.terminal import Terminal
from deploy.demo.world import BEN, CLEO, COMMERCIAL, DAN, EVE, PERSONAL, World
from protocol.policy import OnTransfer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = Scale(
    members=(BEN, CLEO, DAN),
    heads_each=4,
    plan={"steps": 30, "statistics_pictures": 4, "distillation_steps": 4, "gains": [0, 1, 1.15]},
    drawn_each=1,
    sampling_steps=5,
)


@dataclass(frozen=True)
class Told:
    """Everything the story came to. It is over: nothing of it runs any more."""

    folder: Path
    world: World
    joined: Joined
    first: Release
    traffic: dict[str, Traffic]
    pulled: Path
    second: Release
    measured: Measured
    text: str


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder, text = tmp_path_factory.mktemp("story"), io.StringIO()
    with Story(folder, EMBEDDED_BASE, Terminal(Console(file=text)), SMALL) as story:
        world = story.found()
        story.start_coordinator()
        joined = story.join()
        first = story.train()
        traffic = story.account()
        pulled = story.pull(first, "first")
        measuring = story.begin_measuring(pulled)
        second = story.sell()
        story.pull(second, "second")
        measured = measuring.result()
    yield Told(folder, world, joined, first, traffic, pulled, second, measured, text.getvalue())


def test_a_wallet_that_owns_nothing_is_refused_in_one_sentence(told: Told) -> None:
    assert EVE.address in told.joined.refusal
    assert not (told.world.home(EVE) / "grants").exists()


def test_tokens_under_a_licence_that_forbids_training_are_denied_with_the_reason(told: Told) -> None:
    denied = [verdict for verdict in told.joined.verdicts["cleo"] if not verdict.allow]
    assert {verdict.collection for verdict in denied} == {PERSONAL}
    assert all("does not allow derivatives" in verdict.reason for verdict in denied)
    assert all(verdict.allow for name in ("ben", "dan") for verdict in told.joined.verdicts[name])
    assert {str(verdict.token) for verdict in told.first.manifest.exclusions} == {str(v.token) for v in denied}


def test_a_licence_that_is_silent_on_training_is_admitted_on_the_holders_warrant(told: Told) -> None:
    commercial = [verdict for verdict in told.joined.verdicts["dan"] if verdict.collection == COMMERCIAL]
    assert commercial
    assert all(v.allow and v.warrant and v.on_transfer is OnTransfer.EXCLUDE for v in commercial)
    dans = next(c for c in told.first.manifest.contributions if c.member == DAN.address)
    assert dans.grant.warrant


def test_all_members_are_merged_and_every_picture_stays_where_it_is(told: Told) -> None:
    assert {c.member for c in told.first.manifest.contributions} == {m.address for m in SMALL.members}
    pictures = {use.media_sha256 for c in told.first.manifest.contributions for use in c.tokens}
    for member in SMALL.members:
        lines = (told.world.home(member) / "sent.jsonl").read_text().splitlines()
        assert not {json.loads(line)["sha256"] for line in lines} & pictures
        sent = told.traffic[member.name].sent
        assert set(sent) == {"grant", "signature", "header", "adapter", "statistics", "report", "progress"}
        assert told.traffic[member.name].images > 10_000


def test_what_is_pulled_by_its_cid_is_what_the_manifest_names(told: Told) -> None:
    manifest = json.loads((told.pulled / "manifest.json").read_text())
    assert manifest == told.first.manifest.model_dump(mode="json")
    assert told.text.count("no key is left over") == 2


def test_a_sale_ends_the_sellers_contribution_and_the_next_release_says_why(told: Told) -> None:
    assert told.second.cid != told.first.cid
    manifest = told.second.manifest
    assert (manifest.kind, manifest.parent) == ("removal", told.first.cid)
    [removal] = manifest.removals
    gone = next(c for c in told.first.manifest.contributions if c.member == DAN.address)
    assert (removal.contribution_id, removal.member) == (gone.contribution_id, DAN.address)
    assert removal.token.contract == told.world.contracts[COMMERCIAL].address
    assert EVE.address in removal.reason
    assert "ends for the seller with the transfer" in removal.reason
    left = {c.contribution_id for c in told.first.manifest.contributions} - {gone.contribution_id}
    assert {c.contribution_id for c in manifest.contributions} == left


def test_the_table_and_the_sheet_are_there(told: Told) -> None:
    losses = told.measured.losses
    assert list(losses) == [BASE, COLLECTIVE, "ben's own", "cleo's own", "dan's own"]
    assert all(math.isfinite(loss) for one in losses.values() for loss in (one.held_out, one.everyone, one.known))
    assert losses[COLLECTIVE].everyone < losses[BASE].everyone
    assert set(told.measured.recognised) == {BASE, COLLECTIVE}
    with Image.open(told.measured.sheet) as sheet:
        assert sheet.width > sheet.height


def test_no_process_is_left_behind(told: Told) -> None:
    left = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(told.folder).encode() in _content(path) + _content(path.with_name("environ"))
    ]
    assert not left


def _content(path: Path) -> bytes:
    """A process may end while it is looked at, or be somebody else's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
