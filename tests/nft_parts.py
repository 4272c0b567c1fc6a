"""NFTs for tests: metadata and picture in one data: URI, so that nothing has to be fetched."""

import base64
import json

import numpy as np

from bases.nouns_art import svg


def noun_uri(number: int) -> str:
    """A token's URI: a random picture of 32 x 32, and one trait."""
    tiles = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = tiles.repeat(8, axis=0).repeat(8, axis=1)
    image = "data:image/svg+xml;base64," + base64.b64encode(svg(picture).encode()).decode()
    document = {"image": image, "attributes": [{"trait_type": "head", "value": f"head {number}"}]}
    return "data:application/json;base64," + base64.b64encode(json.dumps(document).encode()).decode()
