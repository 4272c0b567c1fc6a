"""How the web server bears a crowd: ``python -m bench.web``.

What lives here: a database as it is after years (``filled``), the real server over it (``served``), two more
processes that read pages, and sign in and listen, all at once (``load``).
"""
