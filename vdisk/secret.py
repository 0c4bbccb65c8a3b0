"""Bytes that nobody is to see: a passphrase, a key."""

from __future__ import annotations


class Secret(bytes):
    """Bytes that do not show themselves where they are printed: in a message, a record, a traceback."""

    def __repr__(self) -> str:
        return f"<{len(self)} secret bytes>"

    __str__ = __repr__
