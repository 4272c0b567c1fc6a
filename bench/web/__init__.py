"""How the web server bears a crowd: ``python -m bench.web``.

What lives here: a database as it is after years (``filled``), the real server over it (``served``), a second process
that reads pages, signs in and listens all at once (``load``).
"""
