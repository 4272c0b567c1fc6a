"""A headless machine joins, a person signs in a real browser, an admin starts a round there: every part is real."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from browser_parts import BrowserWallet, Machine, Sitting, chromium
from playwright.sync_api import Browser, expect
from rich.console import Console

from bases import EMBEDDED_BASE
from client.journal import FILE as SENT
from client.wallet.grant import stored_grants
from coordinator.config import CoordinatorSettings
from coordinator.database import Database, ProgressRow
from deploy.demo.story import Scale, Story
from deploy.demo.terminal import Terminal
from deploy.demo.world import ADMIN, BEN, CLEO, DAN, PERSONAL
from protocol import node_key
from protocol.adapter import load_adapter
from protocol.grant import tokens_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = Scale(members=(BEN, CLEO, DAN), heads_each=4)
ROUND_MS = 240_000


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The demo's chain, NFTs and coordinator."""
    with Story(tmp_path_factory.mktemp("browser"), EMBEDDED_BASE, Terminal(Console(quiet=True)), SMALL) as story:
        story.found()
        story.start_coordinator()
        yield story


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_a_headless_machine_joins_by_a_link_and_two_signatures(story: Story, browser: Browser) -> None:
    machine = Machine(story, "gpu-box")
    link = machine.shows(r"(http://\S+/device\?code=\S+)")
    assert machine.fingerprint in machine.terminal()

    wallet = BrowserWallet(CLEO)
    sitting = Sitting(browser, {"cleos.wallet": wallet, "other.wallet": BrowserWallet(DAN)})
    page = sitting.page
    page.goto(link)
    expect(page.locator("#machine-title ~ dl")).to_contain_text(machine.fingerprint)
    expect(page.locator("#machine-title ~ dl")).to_contain_text("gpu-box")
    expect(page.locator("#wallets button")).to_have_count(2)
    sitting.picture("1-sign-in")

    # By the keyboard alone, up to the signature; the wallet is on another chain and changes it.
    page.locator("#wallets button").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your NFTs, and what the rules say")).to_be_visible()
    assert wallet.chain == story.anvil.chain_id
    denied = page.locator("tr.refused", has_text=PERSONAL)
    expect(denied.first).to_contain_text("does not allow derivatives")
    expect(page.locator("tr.merged")).to_have_count(8)
    sitting.picture("2-grant")

    page.locator("input[name=token]").first.uncheck()
    expect(page.locator("#chosen")).to_have_text("7")
    page.get_by_role("button", name="Sign the grant").click()  # the fingerprint is not confirmed: nothing happens
    page.locator("#same").check()
    wallet.refuses = True
    page.get_by_role("button", name="Sign the grant").click()
    expect(page.get_by_role("alert")).to_contain_text("You refused in the wallet, so nothing was signed")
    sitting.picture("3-refused")
    wallet.refuses = False
    page.get_by_role("button", name="Sign the grant").click()
    expect(page.get_by_role("heading", name="Granted")).to_be_visible()
    sitting.picture("4-granted")

    machine.shows(rf"Granted by ({CLEO.address})")
    machine.shows(r"(Waiting for a round)")
    [stored] = stored_grants(machine.home)
    assert (stored.grant.member, len(stored.grant.tokens)) == (CLEO.address, 7)
    assert [method for method, _ in wallet.signed] == ["personal_sign", "eth_signTypedData_v4"]
    shown = wallet.signed[1][1]["message"]
    assert shown["nodeKey"] == node_key.public_of(machine.home / "node.pem")
    assert shown["tokensRoot"] == "0x" + tokens_root(stored.grant.tokens).hex()
    assert re.fullmatch(r"5 of 0x\w{40}: [\d, ]+; 2 of 0x\w{40}: [\d, ]+", shown["tokens"])
    assert sitting.complaints == []
    cookies = {cookie["name"]: cookie for cookie in sitting.context.cookies()}
    assert cookies["coterie"]["httpOnly"] and cookies["coterie"]["sameSite"] == "Strict"


