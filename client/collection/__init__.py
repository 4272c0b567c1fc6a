"""From NFTs to a dataset: metadata, pictures, captions, the member's choice, the held-out share and the lock file.

What lives here: everything that opens what a token's contract points to. It is all hostile: schemes are allowed one
by one, bytes and pixels are capped, pictures are opened in a limited process (``opener``), and a bad token is left out
with its reason. ``captions``, ``choice``, ``rarity``, ``shapes`` and ``croissant`` are pure. No training and no wallet
here, and no torch.
"""
