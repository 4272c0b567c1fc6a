"""IPFS over the network, for both sides: gateways nobody has to trust, and a node's RPC.

What comes is written down or handed on as it came; whoever asked hashes it (``protocol.car``). Imports neither side.
"""
