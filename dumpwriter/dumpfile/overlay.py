"""Pieces that are laid over each other, the later over the earlier: what of each can still be seen."""

from __future__ import annotations

import heapq
import itertools
from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dumpwriter.dumpfile.pageruns import Integers


class Pieces(NamedTuple):
    """Three arrays of one length: where each piece begins and ends, and where its bytes come from."""

    starts: Integers
    ends: Integers
    sources: Integers


def visible(pieces: Pieces) -> Pieces:
    """From pieces that are not empty, in the order in which they were laid: what is seen, ascending and disjoint."""
    if not len(pieces.starts):
        return pieces
    overlaps = _overlapping(pieces)
    cut = _cut(Pieces(*(column[overlaps] for column in pieces)))
    seen = [numpy.concatenate((column[~overlaps], part)) for column, part in zip(pieces, cut, strict=True)]
    order = numpy.argsort(seen[0])
    return Pieces(*(column[order] for column in seen))


def _overlapping(pieces: Pieces) -> NDArray[numpy.bool_]:
    """Which of them lie with others on one heap: few, but for what was written again."""
    order = numpy.argsort(pieces.starts, kind="stable")
    starts, reached = pieces.starts[order], numpy.maximum.accumulate(pieces.ends[order])
    heaps = numpy.cumsum(numpy.append([0], starts[1:] >= reached[:-1]))
    overlaps = numpy.empty(len(order), bool)
    overlaps[order] = numpy.bincount(heaps)[heaps] > 1
    return overlaps


def _cut(pieces: Pieces) -> Pieces:
    """From border to border, the piece that was laid last."""
    starts, ends, sources = (array("q", column.tobytes()) for column in pieces)
    order = array("q", numpy.argsort(pieces.starts, kind="stable").tobytes())
    borders = array("q", numpy.unique(numpy.concatenate(pieces[:2])).tobytes())
    seen = Columns()
    lying: list[int] = []
    following = 0
    for border, next_border in itertools.pairwise(borders):
        while following < len(order) and starts[order[following]] == border:
            heapq.heappush(lying, -order[following])
            following += 1
        while lying and ends[-lying[0]] <= border:
            heapq.heappop(lying)
        if lying:
            top = -lying[0]
            seen.add(border, next_border, sources[top] + border - starts[top])
    return seen.pieces()


class Columns:
    """Pieces one by one. One that goes on where the last ended, in both places, is the same piece."""

    def __init__(self) -> None:
        self.starts, self.ends, self.sources = array("q"), array("q"), array("q")

    def add(self, start: int, end: int, source: int) -> None:
        if self.starts and start == self.ends[-1] and source - start == self.sources[-1] - self.starts[-1]:
            self.ends[-1] = end
            return
        self.starts.append(start)
        self.ends.append(end)
        self.sources.append(source)

    def __len__(self) -> int:
        return len(self.starts)

    def pieces(self) -> Pieces:
        return Pieces(*(numpy.array(column, numpy.int64) for column in (self.starts, self.ends, self.sources)))
