"""Merging: from live contributions to one collective delta, exactly and removably.

``exact`` and ``algebra`` are pure arrays in, arrays out; ``merge`` puts them together over files; ``gain``
decides from the members' scores. Nothing here knows of wallets, rounds or the network, nor imports torch.
"""
