"""The merge: from contributions to one collective delta, exactly and removably, for whoever has the contributions.

``exact``, ``wide`` and ``algebra`` are pure arrays in, arrays out; ``merge`` puts them together over files. It lies
between both sides because a release can be merged again by anyone. Nothing here knows of wallets, rounds or the
network, nor imports torch, the client or the coordinator.
"""
