"""The merge's last step, on a model that runs: the collective learns to answer as each member's adapter does.

What lives here: lessons (what an adapter answers on pictures that it drew itself from public captions) and the
training on them. Torch is imported here, so only the merging process imports this room; it knows no wallet, no round
and no database.
"""
