"""A person at a real browser beside the demo's real parts; only the wallet's own window is made here.

The wallet is a provider that is announced by EIP-6963 and signs with one of anvil's keys, outside the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from playwright.sync_api import Browser, Page, sync_playwright

from deploy.demo.processes import environment, program
from deploy.demo.story import Story
from deploy.demo.world import Person
from protocol import node_key
from protocol.errors import NotFound

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
PICTURES = os.environ.get("COTERIE_PICTURES", "")
AXE = Path(__file__).parents[1] / "deploy/devchain/node_modules/axe-core/axe.min.js"

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


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window; it asks nobody on the network for anything."""
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

    def picture(self, name: str) -> None:
        """Nothing sticks out sideways; where ``COTERIE_PICTURES`` names a folder, pictures in both sizes and lights."""
        for width, size in (("wide", WIDE), ("narrow", NARROW)):
            self.page.set_viewport_size(size)
            assert self.page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
            for light in ("light", "dark") if PICTURES else ():
                self.page.emulate_media(color_scheme=light)
                self.page.screenshot(path=Path(PICTURES) / f"{name}-{width}-{light}.png", full_page=True)
        self.page.set_viewport_size(WIDE)

    def barriers(self) -> list[str]:
        """What axe finds serious or critical on the page as it is, in both lights."""
        found = []
        self.page.evaluate(AXE.read_text())  # by the debugger: the page's own policy admits no foreign script
        for light, only in (("light", ""), ("dark", ", runOnly: ['color-contrast']")):
            self.page.emulate_media(color_scheme=light)
            told = self.page.evaluate(f"axe.run({{ resultTypes: ['violations']{only} }})")
            found += [
                f"{light}: {one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
                for one in told["violations"]
                if one["impact"] in ("serious", "critical")
            ]
        return found


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
