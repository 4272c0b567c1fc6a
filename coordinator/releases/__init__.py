"""Releases as content: what a release says of itself, and the store of CAR files it is pinned in.

``build`` writes the release's folder, ``card`` and ``samples`` its readable parts, ``store`` turns it into
a CID, ``gateway`` serves it. Which contributions are live, and when to release, is decided elsewhere.
"""
