"""The story of one round, step by step, on real parts. Each method is a step; the e2e test walks the same ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from bases.nouns_art import svg
from client.coordinator_api import CoordinatorApi, Eligibility
from client.progress import ProgressTail
from client.wallet.key import Wallet
from coordinator.config import CoordinatorSettings
from deploy.demo.measure import BASE, COLLECTIVE, DRAWN_EACH, SAMPLING_STEPS, Measuring, Order
from deploy.demo.processes import DemoFailed, Processes, environment, last_words, program, run
from deploy.demo.terminal import Show, Terminal, amount
from deploy.demo.world import (
    ADMIN,
    COMMERCIAL,
    DAN,
    EVE,
    HEADS_EACH,
    MEMBERS,
    PERSONAL,
    Person,
    World,
    found,
    write_settings,
)
from deploy.devchain.anvil import Anvil
from processes.ports import free_ports
from protocol.manifest import Manifest
from protocol.policy import Verdict

START_S, JOIN_S, ROUND_S, PULL_S = 90.0, 120.0, 900.0, 120.0
ENDED = ("published", "failed", "cancelled")


@dataclass(frozen=True)
class Scale:
    """How large the story is: the demo's own values, smaller in tests."""

    members: tuple[Person, ...] = MEMBERS
    heads_each: int = HEADS_EACH
    plan: Mapping[str, Any] = field(default_factory=lambda: {"distillation_steps": 15, "distillation_rate": 3e-3})
    """Values of the round's plan that differ from the defaults: distillation in a third of the time, not as far."""
    drawn_each: int = DRAWN_EACH
    sampling_steps: int = SAMPLING_STEPS


@dataclass(frozen=True)
class Joined:
    """What joining came to: each member's verdicts, and the sentence that the stranger was refused with."""

    verdicts: Mapping[str, tuple[Verdict, ...]]
    refusal: str


@dataclass(frozen=True)
class Traffic:
    """One member's bytes: what left its machine, by kind, and its images, which did not."""

    sent: Mapping[str, int]
    images: int


@dataclass(frozen=True)
class Release:
    """A release as the coordinator lists it, and its manifest."""

    cid: str
    manifest: Manifest


