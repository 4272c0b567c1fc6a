"""The DAO's side: identity, eligibility, rounds, merging, releases, watching, the web.

Each folder is one room. The cores are pure; the chain, IPFS, Flower, Flask and the database are thin
adapters around them. Nothing here is imported by ``client``, nor the other way round.
"""
