"""Who holds a token, by kind of collection, every question asked at one snapshot.

What lives here: a module for each kind, pure (which calls to make, and what their answers say), for each way a token
may be held indirectly, and ``holding``, which asks. ``discovery`` finds what a wallet may hold, ``held_since`` since
when. Nothing here decides who may take part: the policy does, in ``Ownership`` and in its rules.
"""
