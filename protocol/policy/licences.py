"""What licences mean for training, in the few terms a policy needs. Where a text can be read in two ways, the stricter.

No legal advice: these are readings, and a policy can state its own (``CustomLicence``).
"""

import re
from collections.abc import Mapping
from enum import StrEnum

from contracts_abi.model import LicenceSignal
from protocol.canonical import Document
from protocol.policy.duties import Duty, duties


class OnTransfer(StrEnum):
    """What becomes of a contribution when one of its tokens changes hands."""

    KEEP = "keep"
    EXCLUDE = "exclude"
    RETRAIN = "retrain"
    """Exclude it, and ask the member to train again on the tokens that are left."""

    @property
    def strictness(self) -> int:
        """More is stricter."""
        return list(OnTransfer).index(self)


class Licence(Document):
    """What a licence means for training."""

    name: str
    derivatives: bool
    """Whether the holder may make derivatives at all."""
    mentions_training: bool
    """Whether training is clearly permitted; if not, the holder has to warrant it and the policy to accept that."""
    on_transfer: OnTransfer
    duties: tuple[Duty, ...] = ()
    source: str
    """Where the licence's text is found."""


_CANT_BE_EVIL = "https://github.com/a16z/a16z-contracts"
_CREATIVE_COMMONS = "https://creativecommons.org/licenses"


def _cant_be_evil(name: str, *words: str, derivatives: bool) -> Licence:
    """Silent on training. Licence and sublicences end when the token is transferred."""
    return Licence(
        name=f"CBE-{name}",
        derivatives=derivatives,
        mentions_training=False,
        on_transfer=OnTransfer.EXCLUDE,
        duties=duties(*words),
        source=_CANT_BE_EVIL,
    )


def _creative_commons(terms: str, *words: str) -> Licence:
    """Given to everybody and for ever, so a sale ends nothing; silent on training, so the holder warrants it."""
    return Licence(
        name=f"CC-{terms.upper()}-4.0",
        derivatives="nd" not in terms.split("-"),
        mentions_training=False,
        on_transfer=OnTransfer.KEEP,
        duties=duties("attribution", *words),
        source=f"{_CREATIVE_COMMONS}/{terms}/4.0/",
    )


def _of_holders(name: str, *words: str, derivatives: bool = True, source: str) -> Licence:
    """A project's own licence to whoever holds the token, silent on training, for as long as they hold it."""
    return Licence(
        name=name,
        derivatives=derivatives,
        mentions_training=False,
        on_transfer=OnTransfer.EXCLUDE,
        duties=duties(*words),
        source=source,
    )


_NO_HATE = "no hate speech"

LICENCES: Mapping[str, Licence] = {
    licence.name: licence
    for licence in (
        Licence(
            name="CC0",
            derivatives=True,
            mentions_training=True,
            on_transfer=OnTransfer.KEEP,
            source="https://creativecommons.org/publicdomain/zero/1.0/",
        ),
        _cant_be_evil("EXCLUSIVE", derivatives=True),
        _cant_be_evil("COMMERCIAL", derivatives=True),
        _cant_be_evil("COMMERCIAL_NO_HATE", _NO_HATE, derivatives=True),
        _cant_be_evil("PERSONAL", derivatives=False),
        _cant_be_evil("PERSONAL_NO_HATE", _NO_HATE, derivatives=False),
        _creative_commons("by"),
        _creative_commons("by-sa", "share-alike: CC-BY-SA-4.0"),
        _creative_commons("by-nc", "non-commercial"),
        _creative_commons("by-nc-sa", "non-commercial", "share-alike: CC-BY-NC-SA-4.0"),
        _creative_commons("by-nd"),
        _creative_commons("by-nc-nd", "non-commercial"),
        # What was made while one held a punk may stay, says the text; a later release is made anew, so it ends here.
        _of_holders("CRYPTOPUNKS-2022", _NO_HATE, source="https://licenseterms.cryptopunks.app"),
        # The text says nothing of a sale: it speaks to whoever owns the ape.
        _of_holders("BAYC", source="https://boredapeyachtclub.com/#/terms"),
        _of_holders("AZUKI", _NO_HATE, source="https://www.azuki.com/license"),
        # Owners may sell up to a limit, and may not modify the art: a model learned from it is read as a modification.
        _of_holders("NFT-LICENSE-2.0", "non-commercial", _NO_HATE, derivatives=False, source="https://nftlicense.org"),
    )
}
"""Licence profiles by name. Can't Be Evil PUBLIC is CC0."""

_URL = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/"
    r"(?:licenses/(?P<terms>by(?:-nc)?(?:-sa|-nd)?)/4\.0|publicdomain/(?P<zero>zero)/1\.0)"
    r"(?:/(?:deed|legalcode)(?:\.[a-zA-Z_-]{2,10})?)?/?"
)
_NAME = re.compile(r"CC[ -](?P<terms>BY(?:-NC)?(?:-SA|-ND)?)[ -]4\.0|(?P<zero>CC0(?:[ -]1\.0)?)", re.IGNORECASE)
_MAX_SHOWN = 120


def licence_of(signal: LicenceSignal) -> str:
    """The profile's name for what a contract announces; its own words where no profile is meant."""
    if signal.standard == "ERC-5218":
        return licence_named(signal.uri)
    return "CC0" if signal.name == "PUBLIC" else f"CBE-{signal.name}"[:_MAX_SHOWN]


def licence_named(text: str) -> str:
    """The profile that a URL or a name means (Creative Commons 4.0 and CC0 1.0 only); otherwise the text itself.

    Other versions are other licences, and nothing is guessed from words in between.
    """
    stripped = text.strip()
    if stripped in LICENCES:
        return stripped
    match = _URL.fullmatch(stripped) or _NAME.fullmatch(stripped)
    if match is None:
        return stripped[:_MAX_SHOWN]
    return "CC0" if match["zero"] else f"CC-{match['terms'].upper()}-4.0"
