"""README and docs say what is there: commands, options, settings, routes, fields, licences, links."""

import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from pydantic import BaseModel

from client.cli import app as member_commands
from client.config import MemberSettings
from coordinator.cli import app as dao_commands
from coordinator.config import CoordinatorSettings
from coordinator.web.app import create_app
from protocol.acts import (
    AcceptContribution,
    CancelRound,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    RemoveContribution,
    ResumeRound,
    RevokeGrant,
)
from protocol.contribution import ContributionHeader
from protocol.grant import Grant, RoundPlan, StartRound
from protocol.manifest import Manifest
from protocol.policy import LICENCES, CollectionRule, OnTransfer, Policy

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
ALL = "\n".join(PAGES.values())
PROGRAMS = {"coterie": member_commands, "coterie-coordinator": dao_commands}
HASH = "0" * 64


def code(page: str) -> Iterator[str]:
    """Lines of shell blocks and pieces of inline code."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    for language, block in fences:
        if language == "sh":
            yield from (line.split("#")[0].strip() for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S))


def calls() -> list[tuple[str, str]]:
    """(page, command line) of every use of our programs."""
    return [
        (name, line)
        for name, page in PAGES.items()
        for line in code(page)
        if line.split()[:1] and line.split()[0] in PROGRAMS
    ]


def commands(program: str) -> dict[str, click.Command]:
    """``"round start"`` → the command."""
    found: dict[str, click.Command] = {}

    def walk(group: click.Group, prefix: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                walk(command, f"{prefix}{name} ")
            else:
                found[prefix + name] = command

    root = typer.main.get_command(PROGRAMS[program])
    assert isinstance(root, click.Group)
    walk(root, "")
    return found


def settings_table(heading: str) -> set[str]:
    """The names in the settings table below ``## heading`` of operations.md."""
    section = PAGES["operations.md"].split(f"## {heading}")[1].split("### Settings")[1].split("\n#")[0]
    rows = re.findall(r"^\|([^|]*)\|", section, re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(("page", "line"), calls())
def test_every_command_in_the_docs_exists_with_its_options(page: str, line: str) -> None:
    program, *words = shlex.split(line)
    known = commands(program)
    plain = [word for word in words if not word.startswith("-")]
    name = next((" ".join(plain[:n]) for n in (2, 1) if " ".join(plain[:n]) in known), None)
    if not words or words == ["--help"]:
        return
    assert name, f"{page}: there is no `{line}`"
    options = {option for parameter in known[name].params for option in parameter.opts}
    for word in words:
        assert not word.startswith("--") or word.partition("=")[0] in options, f"{page}: `{line}` has no {word}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_is_in_the_docs(program: str) -> None:
    lines = [line for _, line in calls()]
    for name in commands(program):
        assert any(line.startswith(f"{program} {name}") for line in lines), f"`{program} {name}` is nowhere explained"


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for line in code(ALL) if line.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


def test_every_module_that_the_docs_run_exists() -> None:
    for line in code(ALL):
        if line.startswith("python -m "):
            assert importlib.util.find_spec(line.split()[2]), line


def test_every_setting_is_documented_and_no_other() -> None:
    assert settings_table("The DAO's side") == set(CoordinatorSettings.model_fields)
    assert settings_table("The member's side") == set(MemberSettings.model_fields)


def test_the_settings_in_the_readme_are_settings() -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGES["README.md"], re.M | re.S)
    values = tomllib.loads(block)
    needed = {name for name, field in CoordinatorSettings.model_fields.items() if field.is_required()}
    assert needed <= set(values) <= set(CoordinatorSettings.model_fields)


def test_every_route_is_documented_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_text("{}")
    (tmp_path / "policy.json").write_text(policies()[0])
    app = create_app(
        CoordinatorSettings(
            data=tmp_path / "data",
            rpc_url="http://127.0.0.1:9",
            policy=tmp_path / "policy.json",
            base=tmp_path / "base",
            base_name="none",
        )
    )
    routes = {f"{m} {r.rule}" for r in app.url_map.iter_rules() for m in (r.methods or ()) - {"HEAD", "OPTIONS"}}
    documented = set(re.findall(r"^\| `((?:GET|POST) [^`]+)` \|", PAGES["architecture.md"], re.M))
    assert documented == routes


