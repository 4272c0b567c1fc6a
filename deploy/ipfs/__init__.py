"""A real IPFS node for tests: js-ipfs with its ``/api/v0``, because no other can be installed from a registry.

What lives here: npm packages (``package.json``, locked), the daemon and the process that runs it. For tests only: a DAO
runs Kubo. What speaks to a node lives in ``ipfs``.
"""
