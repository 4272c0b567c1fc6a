"""Text from metadata: any script comes through whole, what steers a terminal does not, and all of it is bounded."""

import unicodedata

JOINERS = "\u200c\u200d"
"""They belong to words in Persian and to emoji; the other format characters (direction, tags) show nothing."""
_SKIN_TONES = range(0x1F3FB, 0x1F400)


def one_line(text: str, most: int) -> str:
    """At most ``most`` characters on one line, NFC, with single spaces and nothing that steers a display."""
    normal = unicodedata.normalize("NFC", text[: 8 * most])
    return cut(" ".join("".join(_shown(character) for character in normal).split()), most)


def cut(text: str, most: int) -> str:
    """The first ``most`` characters, or some fewer where the cut would go through a letter and its marks."""
    if len(text) <= most:
        return text
    end = most
    while end and (_goes_on(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return text[: end or most].rstrip()


def _shown(character: str) -> str:
    match unicodedata.category(character):
        case "Cc" | "Zs" | "Zl" | "Zp":
            return " "
        case "Cf":
            return character if character in JOINERS else ""
        case "Cs":
            return ""
        case _:
            return character


def _goes_on(character: str) -> bool:
    """Whether it belongs to the character before it: marks, variation selectors, joiners, skin tones."""
    marks = unicodedata.category(character) in ("Mn", "Mc", "Me")
    return marks or character in JOINERS or ord(character) in _SKIN_TONES
