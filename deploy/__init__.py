"""How Coterie is run: the demo, the dev chain, recipes for a real host.

What lives here starts and wires things for people and tests; nothing under ``client``, ``coordinator``,
``protocol`` or ``contracts_abi`` may import it, and it is not part of the installed package.
"""
