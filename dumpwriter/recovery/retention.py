"""Which recovered crashes a store keeps, and how much room it leaves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


DIGITS_MAX = 9  # a longer name is somebody's joke, and its successor may not fit in a name
NUMBER_MAX = 10**DIGITS_MAX - 1


class Retention(NamedTuple):
    """`keep` crashes at the most (None: all of them), and at least `min_free_bytes` free after a recovery."""

    keep: int | None = None
    min_free_bytes: int = 0


KEEP_ALL = Retention()


def numbered(names: Iterable[str]) -> list[str]:
    """The names of crashes, oldest first; what else stands in a store is not ours."""
    ours = (name for name in names if name.isdecimal() and name.isascii() and len(name) <= DIGITS_MAX)
    return sorted(ours, key=int)


def next_number(names: Iterable[str], bound: bytes) -> int:
    """The number of the next crash: never one that was used before, though its crash be gone.

    `bound` is what was written down of it; what cannot be a number of ours says nothing. `NUMBER_MAX` may be used up.
    """
    written = bound.strip()
    is_ours = written.isdigit() and len(written) <= DIGITS_MAX + 1 and int(written) <= NUMBER_MAX + 1
    return max([1, int(written) if is_ours else 1, *(int(name) + 1 for name in numbered(names))])


def superseded(names: Iterable[str], keep: int | None) -> list[str]:
    """What may go, oldest first. In a boot loop the first crash tells what the others follow from: it stays."""
    crashes = numbered(names)
    if keep is None or len(crashes) <= keep:
        return []
    if keep == 1:
        return crashes[:-1]
    return crashes[1 : len(crashes) - (keep - 1)]
