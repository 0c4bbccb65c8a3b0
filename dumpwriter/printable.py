"""Text that somebody else chose, as one line of a log or a terminal can hold it."""

from __future__ import annotations


def printable(text: str) -> str:
    """What would end the line, steer the terminal or is no text, is escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