def test_whoever_did_not_start_the_machine_refuses_it(story: Story, browser: Browser) -> None:
    machine = Machine(story, "somebody-elses-box")
    code = machine.shows(r"code\s+([A-Z]{4}-[A-Z]{4})")
    sitting = Sitting(browser, {})
    sitting.page.goto(f"{story.url}/device")
    sitting.picture("5-code")
    sitting.page.get_by_label("The code in its terminal").fill("zzzz zzzz")
    sitting.page.keyboard.press("Enter")
    expect(sitting.page.get_by_role("alert")).to_contain_text("No machine waits with the code ZZZZ-ZZZZ")
    sitting.page.get_by_label("The code in its terminal").fill(code.lower().replace("-", " "))
    sitting.page.keyboard.press("Enter")
    expect(sitting.page.get_by_text("No wallet was found in this browser")).to_be_visible()
    sitting.picture("6-no-wallet")
    sitting.page.get_by_role("button", name="Not mine, refuse it").click()
    expect(sitting.page.get_by_role("heading", name="Refused")).to_be_visible()
    machine.shows(r"(refused in the browser)")
    assert stored_grants(machine.home) == []
    assert [line for line in sitting.complaints if "404" not in line] == []


def test_a_member_links_a_second_wallet_and_ends_a_session(story: Story, browser: Browser) -> None:
    wallets = {"bens.wallet": BrowserWallet(BEN), "dans.wallet": BrowserWallet(DAN)}
    sitting = Sitting(browser, wallets)
    page = sitting.page
    page.goto(f"{story.url}/wallets")
    page.get_by_role("button", name="Bens.Wallet").click()
    expect(page.get_by_role("heading", name="Where you are signed in")).to_be_visible()
    page.get_by_role("button", name="Bens.Wallet").click()
    expect(page.get_by_role("alert")).to_contain_text("This is the account that is signed in")
    page.get_by_role("button", name="Dans.Wallet").click()
    expect(page.locator("section").first.locator(".rows li")).to_have_count(2)
    assert f"signed in as {BEN.address}" in wallets["dans.wallet"].signed[0][1]
    sitting.picture("7-wallets")
    page.get_by_role("button", name=f"Unlink {DAN.address}").click()
    expect(page.locator("section").first.locator(".rows li")).to_have_count(1)
    page.get_by_role("button", name="End all of them").click()
    expect(page.get_by_role("heading", name="Sign in with your wallet")).to_be_visible()
    assert "coterie" not in {cookie["name"] for cookie in sitting.context.cookies()}
    assert sitting.complaints == []


def test_an_admin_starts_a_round_in_the_browser_and_it_reaches_a_release(story: Story, browser: Browser) -> None:
    """Trained by the machine that joined above."""
    wallet = BrowserWallet(ADMIN, chain=story.anvil.chain_id)
    sitting = Sitting(browser, {"admins.wallet": wallet})
    page = sitting.page
    page.goto(f"{story.url}/admin/rounds/new")
    page.get_by_role("button", name="Admins.Wallet").click()
    expect(page.get_by_role("heading", name="Plan a round")).to_be_visible()
    expect(page.locator("#rehearsal")).to_contain_text("1 member would take part with 7 tokens; the plan takes 2")
    expect(page.get_by_role("button", name="Sign and start the round")).to_have_count(0)
    for summary in page.locator("#plan > details > summary").all():
        summary.click()
    sitting.picture("8-plan")
    assert sitting.barriers() == []
    few = {"quorum": 1, "steps": 6, "statistics_pictures": 2, "distillation_steps": 2, "gains": "0, 1"}
    for name, value in few.items():
        page.locator(f"#plan-{name}").fill(str(value))
    page.get_by_role("button", name="Sign and start the round").click()

    expect(page.get_by_role("heading", name=re.compile("^Round 1"))).to_be_visible()
    [(_, text), (method, order)] = wallet.signed
    assert "Sign in" in text or ADMIN.address in text
    assert (method, order["primaryType"]) == ("eth_signTypedData_v4", "StartRound")
    sitting.picture("9-training")
    stepper = page.get_by_label("How far the round is")
    expect(stepper.locator("[aria-current=step]")).to_contain_text(re.compile("publish", re.I), timeout=ROUND_MS)
    expect(page.locator("#now")).to_contain_text("Release", timeout=ROUND_MS)
    sitting.picture("10-published")
    told = [json.loads(line) for line in (story.folder / "machines" / "gpu-box" / SENT).read_text().splitlines()]
    assert "progress" in {line["what"] for line in told}
    with closing(Database(CoordinatorSettings.load(story.config).database)) as known, known.reading() as session:
        assert session.query(ProgressRow).count() == 1, "how far the machine was is known until another round begins"
    assert sitting.barriers() == []
    assert [line for line in sitting.complaints if "401" not in line] == [], "but for the page that asked to sign in"


