"""The base models that ship with Coterie, and the scripts that made them.

What lives here: frozen diffusers folders (package data), the art they were trained on as pure arrays,
and the training script anyone can run again. Nothing here knows about rounds, wallets or members.
"""

from pathlib import Path

EMBEDDED_BASE = Path(__file__).parent / "nouns32"
"""The folder of the embedded base: ``StableDiffusionPipeline.from_pretrained(EMBEDDED_BASE)`` loads it."""
