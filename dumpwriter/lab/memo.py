"""What was found out once, kept while there is room: a campaign has millions of cases, and most of them share most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Found = TypeVar("Found")

NEVER_FOUND: Any = object()


class Memo(Generic[Found]):
    """Forgets all when it is full, which is simpler than to choose, and costs as little."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._found: dict[Hashable, Found] = {}

    def get(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What `find` gives; the key must decide it. Keys are large, and hashed anew at each look: one has to do."""
        found: Found = self._found.get(key, NEVER_FOUND)
        if found is NEVER_FOUND:
            if len(self._found) == self._entries_max:
                self._found.clear()
            found = self._found[key] = find()
        return found