def test_a_member_sees_their_part_renews_takes_their_adapter_and_revokes(story: Story, browser: Browser) -> None:
    """What the round above made of the grant of the machine that joined first."""
    wallet = BrowserWallet(CLEO, chain=story.anvil.chain_id)
    sitting = Sitting(browser, {"cleos.wallet": wallet})
    page = sitting.page
    page.goto(f"{story.url}/me")
    expect(page.get_by_role("heading", name="What taking part means")).to_be_visible()
    sitting.picture("11-signed-out")
    page.get_by_role("button", name="Cleos.Wallet").click()
    expect(page.locator("#stand-title ~ dl")).to_contain_text("100.0% of the newest release is yours")

    excluded = page.locator(".card.excluded")
    expect(excluded.first).to_contain_text("Excluded because")
    expect(excluded.first).to_contain_text("does not allow derivatives")
    page.get_by_label("Find").fill("personal")
    expect(page.locator(".card.included:visible")).to_have_count(0)
    expect(page.locator("#found")).to_have_text(f"{excluded.count()} found")
    page.get_by_label("Find").fill("")
    expect(page.locator("#machines .badge").first).to_have_text("ready")
    expect(page.locator("#machines dl").first).to_contain_text("yes, since")
    for summary in page.locator("#grants summary").all():
        summary.click()
    sitting.picture("12-your-part")
    assert sitting.barriers() == []

    with page.expect_download() as download:
        page.get_by_role("link", name="Download it").click()
    assert download.value.suggested_filename.endswith(".safetensors")
    assert load_adapter(Path(download.value.path()).read_bytes())

    [grant] = page.locator("#grants .panel").all()
    grant_id = (grant.get_attribute("id") or "").removeprefix("grant-")
    page.locator(f"#grant-{grant_id}").get_by_role("button", name="Sign the new grant").press("Enter")
    expect(page.locator(f"#grant-{grant_id}")).to_contain_text("replaced by a newer one")
    expect(page.locator("#grants .badge.published")).to_have_text("in force")

    old = page.locator(f"#grant-{grant_id}")
    old.get_by_text("Revoke", exact=True).click()
    wallet.refuses = True
    old.get_by_role("button", name="Sign the revocation").click()
    expect(page.get_by_role("alert")).to_contain_text("You refused in the wallet, so nothing was signed")
    wallet.refuses = False
    old.get_by_role("button", name="Sign the revocation").click()
    expect(old).to_contain_text("1 contribution ended with it")
    expect(page.locator("#contributions")).to_contain_text("The member revoked the grant.")
    method, order = wallet.signed[-1]
    assert method == "eth_signTypedData_v4" and order["primaryType"] == "RevokeGrant"
    assert "made again without" in order["message"]["effect"]
    assert sitting.complaints == []


ANYBODYS = [
    "/",
    "/releases",
    "/releases/1",
    "/rounds",
    "/left-out",
    "/rules",
    "/log",
    "/device",
    "/wallets",
    "/me",
    "/admin",
]


def test_every_page_can_be_used_by_everybody(story: Story, browser: Browser) -> None:
    """After all of the above, by axe and at a telephone's width."""
    sitting = Sitting(browser, {})
    for path in ANYBODYS:
        sitting.page.goto(story.url + path)
        sitting.picture(f"13{path.replace('/', '-')}")
        assert sitting.barriers() == [], path
    assert [line for line in sitting.complaints if "401" not in line] == []
