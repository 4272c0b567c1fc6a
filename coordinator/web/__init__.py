"""HTTP: the API that clients speak, the trustless IPFS gateway, and the public page.

Views are thin: they read a request, ask the rooms next door, and write an answer. What the public may see is
gathered in ``views``.
"""