class Story:
    """Enter it to have a chain; every step leaves behind what the next one needs. Left, nothing of it runs."""

    def __init__(self, folder: Path, base: Path, terminal: Terminal, scale: Scale = Scale()) -> None:
        """``folder`` is new or empty and holds everything that the story leaves."""
        self.folder = folder
        self.base = base
        self.terminal = terminal
        self.scale = scale
        self.processes = Processes()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.anvil = self._stack.enter_context(Anvil())
        self._stack.enter_context(self.processes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # The steps --------------------------------------------------------------------------------------------------------

    def found(self) -> World:
        """The collections are deployed, everybody owns Nouns."""
        self.world = found(self.anvil, self.folder, self.scale.members, self.scale.heads_each)
        counts = {name: sum(n.collection == name for n in self.world.nouns) for name in self.world.contracts}
        for name, count in counts.items():
            self.terminal.say(f"{name}: {count} tokens at {self.world.contracts[name].address}")
        return self.world

    def start_coordinator(self) -> str:
        """``coterie-coordinator up``; its URL once it answers."""
        port, superlink_port = free_ports(2)
        self.config = write_settings(self.world, self.base, port, superlink_port)
        data = self.world.coordinator_data
        logs = [
            self.folder / "logs" / "coordinator.log",
            *(data / "logs" / f"{name}.log" for name in ("serve", "worker")),
            data / "flower" / "superlink.log",
        ]
        command = [program("coterie-coordinator"), "up", "--config", str(self.config)]
        self.processes.start("the coordinator", command, environment(), logs)
        self.url = CoordinatorSettings.load(self.config).public_uri
        self.processes.wait_for("answer of the coordinator", self._answers, START_S)
        self.terminal.say(f"The DAO's public page: {self.url}")
        return self.url

    def join(self) -> Joined:
        """Every member's ``coterie join``, and the refusal of a wallet that owns nothing."""
        for member in self.scale.members:
            home = self.world.home(member)
            logs = [self.folder / "logs" / f"{member.name}.log", home / "flower" / "supernode.log"]
            variables = environment(**self._wallet(member))
            self.processes.start(f"{member.name}'s client", self._join_command(member), variables, logs)
        refusal = self._refused(EVE)
        self.processes.wait_for("grant of every member", self._all_granted, JOIN_S)
        verdicts = {member.name: self._verdicts(member).verdicts for member in self.scale.members}
        for name, judged in verdicts.items():
            denied = [verdict for verdict in judged if not verdict.allow]
            self.terminal.say(f"{name} joined: {len(judged) - len(denied)} tokens admitted, {len(denied)} denied")
            for verdict in denied:
                self.terminal.say(f"   {verdict.collection} {verdict.token.token_id}: {verdict.reason}", "yellow")
        self.terminal.say(f"eve, who owns nothing, was refused: {refusal}", "yellow")
        return Joined(verdicts, refusal)

    def train(self) -> Release:
        """The admin's order, the members' training, the merge; the first release."""
        tails = self._tails()
        plan = self.scale.plan
        changes = [part for name, value in plan.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        command = [program("coterie-coordinator"), "round", "start", "--config", str(self.config), *changes]
        done = run(command, {"COTERIE_WALLET_KEY": ADMIN.key}, JOIN_S)
        if done.returncode:
            raise DemoFailed(f"The round was not started: {' '.join(last_words(done))}")
        self.round_id = done.stdout.split()[-1]
        self.terminal.say(f"Round {self.round_id}, signed by the admin's wallet {ADMIN.address}")
        with self.terminal.bars([member.name for member in self.scale.members]) as show:
            self._follow(self._round, tails, show)
        return self._released(self.round_id)

    def account(self) -> dict[str, Traffic]:
        """What left each member's machine."""
        traffic = {member.name: self._traffic(member) for member in self.scale.members}
        for name, bytes_ in traffic.items():
            kinds = ", ".join(f"{what} {amount(size)}" for what, size in bytes_.sent.items())
            self.terminal.say(f"{name} sent {amount(sum(bytes_.sent.values()))}: {kinds}")
            self.terminal.say(f"   of its {amount(bytes_.images)} of images: none")
        return traffic

    def pull(self, release: Release, name: str) -> Path:
        """``coterie pull`` into a fresh folder, then diffusers' own loader; fails when a key is left over."""
        into = self.folder / "pulled" / name
        command = [program("coterie"), "pull", release.cid, "--gateway", self.url, "--into", str(into)]
        done = run(command, {}, PULL_S)
        if done.returncode:
            raise DemoFailed(f"The pull failed: {' '.join(last_words(done))}")
        self.terminal.say(done.stdout.strip().splitlines()[0])
        done = run([sys.executable, "-m", "deploy.demo.loading", str(self.base), str(into)], {}, PULL_S)
        if done.returncode:
            raise DemoFailed(f"diffusers could not load the release: {' '.join(last_words(done))}")
        loaded = json.loads(done.stdout.splitlines()[-1])
        if loaded["left_over"]:
            raise DemoFailed(f"diffusers left keys over: {', '.join(loaded['left_over'][:3])}")
        self.terminal.say(f"pipe.load_lora_weights took all {loaded['tensors']} tensors, no key is left over")
        return into

    def sell(self) -> Release:
        """Dan sells a token whose licence ends with that; the release without what was trained on it."""
        tails = self._tails()
        token_id = self.world.sell(COMMERCIAL, DAN, EVE)
        self.terminal.say(f"dan sold {COMMERCIAL} {token_id} to eve; the block is final")
        with self.terminal.bars([member.name for member in self.scale.members if member is not DAN]) as show:
            round_id = self._follow(self._removal, tails, show)
        release = self._released(round_id)
        for removal in release.manifest.removals:
            self.terminal.say(f"The manifest says why: {removal.reason}", "yellow")
        return release

    def begin_measuring(self, pulled: Path) -> Measuring:
        """Of the base, each member's own adapter and the collective: losses, recognised heads and the sheet."""
        rounds = {member.name: self.world.home(member) / "rounds" / self.round_id for member in self.scale.members}
        collective = str(pulled / "pytorch_lora_weights.safetensors")
        own = {f"{name}'s own": str(folder / "adapter.safetensors") for name, folder in rounds.items()}
        order = Order(
            base=str(self.base),
            models={BASE: "", COLLECTIVE: collective, **own},
            draw=(BASE, COLLECTIVE),
            datasets=tuple(str(folder) for folder in rounds.values()),
            heads=tuple(head for member in self.scale.members for head in self.world.heads_of(member)),
            out=str(self.folder),
            drawn_each=self.scale.drawn_each,
            sampling_steps=self.scale.sampling_steps,
        )
        return self._stack.enter_context(Measuring(order))

    # What they stand on -----------------------------------------------------------------------------------------------

    def _answers(self) -> bool | None:
        try:
            return requests.get(f"{self.url}/api/v1/dao", timeout=5).ok or None
        except requests.RequestException:
            return None

    def _listed(self, what: str) -> list[dict[str, Any]]:
        """``rounds`` or ``releases``, as anyone may see them."""
        response = requests.get(f"{self.url}/api/v1/{what}", timeout=30)
        response.raise_for_status()
        return list(response.json())

    def _join_command(self, person: Person) -> list[str]:
        home = str(self.world.home(person))
        return [program("coterie"), "join", self.url, "--home", home, "--rpc", self.anvil.url, "--yes"]

    def _wallet(self, person: Person) -> dict[str, str]:
        return {"COTERIE_WALLET_KEY": person.key, "COTERIE_THREADS": "1", "COTERIE_BASE": str(self.base)}

    def _refused(self, stranger: Person) -> str:
        """The sentence that the stranger's client ends with."""
        done = run(self._join_command(stranger), self._wallet(stranger), JOIN_S)
        sentence = next(last_words(done), "")
        if done.returncode == 0 or not sentence:
            raise DemoFailed(f"{stranger.name}, who owns nothing, was not refused.")
        return sentence

    def _all_granted(self) -> bool | None:
        homes = [self.world.home(member) for member in self.scale.members]
        return all(any((home / "grants").glob("*.json")) for home in homes) or None

    def _verdicts(self, person: Person) -> Eligibility:
        api = CoordinatorApi(self.url)
        api.sign_in(Wallet.from_key(person.key), api.dao())
        return api.verdicts()

    def _tails(self) -> dict[str, ProgressTail]:
        return {member.name: ProgressTail(self.world.home(member)) for member in self.scale.members}

    def _follow(self, look: Callable[[], dict[str, Any] | None], tails: Mapping[str, ProgressTail], show: Show) -> str:
        """Show progress and states until the round that ``look`` gives is published; its id."""
        said = ""

        def ended() -> dict[str, Any] | None:
            nonlocal said
            for name, tail in tails.items():
                for update in tail.new():
                    show(name, update)
            seen = look()
            if seen is None:
                return None
            if seen["state"] != said:
                said = seen["state"]
                self.terminal.say(f"The round is {said}")
            return seen if said in ENDED else None

        seen = self.processes.wait_for("end of the round", ended, ROUND_S)
        if seen["state"] != "published":
            reasons = [seen["reason"], *(absence["reason"] for absence in seen["absences"])]
            raise DemoFailed(f"The round is {seen['state']}: {' '.join(reasons)}", self._logs())
        return str(seen["round_id"])

    def _round(self) -> dict[str, Any] | None:
        return next((one for one in self._listed("rounds") if one["round_id"] == self.round_id), None)

    def _removal(self) -> dict[str, Any] | None:
        return next((one for one in self._listed("rounds") if one["kind"] == "removal"), None)

    def _released(self, round_id: str) -> Release:
        one = next(release for release in self._listed("releases") if release["round_id"] == round_id)
        release = Release(one["cid"], Manifest.model_validate(one["manifest"]))
        count = len(release.manifest.contributions)
        merge = release.manifest.merge
        self.terminal.say(f"{count} contributions merged at rank {merge.rank}: {merge.candidate}, gain {merge.gain:g}")
        self.terminal.say(f"CID {release.cid}", "bold green")
        return release

    def _traffic(self, member: Person) -> Traffic:
        sent: dict[str, int] = {}
        for line in (self.world.home(member) / "sent.jsonl").read_text().splitlines():
            entry = json.loads(line)
            sent[entry["what"]] = sent.get(entry["what"], 0) + int(entry["bytes"])
        own = [noun for noun in self.world.nouns if noun.owner is member and noun.collection != PERSONAL]
        return Traffic(sent, sum(len(svg(self.world.art.compose(noun.seed))) for noun in own))

    def _logs(self) -> list[Path]:
        return [*self.folder.glob("coordinator/logs/*.log"), *self.folder.glob("members/*/flower/supernode.log")]
