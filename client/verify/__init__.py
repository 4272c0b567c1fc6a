"""``coterie verify``: a release checked by whoever has it, asking nobody who has a stake in the answer.

What lives here: the command. The checks themselves are in ``protocol.verification`` and ``merging.recompute``.
"""
