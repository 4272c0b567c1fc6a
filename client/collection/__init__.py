"""From NFTs to a dataset: metadata, pictures, captions, the held-out share and the lock file.

What lives here: everything that opens what a token's contract points to. It is all hostile: schemes are allowed one
by one, bytes and pixels are capped, and a bad token is left out with its reason. No training and no wallet here.
"""
