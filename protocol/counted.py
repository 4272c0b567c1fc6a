"""Numbers of things in sentences."""


def counted(number: int, noun: str) -> str:
    """``1 contribution``, ``2 contributions``, ``1,000 contributions``; for nouns that take an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
