"""SVG → picture by resvg. What it may name and how far it may unfold is checked before anything is drawn."""

import io
import re
import xml.etree.ElementTree as ElementTree
from math import ceil

import resvg_py
from PIL import Image

from client.collection.formats import LEFT_OUT
from client.media.data import read_data
from protocol.errors import BadInput

MAX_SIDE = 4096
"""Pixels; a larger SVG is drawn smaller."""
MAX_SVG_BYTES = 4 << 20
MAX_ELEMENTS = 200_000
"""As drawn, with every ``<use>`` unfolded."""
MAX_DEPTH = 100
MAX_FILTERS = 100
MAX_EMBEDDED_PIXELS = 64 << 20
"""In all embedded pictures together."""
MAX_CHAIN = 32
"""A ``<use>`` of a ``<use>`` of a …"""
_LENGTH = re.compile(r"^\s*(\d{1,6}(?:\.\d*)?)\s*(?:px)?\s*$")


def draw_svg(data: bytes, side: int) -> Image.Image:
    """RGBA at the SVG's own size, or a whole multiple of it whose longer side is at least ``side`` pixels.

    Raises:
        BadInput: no SVG, too large in any way, or reaching for something outside itself.
    """
    text, root = parse_svg(data)
    width, height = _natural_size(root)
    longer = max(width, height)
    scale: float = max(1, ceil(min(side, MAX_SIDE) / longer))
    if longer * scale > MAX_SIDE:
        scale = min(1.0, MAX_SIDE / longer)
    has_text = any(_local(element.tag) == "text" for element in root.iter())
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=text,
            width=max(1, round(width * scale)),
            height=max(1, round(height * scale)),
            skip_system_fonts=not has_text,
        )
    except ValueError as error:
        raise BadInput("The image is no SVG that can be drawn.", LEFT_OUT) from error
    return Image.open(io.BytesIO(bytes(png)), formats=["PNG"]).convert("RGBA")


def parse_svg(data: bytes, *, inside: bool = False) -> tuple[str, ElementTree.Element]:
    """Text and root of an SVG that names nothing outside itself; ``inside``: it is embedded in another."""
    if len(data) > MAX_SVG_BYTES:
        raise BadInput(f"The SVG is {len(data)} bytes; at most {MAX_SVG_BYTES} are taken.", LEFT_OUT)
    if b"<!ENTITY" in data:
        raise BadInput("The SVG declares entities, which could hide what it reaches for.", LEFT_OUT)
    parser = ElementTree.XMLParser(target=_Bounded())  # noqa: S314 - without entities expat expands and loads nothing
    try:
        text = data.decode("utf-8-sig")
        parser.feed(text)
        root = parser.close()
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise BadInput("The image is no picture that is known here, and no SVG that can be read.", LEFT_OUT) from error
    if not isinstance(root, ElementTree.Element) or _local(root.tag) != "svg":
        raise BadInput("The image is XML, but no SVG.", LEFT_OUT)
    _check_unfolded(root)
    pixels = 0
    for element in root.iter():
        for name, value in element.attrib.items():
            if _local(name) == "href":
                pixels += _embedded_pixels(value.strip(), inside)
    if pixels > MAX_EMBEDDED_PIXELS:
        raise BadInput(
            f"The SVG embeds pictures of {pixels} pixels; at most {MAX_EMBEDDED_PIXELS} are taken.", LEFT_OUT
        )
    return text, root


class _Bounded(ElementTree.TreeBuilder):
    """Builds the tree, and stops where it becomes too deep or too large."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._elements = self._filters = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self._depth += 1
        self._elements += 1
        self._filters += _local(tag).startswith("fe")
        if self._depth > MAX_DEPTH:
            raise BadInput(f"The SVG is nested more than {MAX_DEPTH} elements deep.", LEFT_OUT)
        if self._elements > MAX_ELEMENTS:
            raise BadInput(f"The SVG has more than {MAX_ELEMENTS} elements.", LEFT_OUT)
        if self._filters > MAX_FILTERS:
            raise BadInput(f"The SVG has more than {MAX_FILTERS} filter effects.", LEFT_OUT)
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def _check_unfolded(root: ElementTree.Element) -> None:
    """Count the elements as drawn: each ``<use>`` counts as much as what it names."""
    named: dict[str, tuple[int, list[str]]] = {}
    for element in root.iter():
        if name := element.get("id"):
            named.setdefault(name, _folded(element))
    known: dict[str, int] = {}

    def unfolded(name: str, chain: int) -> int:
        if name not in named:
            return 0
        if chain > MAX_CHAIN:
            raise BadInput(f"The SVG repeats parts of itself more than {MAX_CHAIN} times over.", LEFT_OUT)
        if name not in known:
            own, uses = named[name]
            known[name] = own + sum(unfolded(used, chain + 1) for used in uses)
        return known[name]

    own, uses = _folded(root)
    if own + sum(unfolded(name, 1) for name in uses) > MAX_ELEMENTS:
        raise BadInput(f"The SVG unfolds to more than {MAX_ELEMENTS} elements.", LEFT_OUT)


def _folded(element: ElementTree.Element) -> tuple[int, list[str]]:
    """How many elements it has, and which others its ``<use>`` elements name."""
    elements = list(element.iter())
    uses = [one for one in elements if _local(one.tag) == "use"]
    references = [value.strip() for one in uses for name, value in one.attrib.items() if _local(name) == "href"]
    return len(elements), [reference[1:] for reference in references if reference.startswith("#")]


def _embedded_pixels(reference: str, inside: bool) -> int:
    """resvg would open a path as a local file; only parts of the SVG itself and embedded pictures are allowed."""
    if reference.startswith("#"):
        return 0
    if not reference.lower().startswith("data:image/"):
        raise BadInput("The SVG reaches for something outside itself.", LEFT_OUT)
    data = read_data(reference[5:], "A picture in the SVG")
    if reference.lower().startswith("data:image/svg"):
        if inside:
            raise BadInput("The SVG embeds an SVG that embeds another.", LEFT_OUT)
        parse_svg(data, inside=True)
        return 0
    try:
        width, height = Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "GIF", "WEBP"]).size
    except Exception as error:
        raise BadInput("The SVG embeds a picture that cannot be read.", LEFT_OUT) from error
    return width * height


def _natural_size(root: ElementTree.Element) -> tuple[float, float]:
    """Width and height in pixels as the SVG has them, else those of its viewBox."""
    sides = [_LENGTH.match(root.get(name, "")) for name in ("width", "height")]
    if sides[0] and sides[1]:
        width, height = float(sides[0][1]), float(sides[1][1])
    else:
        box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
        try:
            _, _, width, height = (float(number) for number in box)
        except ValueError as error:
            raise BadInput("The SVG has no size in pixels and no viewBox.", LEFT_OUT) from error
    if not (0 < width < 1e6 and 0 < height < 1e6):
        raise BadInput("The SVG's size is no size.", LEFT_OUT)
    return width, height


def _local(name: object) -> str:
    """An XML name without its namespace; comments and the like have none."""
    return name.rpartition("}")[2] if isinstance(name, str) else ""
