"""Which recovered crashes a store keeps, and how much room it leaves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


DIGITS_MAX = 9  # a longer name is somebody's joke, and its successor may not fit in a name


class Retention(NamedTuple):
    """`keep` crashes at the most (None: all of them), and at least `min_free_bytes` free after a recovery."""

    keep: int | None = None
    min_free_bytes: int = 0


KEEP_ALL = Retention()


def numbered(names: Iterable[str]) -> list[str]:
    """The names of crashes, oldest first; what else stands in a store is not ours."""
    ours = (name for name in names if name.isdecimal() and name.isascii() and len(name) <= DIGITS_MAX)
    return sorted(ours, key=int)


def next_name(names: Iterable[str], bound: int) -> str:
    """The number of the next crash: never one that was used before, though its crash be gone."""
    return str(max([bound, *(int(name) + 1 for name in numbered(names))]))


def superseded(names: Iterable[str], keep: int | None) -> list[str]:
    """What may go, oldest first. In a boot loop the first crash tells what the others follow from: it stays."""
    crashes = numbered(names)
    if keep is None or len(crashes) <= keep:
        return []
    if keep == 1:
        return crashes[:-1]
    return crashes[1 : len(crashes) - (keep - 1)]
