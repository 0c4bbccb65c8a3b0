"""How a check ends that finds something wrong."""

from __future__ import annotations


class RefutedError(Exception):
    """What a check found to be otherwise than it must be."""


def must(holds: object, complaint: str) -> None:
    """Raises `RefutedError` with the complaint unless it holds."""
    if not holds:
        raise RefutedError(complaint)
