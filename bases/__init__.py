"""The frozen base models, as both sides run them.

What lives here: the base that ships with Coterie (package data, its art as pure arrays, the script that trained it),
the families of bases that are known, how one is loaded, and the statistics of its layers' inputs. Nothing here knows
about wallets or members, or trains an adapter. ``loading``, ``families`` and ``statistics`` import torch, so they are
imported by programs of their own, never by the coordinator's web side.
"""

from pathlib import Path

EMBEDDED_BASE = Path(__file__).parent / "nouns32"
"""The folder of the embedded base: ``StableDiffusionPipeline.from_pretrained(EMBEDDED_BASE)`` loads it."""
