"""Choosing free blocks for a file that is allocated at once. Pure."""

from __future__ import annotations


def choose_runs(free: list[tuple[int, int]], wanted: int) -> list[tuple[int, int]]:
    """The fewest of the free runs (start, length) that hold `wanted` blocks, in disk order.

    One run that is just large enough is taken alone; else the largest runs, the last of them as small as will do. Where
    there is too little, everything is returned.
    """
    chosen: list[tuple[int, int]] = []
    left = wanted
    by_length = sorted(free, key=lambda run: run[1])
    while left > 0 and by_length:
        position = _smallest_that_holds(by_length, left)
        start, length = by_length.pop(position)
        chosen.append((start, min(length, left)))
        left -= length
    return sorted(chosen)


def _smallest_that_holds(by_length: list[tuple[int, int]], wanted: int) -> int:
    """The position of the shortest run of at least `wanted` blocks, or of the longest one."""
    low, high = 0, len(by_length) - 1
    while low < high:
        middle = (low + high) // 2
        if by_length[middle][1] >= wanted:
            high = middle
        else:
            low = middle + 1
    return low
