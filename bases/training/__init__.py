"""How the embedded base came about: run ``python -m bases.training.nouns32 --help`` to make it again.

Nothing outside this folder imports from it.
"""
