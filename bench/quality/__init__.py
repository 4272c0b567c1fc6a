"""What a collective is worth, beside every other way to make one: ``python -m bench.quality``.

What lives here: made-up members with heads that the embedded base never saw, other people's federated rules written
anew, central training as the ceiling, this engine, one yardstick for all of them, and the page that says how it went.
"""
