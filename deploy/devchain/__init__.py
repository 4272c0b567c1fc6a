"""A real chain on one machine: anvil, the demo's NFT contracts, and what deploys and mints them.

What lives here: npm packages (``package.json``, locked), Solidity sources and their compiler script, the anvil
process and the sender of transactions. For demo and tests only: its keys are public knowledge. Readers of the
chain live in ``contracts_abi``.
"""
