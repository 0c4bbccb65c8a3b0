"""What a filesystem holds, as a value: names, and what they lead to. Of it follows what a crash may leave.

Metadata go through the journal, so names and sizes are those of one moment. File data do not: what was overwritten and
not synced since may be there in part. But each byte of a file is one that was written to that file at that place.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy

from dumpwriter.lab.exploration import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"


class Node(NamedTuple):
    """What one or more names lead to; the content of a symbolic link is where it leads."""

    kind: Kind
    content: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class Tree(NamedTuple):
    """Paths without a slash before them, each with the number of its node. Values: a change makes another tree."""

    names: Mapping[bytes, int]
    nodes: Mapping[int, Node]

    def node(self, path: bytes) -> Node | None:
        return self.nodes.get(self.names.get(path, -1))

    def with_name(self, path: bytes, number: int) -> Tree:
        return self._replace(names={**self.names, path: number})

    def with_node(self, number: int, node: Node) -> Tree:
        return self._replace(nodes={**self.nodes, number: node})

    def without(self, path: bytes) -> Tree:
        return self._replace(names={name: number for name, number in self.names.items() if name != path})

    def moved(self, path: bytes, to: bytes) -> Tree:
        """As rename(2): two names of one file stay as they are, and all below a directory goes with it."""
        if self.names.get(to) == self.names[path]:
            return self
        return self._replace(names={_moved(name, path, to): number for name, number in self.without(to).names.items()})

    def exchanged(self, path: bytes, other: bytes) -> Tree:
        names = {}
        for name, number in self.names.items():
            moved = _moved(name, path, other)
            names[moved if moved != name else _moved(name, other, path)] = number
        return self._replace(names=names)

    def shape(self) -> frozenset[tuple[bytes, Kind, object, bytes]]:
        """All but the bytes of files: of two trees with the same shape the same names lead to the same node."""
        first: dict[int, bytes] = {}
        for path in sorted(self.names):
            first.setdefault(self.names[path], path)
        return frozenset(
            (path, self.nodes[number].kind, _detail(self.nodes[number]), first[number])
            for path, number in self.names.items()
        )


EMPTY = Tree({b"lost+found": 0}, {0: Node(Kind.DIRECTORY)})


def _moved(name: bytes, path: bytes, to: bytes) -> bytes:
    is_below = name == path or name.startswith(path + b"/")
    return to + name[len(path) :] if is_below else name


def _detail(node: Node) -> object:
    return (len(node.content) if node.kind == Kind.FILE else node.content), node.xattrs


class Verdict(StrEnum):
    """What is left after a crash, by the last sync before it and the operations since."""

    AS_SYNCED = "as synced"
    FURTHER = "further than synced"
    BROKEN = "broken"  # e2fsck could not repair it, or did not leave it clean
    LOST = "lost"  # something that was synced, and that nothing touched since
    MIXED = "mixed"  # names or sizes are those of no one moment
    FOREIGN = "foreign"  # a file has bytes that nobody wrote to it


def compare(found: Tree, moments: Sequence[Tree]) -> Finding:
    """`moments` are the tree as it was at the last sync, and after each operation since."""
    lost = next(_lost(found, moments), "")
    if lost:
        return Finding(Verdict.LOST, lost)
    shape, foreign = found.shape(), ""
    for number, moment in enumerate(moments):
        if moment.shape() == shape:
            foreign = next(_foreign(found, moment, moments), "")
            if not foreign:
                return Finding(Verdict.FURTHER if number else Verdict.AS_SYNCED)
    if foreign:
        return Finding(Verdict.FOREIGN, foreign)
    odd = min(path for path, *_ in shape ^ moments[-1].shape())
    return Finding(Verdict.MIXED, f"{odd.decode(errors='replace')}, and more, as it was at no moment together")


def _lost(found: Tree, moments: Sequence[Tree]) -> Iterator[str]:
    for path, number in moments[0].names.items():
        node = moments[0].nodes[number]
        is_untouched = all(moment.names.get(path) == number and moment.nodes[number] == node for moment in moments)
        if is_untouched and found.node(path) != node:
            what = "is not as" if path in found.names else "is gone, and"
            yield f"{path.decode()} {what} it was synced"


def _foreign(found: Tree, moment: Tree, moments: Sequence[Tree]) -> Iterator[str]:
    for path, number in moment.names.items():
        if moment.nodes[number].kind == Kind.FILE:
            content = found.nodes[found.names[path]].content
            versions = {each.nodes[number].content for each in moments if number in each.nodes}
            place = None if content in versions else _first_foreign(content, versions)
            if place is not None:
                yield f"{path.decode()} holds at byte {place} what was never written there"


def _first_foreign(content: bytes, versions: set[bytes]) -> int | None:
    """The first byte that is in none of the versions at its place; behind the end of a version is a hole."""
    size_bytes = len(content)
    found = numpy.frombuffer(content, numpy.uint8)
    is_known = numpy.zeros(size_bytes, bool)
    for version in versions:
        is_known |= found == numpy.frombuffer(version[:size_bytes].ljust(size_bytes, b"\0"), numpy.uint8)
    return None if is_known.all() else int(is_known.argmin())
