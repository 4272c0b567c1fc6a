"""Where a token's files are, and how they get here: addresses judged, downloads bounded, reservations heard.

What lives here: everything between a URI that a token names and the bytes behind it. ``addresses`` and ``tdmrep`` are
pure. What is in the bytes is ``client.collection``'s; nothing here opens a file.
"""
