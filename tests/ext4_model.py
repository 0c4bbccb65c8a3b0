"""A plain model of a tree of files, and random operations done to it and to a filesystem alike."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from vdisk.ext4.filesystem import RENAME_EXCHANGE, RENAME_NOREPLACE, ROOT_INO, Ext4Filesystem

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


class Node:
    """A file, a directory or a symbolic link of the model."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.content = bytearray()
        self.children: dict[bytes, Node] = {}
        self.xattrs: dict[bytes, bytes] = {}

    def descends_from(self, other: Node) -> bool:
        return self is other or any(self.descends_from(child) for child in other.children.values())


class Model:
    """Each method does one thing to the filesystem and to the model, and compares how they answered."""

    def __init__(self, fs: Ext4Filesystem, chance: random.Random) -> None:
        self.fs = fs
        self.chance = chance
        self.root = Node(stat.S_IFDIR)
        self.root.children[b"lost+found"] = Node(stat.S_IFDIR)

    def directories(self) -> list[Node]:
        found = [self.root]
        for directory in found:
            found += [child for child in directory.children.values() if child.kind == stat.S_IFDIR]
        return found

    def ino_of(self, node: Node) -> int:
        if node is self.root:
            return ROOT_INO
        for directory in self.directories():
            for name, child in directory.children.items():
                if child is node:
                    return self.fs.lookup(self.ino_of(directory), name)
        raise AssertionError

    def place(self) -> tuple[Node, bytes]:
        name = b"n%d" % self.chance.randrange(8)
        return self.chance.choice(self.directories()), name + b"x" * self.chance.choice((0, 0, 100, 250))

    def some_file(self) -> Node | None:
        files = [each for where in self.directories() for each in where.children.values() if each.kind == stat.S_IFREG]
        return self.chance.choice(files) if files else None

    def expect(self, error: int, call: Callable[[], object]) -> None:
        """The filesystem must answer with this errno, 0 for success."""
        answer = 0
        try:
            call()
        except OSError as failure:
            answer = failure.errno or -1
        assert errno.errorcode.get(answer) == errno.errorcode.get(error)

    def create(self) -> None:
        where, name = self.place()
        kind = self.chance.choice((stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))
        parent = self.ino_of(where)
        error = errno.EEXIST if name in where.children else 0
        node = Node(kind)
        if kind == stat.S_IFREG:
            self.expect(error, lambda: self.fs.create(parent, name, 0o600, 1, 2))
        elif kind == stat.S_IFDIR:
            self.expect(error, lambda: self.fs.mkdir(parent, name, 0o700, 1, 2))
        else:
            node.content[:] = b"/t" * self.chance.choice((1, 29, 30, 31, 2000))
            self.expect(error, lambda: self.fs.symlink(parent, name, bytes(node.content), 1, 2))
        where.children.setdefault(name, node)

    def remove(self) -> None:
        where, name = self.place()
        parent = self.ino_of(where)
        node = where.children.get(name)
        if node is None:
            self.expect(errno.ENOENT, lambda: self.fs.unlink(parent, name))
            return
        if node.kind == stat.S_IFDIR:
            self.expect(errno.EISDIR, lambda: self.fs.unlink(parent, name))
            self.expect(errno.ENOTEMPTY if node.children else 0, lambda: self.fs.rmdir(parent, name))
            if node.children:
                return
        else:
            self.expect(errno.ENOTDIR, lambda: self.fs.rmdir(parent, name))
            self.expect(0, lambda: self.fs.unlink(parent, name))
        del where.children[name]

    def link(self) -> None:
        node = self.some_file()
        where, name = self.place()
        if node is not None:
            ino, parent = self.ino_of(node), self.ino_of(where)
            self.expect(errno.EEXIST if name in where.children else 0, lambda: self.fs.link(ino, parent, name))
            where.children.setdefault(name, node)

    def _rename_error(self, source: Node | None, target: Node | None, to: Node, flags: int) -> int:
        if source is None:
            return errno.ENOENT
        if source.kind == stat.S_IFDIR and to.descends_from(source):
            return errno.EINVAL
        if flags == RENAME_EXCHANGE and target is None:
            return errno.ENOENT
        if target is None or target is source:
            return errno.EEXIST if target and flags == RENAME_NOREPLACE else 0
        if flags == RENAME_NOREPLACE:
            return errno.EEXIST
        return 0 if flags else self._replace_error(source, target)

    def _replace_error(self, source: Node, target: Node) -> int:
        if target.kind != stat.S_IFDIR:
            return errno.ENOTDIR if source.kind == stat.S_IFDIR else 0
        if source.kind != stat.S_IFDIR:
            return errno.EISDIR
        return errno.ENOTEMPTY if target.children else 0

    def rename(self) -> None:
        where, name = self.place()
        to, new_name = self.place()
        flags = self.chance.choice((0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
        source, target = where.children.get(name), to.children.get(new_name)
        error = self._rename_error(source, target, to, flags)
        below = target is not None and target.kind == stat.S_IFDIR and where.descends_from(target)
        if flags == RENAME_EXCHANGE and not error and below:
            error = errno.EINVAL
        parent, new_parent = self.ino_of(where), self.ino_of(to)
        self.expect(error, lambda: self.fs.rename(parent, name, new_parent, new_name, flags))
        if error or source is None or source is target:
            return
        del where.children[name]
        if flags == RENAME_EXCHANGE and target is not None:
            where.children[name] = target
        to.children[new_name] = source

    def write(self) -> None:
        node = self.some_file()
        if node is not None:
            offset = self.chance.choice((0, len(node.content), self.chance.randrange(40_000)))
            data = self.chance.randbytes(self.chance.choice((1, 100, 4096, 12_288, 20_000)))
            assert self.fs.write(self.ino_of(node), offset, data) == len(data)
            node.content.extend(bytes(max(0, offset - len(node.content))))
            node.content[offset : offset + len(data)] = data

    def truncate(self) -> None:
        node = self.some_file()
        if node is not None:
            size = self.chance.choice((0, len(node.content) // 2, len(node.content) + 5000))
            assert self.fs.set_attributes(self.ino_of(node), size_bytes=size).size_bytes == size
            del node.content[size:]
            node.content.extend(bytes(size - len(node.content)))

    def set_xattr(self) -> None:
        node = self.some_file()
        if node is not None:
            name, value = b"user.%d" % self.chance.randrange(3), self.chance.randbytes(self.chance.choice((0, 10, 900)))
            self.fs.xattr_set(self.ino_of(node), name, value)
            node.xattrs[name] = value

    def commit(self) -> None:
        self.fs.commit()

    def step(self) -> None:
        steps = (self.create,) * 4 + (self.write,) * 4 + (self.remove, self.rename) * 3
        self.chance.choice((*steps, self.link, self.truncate, self.truncate, self.set_xattr, self.commit))()


def assert_same(fs: Ext4Filesystem, ino: int, node: Node) -> None:
    if node.kind == stat.S_IFREG:
        attributes = fs.attributes(ino)
        assert attributes.size_bytes == len(node.content)
        assert bytes(fs.read(ino, 0, len(node.content) + 10)) == node.content
        assert {name: fs.xattr_get(ino, name) for name in fs.xattr_list(ino)} == node.xattrs
    elif node.kind == stat.S_IFLNK:
        assert fs.readlink(ino) == node.content
    else:
        entries = {name: (child, kind) for name, child, kind, _ in fs.entries(ino, 0)}
        assert entries.keys() == node.children.keys() | {b".", b".."}
        subdirectories = sum(child.kind == stat.S_IFDIR for child in node.children.values())
        assert fs.attributes(ino).nlink == 2 + subdirectories
        for name, child in node.children.items():
            assert entries[name][1] << 12 == child.kind
            assert_same(fs, entries[name][0], child)