def policies() -> list[str]:
    """The ready policies that policy.md leads to."""
    named = dict.fromkeys(re.findall(r"\]\((policies/[\w-]+\.json)\)", PAGES["policy.md"]))
    return [(ROOT / "docs" / name).read_text() for name in named]


def test_the_example_policies_are_policies() -> None:
    plain, warranted = (Policy.model_validate_json(document) for document in policies())
    assert not plain.accept_holder_warrant
    assert {rule.licence for rule in plain.collections} == {"CC0"}
    assert warranted.accept_holder_warrant and warranted.tokens and warranted.weights == "per-token"
    assert json.loads(plain.canonical())["weights"] == "equal"


def test_the_licence_table_says_what_the_licences_say() -> None:
    rows = re.findall(r"^\| `([A-Z][\w.-]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|", PAGES["policy.md"], re.M)
    table = {name: [cell.strip() for cell in cells] for name, *cells in rows}
    assert set(table) == set(LICENCES)
    for name, (derivatives, training, sold, duties) in table.items():
        licence = LICENCES[name]
        assert derivatives == ("yes" if licence.derivatives else "no"), name
        assert duties == ("; ".join(map(str, licence.duties)) or "none"), name
        if licence.derivatives:
            assert training == ("yes" if licence.mentions_training else "silent"), name
            assert sold.startswith("stays" if licence.on_transfer is OnTransfer.KEEP else "the contribution ends"), name


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("protocol.md", RoundPlan),
        ("protocol.md", ContributionHeader),
        ("protocol.md", Manifest),
        ("policy.md", Policy),
        ("policy.md", CollectionRule),
    ],
)
def test_every_field_is_documented(page: str, model: type[BaseModel]) -> None:
    written = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", PAGES[page]))))
    assert set(model.model_fields) <= written


def test_the_typed_data_is_documented_field_by_field() -> None:
    grant = Grant.model_construct(
        dao="", chain_id=1, member="", purpose="", tokens=(), node_key="", policy_hash=HASH, base_hash=HASH, expires=0
    )
    order = StartRound.model_construct(
        dao="", chain_id=1, admin="", plan=RoundPlan(), policy_hash=HASH, base_hash=HASH, nonce="", expires=1
    )
    head = {"dao": "", "chain_id": 1, "nonce": "", "expires": 1}
    acts = (
        CancelRound.model_construct(**head, admin="", round_id="", reason=""),
        RemoveContribution.model_construct(**head, admin="", contribution_id="", reason=""),
        PauseRound.model_construct(**head, admin="", round_id="", reason=""),
        ResumeRound.model_construct(**head, admin="", round_id=""),
        ExtendRound.model_construct(**head, admin="", round_id="", deadline=1),
        PublishRound.model_construct(**head, admin="", round_id=""),
        QuarantineContribution.model_construct(**head, admin="", contribution_id="", reason=""),
        AcceptContribution.model_construct(**head, admin="", contribution_id=""),
        RevokeGrant.model_construct(**head, member="", grant_hash=HASH),
    )
    for name, document in (("Grant", grant), ("StartRound", order), *((type(act).__name__, act) for act in acts)):
        section = PAGES["protocol.md"].split(f"**{name}**")[1].split("\n\n")[1]
        rows = re.findall(r"^\| (`[^|]+) \| (\w+(?:\[\])?) \|", section, re.M)
        documented = [(field, kind) for names, kind in rows for field in re.findall(r"`(\w+)`", names)]
        assert documented == [(one["name"], one["type"]) for one in document.typed_data()["types"][name]]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_between_the_pages_leads_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#]+)", PAGES[page]):
        assert (folder / target).exists(), f"{page}: {target}"
