"""A round from its order to its release.

Pure: ``transitions`` (when a round moves on), ``checks`` (what a contribution must be). Around them: ``ledger``
(the database, one transaction a transition), ``events`` (the hash-chained log), ``files`` (tensors on disk),
``exchange`` (the round as the nodes see it) and ``worker`` (the loop that moves rounds on).
"""
