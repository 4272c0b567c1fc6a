"""docs/collections.md says what there is: fields, options, limits and an example that is a choice."""

import re
import tomllib
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from client.cli import app
from client.collection import metadata, opener, picture, shapes, svg
from client.collection.captions import MAX_CAPTION, CaptionStyle
from client.collection.choice import Choice
from client.collection.choice_file import choice_from
from client.collection.dataset import DatasetLock, LockedToken, Skipped
from client.collection.vetoes import MAX_TEXT_BYTES
from client.media import web
from protocol.contribution import TokenUse

PAGE = (Path(__file__).parents[2] / "docs" / "collections.md").read_text()


@pytest.mark.parametrize("model", [Choice, CaptionStyle, DatasetLock, LockedToken, Skipped])
def test_every_field_is_explained(model: type[BaseModel]) -> None:
    written = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", PAGE))))
    assert set(model.model_fields) <= written


def test_what_was_looked_for_is_explained() -> None:
    assert "no_veto_in" in TokenUse.model_fields and "`no_veto_in`" in PAGE


def test_every_option_of_coterie_nfts_is_explained() -> None:
    command = typer.main.get_command(app).commands["nfts"]  # type: ignore[attr-defined]
    options = {option for one in command.params for option in (*one.opts, *one.secondary_opts) if option[:2] == "--"}
    general = {"--home", "--keystore", "--help"}
    assert {option for option in options - general if option not in PAGE} == set()


def test_the_example_is_a_choice() -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)
    assert choice_from(tomllib.loads(example)).stars


def test_the_limits_are_those_of_the_code() -> None:
    limits = opener.Limits()
    for said in (
        f"{metadata.MAX_IMAGE_BYTES >> 20} MiB, {picture.MAX_PIXELS // 10**6} megapixels",
        f"{picture.MAX_SIDE:,} pixels a side",
        f"{svg.MAX_SVG_BYTES >> 20} MiB",
        f"{svg.MAX_ELEMENTS:,} elements",
        f"{svg.MAX_DEPTH} levels and {svg.MAX_FILTERS} filter effects",
        f"{MAX_TEXT_BYTES >> 20} MiB of packed text",
        f"Up to {web.MAX_REDIRECTS} redirects",
        f"A file has {web.TIMEOUT_S:g} s in all",
        f"fails {web.MAX_FAILURES} times in a row",
        f"{limits.megabytes >> 10} GiB of memory",
        f"{limits.seconds} s of computing",
        f"{MAX_CAPTION:,} characters",
        f"less than {shapes.LEAST_SIZE_FOR_SHAPES} pixels",
        f"multiples of {shapes.STEP}",
        f"{shapes.ART_SIDE} pixels a side and {shapes.ART_COLOURS} colours",
    ):
        assert said in " ".join(PAGE.split()), said
