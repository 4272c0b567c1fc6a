"""A headless machine joins, a person signs in a real browser: every part is real but the wallet's own window.

The wallet is a provider that is announced by EIP-6963 and signs with one of anvil's keys, outside the page.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from playwright.sync_api import Browser, Page, expect, sync_playwright
from rich.console import Console
from round_parts import PLAN, adapter_for, contribution_for, statistics_for

from bases import EMBEDDED_BASE
from client.coordinator_api import CoordinatorApi
from client.wallet.grant import build_grant, stored_grants
from client.wallet.key import Wallet
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.rounds.checks import adapted_layers
from coordinator.rounds.ledger import Part
from coordinator.rounds.transitions import RoundState, Step
from coordinator.wiring import ledger_of
from deploy.demo.processes import environment, program
from deploy.demo.story import Scale, Story
from deploy.demo.terminal import Terminal
from deploy.demo.world import ADMIN, BEN, CLEO, DAN, PERSONAL, Person
from protocol import node_key
from protocol.adapter import load_adapter
from protocol.errors import NotFound
from protocol.grant import StartRound, sign, tokens_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
SMALL = Scale(members=(BEN, CLEO, DAN), heads_each=4)

ANNOUNCE = """
(() => {
  const info = { uuid: "%(uuid)s", name: "%(name)s", rdns: "%(rdns)s", icon: "data:," };
  const provider = {
    request: async ({ method, params }) => {
      const told = await window.askWallet("%(rdns)s", method, JSON.stringify(params ?? []));
      if (told.error) throw Object.assign(new Error(told.error.message), { code: told.error.code });
      return told.result;
    },
  };
  const announce = () =>
    window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) }));
  window.addEventListener("eip6963:requestProvider", announce);
  announce();
})();
"""


@dataclass
class BrowserWallet:
    """What a wallet's extension does: it holds the key, shows what is signed, and may refuse."""

    owner: Person
    chain: int = 1
    refuses: bool = False
    signed: list[tuple[str, Any]] = field(default_factory=list)

    def answer(self, method: str, params: list[Any]) -> Any:
        if method == "eth_chainId":
            return hex(self.chain)
        if method in ("eth_requestAccounts", "eth_accounts"):
            return [self.owner.address.lower()]
        if self.refuses:
            raise PermissionError("User rejected the request.")
        if method == "wallet_switchEthereumChain":
            self.chain = int(params[0]["chainId"], 16)
            return None
        if method == "personal_sign":
            text = bytes.fromhex(params[0][2:]).decode()
            return self._sign(method, text, encode_defunct(text=text))
        if method == "eth_signTypedData_v4":
            # A wallet's JavaScript parses numbers as floats: what it signs must not depend on that.
            typed = json.loads(params[1], parse_int=lambda digits: int(float(digits)))
            assert int(typed["domain"]["chainId"]) == self.chain
            return self._sign(method, typed, encode_typed_data(full_message=typed))
        raise AssertionError(f"the page asked for {method}")

    def _sign(self, method: str, what: Any, signable: Any) -> str:
        self.signed.append((method, what))
        return "0x" + bytes(Account.sign_message(signable, self.owner.key).signature).hex()

    def ask(self, method: str, params: str) -> dict[str, Any]:
        try:
            return {"result": self.answer(method, json.loads(params))}
        except PermissionError as error:
            return {"error": {"code": 4001, "message": str(error)}}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The demo's chain, NFTs and coordinator."""
    with Story(tmp_path_factory.mktemp("browser"), EMBEDDED_BASE, Terminal(Console(quiet=True)), SMALL) as story:
        story.found()
        story.start_coordinator()
        yield story


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        raise NotFound("There is no chromium to test the pages with.", "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Sitting:
    """One person at one browser window. Whatever the page complains about in the console is kept."""

    def __init__(self, browser: Browser, wallets: dict[str, BrowserWallet], **context: Any) -> None:
        self.context = browser.new_context(viewport=WIDE, **context)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.expose_function("askWallet", lambda rdns, method, params: wallets[rdns].ask(method, params))
        for number, rdns in enumerate(wallets):
            self.page.add_init_script(ANNOUNCE % {"uuid": f"uuid-{number}", "name": rdns.title(), "rdns": rdns})

    def picture(self, file: Path) -> None:
        """The page at three sizes and in both lights, and that nothing sticks out sideways."""
        for width, size in (("wide", WIDE), ("narrow", NARROW)):
            self.page.set_viewport_size(size)
            for light in ("light", "dark"):
                self.page.emulate_media(color_scheme=light)
                self.page.screenshot(path=file.with_name(f"{file.name}-{width}-{light}.png"), full_page=True)
            assert self.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        self.page.set_viewport_size(WIDE)


class Machine:
    """``coterie join URL`` as a process without any wallet."""

    def __init__(self, story: Story, name: str) -> None:
        self.home = story.folder / "machines" / name
        self.log = story.folder / "logs" / f"{name}.log"
        command = [
            *(program("coterie"), "join", story.url, "--home", str(self.home), "--rpc", story.anvil.url),
            *("--name", name),
        ]
        self.process = story.processes.start(name, command, environment(), [self.log])

    def terminal(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def shows(self, pattern: str, seconds: float = 90.0) -> str:
        """The first group of ``pattern`` once the terminal shows it."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.terminal())):
            assert time.monotonic() < deadline, f"the terminal never showed {pattern!r}:\n{self.terminal()[-3000:]}"
            time.sleep(0.2)
        return found[1]

    @property
    def fingerprint(self) -> str:
        return node_key.fingerprint(node_key.public_of(self.home / "node.pem"))


def test_a_headless_machine_joins_by_a_link_and_two_signatures(story: Story, browser: Browser, tmp_path: Path) -> None:
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
    sitting.picture(tmp_path / "1-sign-in")

    # By the keyboard alone, up to the signature; the wallet is on another chain and changes it.
    page.locator("#wallets button").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your NFTs, and what the rules say")).to_be_visible()
    assert wallet.chain == story.anvil.chain_id
    denied = page.locator("tr.refused", has_text=PERSONAL)
    expect(denied.first).to_contain_text("does not allow derivatives")
    expect(page.locator("tr.merged")).to_have_count(8)
    sitting.picture(tmp_path / "2-grant")

    page.locator("input[name=token]").first.uncheck()
    expect(page.locator("#chosen")).to_have_text("7")
    page.get_by_role("button", name="Sign the grant").click()  # the fingerprint is not confirmed: nothing happens
    page.locator("#same").check()
    wallet.refuses = True
    page.get_by_role("button", name="Sign the grant").click()
    expect(page.get_by_role("alert")).to_contain_text("You refused in the wallet, so nothing was signed")
    sitting.picture(tmp_path / "3-refused")
    wallet.refuses = False
    page.get_by_role("button", name="Sign the grant").click()
    expect(page.get_by_role("heading", name="Granted")).to_be_visible()
    sitting.picture(tmp_path / "4-granted")

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


def test_whoever_did_not_start_the_machine_refuses_it(story: Story, browser: Browser, tmp_path: Path) -> None:
    machine = Machine(story, "somebody-elses-box")
    code = machine.shows(r"code\s+([A-Z]{4}-[A-Z]{4})")
    sitting = Sitting(browser, {})
    sitting.page.goto(f"{story.url}/device")
    sitting.picture(tmp_path / "5-code")
    sitting.page.get_by_label("The code in its terminal").fill("zzzz zzzz")
    sitting.page.keyboard.press("Enter")
    expect(sitting.page.get_by_role("alert")).to_contain_text("No machine waits with the code ZZZZ-ZZZZ")
    sitting.page.get_by_label("The code in its terminal").fill(code.lower().replace("-", " "))
    sitting.page.keyboard.press("Enter")
    expect(sitting.page.get_by_text("No wallet was found in this browser")).to_be_visible()
    sitting.picture(tmp_path / "6-no-wallet")
    sitting.page.get_by_role("button", name="Not mine, refuse it").click()
    expect(sitting.page.get_by_role("heading", name="Refused")).to_be_visible()
    machine.shows(r"(refused in the browser)")
    assert stored_grants(machine.home) == []
    assert [line for line in sitting.complaints if "404" not in line] == []


def test_a_member_links_a_second_wallet_and_ends_a_session(story: Story, browser: Browser, tmp_path: Path) -> None:
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
    sitting.picture(tmp_path / "7-wallets")
    page.get_by_role("button", name=f"Unlink {DAN.address}").click()
    expect(page.locator("section").first.locator(".rows li")).to_have_count(1)
    page.get_by_role("button", name="End all of them").click()
    expect(page.get_by_role("heading", name="Sign in with your wallet")).to_be_visible()
    assert "coterie" not in {cookie["name"] for cookie in sitting.context.cookies()}
    assert sitting.complaints == []


def contributed(story: Story, *people: Person) -> str:
    """A round of these members, to which the first one contributes; it ends below its quorum. The grant's id.

    Their nodes are not here: the ledger is given what they would send.
    """
    settings = CoordinatorSettings.load(story.config)
    database = Database(settings.database)
    ledger, api = ledger_of(settings, database), CoordinatorApi(story.url)
    dao, parts, grants = api.dao(), [], []
    for person in people:
        key = story.folder / f"{person.name}.pem"
        node_key.create(key)
        api.sign_in(Wallet.from_key(person.key), dao)
        told = api.verdicts()
        grant = build_grant(dao, person.address, told.verdicts, node_key.public_of(key), int(time.time()))
        api.send_grant(grant, sign(grant, person.key))
        grants.append(grant)
        parts.append(Part(grant, told.verdicts))
    order = StartRound(
        dao=dao.name,
        chain_id=dao.chain_id,
        admin=ADMIN.address,
        plan=PLAN,
        policy_hash=dao.policy_hash,
        base_hash=dao.base.hash,
        nonce="a-round-of-two",
        expires=int(time.time()) + 600,
    )
    round_id = ledger.open_training(order, sign(order, ADMIN.key), told.snapshot, parts)
    if ledger.facts(round_id).state == RoundState.OPEN:
        ledger.move(round_id, Step(RoundState.TRAINING, ""))
    layers = adapted_layers(settings.base)
    shapes = {name: (one.d_out, one.d_in // prod(one.kernel), *one.kernel) for name, one in layers.items()}
    tensors = {"adapter": adapter_for(1, shapes), "statistics": statistics_for(1, shapes)}
    key = story.folder / f"{people[0].name}.pem"
    made = contribution_for(ledger.train_task(round_id), grants[0].grant_id, key, 1, **tensors)
    ledger.receive(round_id, grants[0].node_key, made, layers)
    for grant in grants[1:]:
        ledger.decline(round_id, grant.node_key, "This machine is only a test's.")
    database.close()
    return grants[0].grant_id


def test_a_member_sees_their_part_renews_takes_their_adapter_and_revokes(
    story: Story, browser: Browser, tmp_path: Path
) -> None:
    grant_id = contributed(story, CLEO, DAN)
    wallet = BrowserWallet(CLEO, chain=story.anvil.chain_id)
    sitting = Sitting(browser, {"cleos.wallet": wallet})
    page = sitting.page
    page.goto(f"{story.url}/me")
    expect(page.get_by_role("heading", name="What taking part means")).to_be_visible()
    sitting.picture(tmp_path / "8-signed-out")
    page.get_by_role("button", name="Cleos.Wallet").click()

    excluded = page.locator(".card.excluded")
    expect(excluded.first).to_contain_text("Excluded because")
    expect(excluded.first).to_contain_text("does not allow derivatives")
    page.get_by_label("Find").fill("personal")
    expect(page.locator(".card.included:visible")).to_have_count(0)
    expect(page.locator("#found")).to_have_text(f"{excluded.count()} found")
    page.get_by_label("Find").fill("")
    expect(page.locator("#machines .badge").first).to_have_text("not connected")
    for summary in page.locator("#grants summary").all():
        summary.click()
    sitting.picture(tmp_path / "9-your-part")

    with page.expect_download() as download:
        page.get_by_role("link", name="Download it").click()
    assert download.value.suggested_filename.endswith(".safetensors")
    assert load_adapter(Path(download.value.path()).read_bytes())

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
