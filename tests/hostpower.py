"""A host whose power may go at any call of `HostStore`: what its directory may then hold.

Real calls on a real directory, and beside them what each fsync has settled. Of a directory that was not synced since
are left its names as they were then, or as they are; of a file its bytes as they were then, as they are, or only the
first half of them.
"""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tree = tuple[tuple[str, Any], ...]  # of names with bytes, or with what the directory of this name holds

CALLS = ("open", "mkdir", "pwrite", "ftruncate", "fsync", "rename", "unlink", "rmdir")


class Host:
    """Stands for the module `os`. `before_call` is called before everything that changes a directory or syncs it."""

    def __init__(self, root: Path, before_call: Callable[[], None]) -> None:
        self._root = root
        self.before_call = before_call
        self._settled: dict[int, Any] = {_inode(root): _names(root)}  # by inode: names of a directory, or bytes

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.before_call()
            if name in ("unlink", "rmdir"):  # another file may get its number
                self._settled.pop(_inode(Path(arguments[0])), None)
            answer = real(*arguments)
            if name == "fsync":
                self._settle(arguments[0])
            return answer

        return call

    def _settle(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._settled[_inode(path)] = _names(path) if path.is_dir() else path.read_bytes()

    def left_by_a_power_cut(self) -> Iterator[Tree]:
        """All of it, some of it more than once."""
        current = {path.stat().st_ino: path for path in (self._root, *self._root.rglob("*"))}
        return self._directory(_inode(self._root), current)

    def _directory(self, inode: int, current: dict[int, Path]) -> Iterator[Tree]:
        for names in (self._settled.get(inode, {}), _names(current[inode])):
            there = {name: number for name, number in names.items() if number in current}
            inside = [list(self._entry(number, current)) for number in there.values()]
            for chosen in itertools.product(*inside):
                yield tuple(zip(there, chosen, strict=True))

    def _entry(self, inode: int, current: dict[int, Path]) -> Iterator[Any]:
        if stat.S_ISDIR(current[inode].stat().st_mode):
            return iter(dict.fromkeys(self._directory(inode, current)))
        content, settled = current[inode].read_bytes(), self._settled.get(inode, b"")
        return iter(dict.fromkeys([settled, content] if settled == content else [settled, _torn(content), content]))


def _torn(content: bytes) -> bytes:
    return content[: len(content) // 2].ljust(len(content), b"\0")


def _inode(path: Path) -> int:
    return path.stat().st_ino


def _names(directory: Path) -> dict[str, int]:
    return {path.name: _inode(path) for path in sorted(directory.iterdir())}


def lay_out(tree: Tree, directory: Path) -> None:
    """Make what a power cut left."""
    directory.mkdir()
    for name, inside in tree:
        if isinstance(inside, bytes):
            (directory / name).write_bytes(inside)
        else:
            lay_out(inside, directory / name)
