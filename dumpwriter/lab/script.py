"""Scripts: what is done to a filesystem, as text that can stand in one line. A table of them, and some at random.

    write d/a 0 5000; sync; rename d/a b

`VERBS` is the grammar: how many paths a verb takes, then how many numbers. A verb of `MANY` stands for several others.
An operation that the filesystem refuses, as a rename of what is not there, changes nothing and is no mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.lab.chance import Chance

NUMBER_MAX = 1 << 20  # of bytes or files: the disk is small
LONG_NAME = b"%03d" + b"-" * 100  # so that a directory takes several blocks soon


class Operation(NamedTuple):
    verb: str
    paths: tuple[bytes, ...] = ()
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.verb, *(path.decode() for path in self.paths), *map(str, self.numbers)])


class Shape(NamedTuple):
    paths: int
    numbers: int = 0


VERBS = {
    "create": Shape(1),
    "mkdir": Shape(1),
    "write": Shape(1, 2),  # from so many bytes on, so many bytes
    "append": Shape(1, 1),
    "truncate": Shape(1, 1),
    "rename": Shape(2),
    "exchange": Shape(2),
    "link": Shape(2),
    "symlink": Shape(2),  # a path, and where it leads
    "decoy": Shape(1),  # a link whose block begins as the journal's own blocks do
    "xattr": Shape(1, 1),  # a value of so many bytes
    "unlink": Shape(1),
    "rmdir": Shape(1),
    "hold": Shape(1),  # as an open file is, until the filesystem is closed
    "fsync": Shape(1),
    "sync": Shape(0),
    "reopen": Shape(0),
}


def _fill(path: bytes, count: int) -> Iterator[Operation]:
    return (Operation("create", (path + b"/" + LONG_NAME % number,)) for number in range(count))


def _clear(path: bytes, count: int) -> Iterator[Operation]:
    return (Operation("unlink", (path + b"/" + LONG_NAME % number,)) for number in range(count))


def _spread(path: bytes, count: int) -> Iterator[Operation]:
    return (Operation("mkdir", (path + b"/%d" % number,)) for number in range(count))


def _scatter(path: bytes, count: int) -> Iterator[Operation]:
    """Every second block from the end: no two of them can be one extent."""
    places = (2 * number * BLOCK_SIZE_BYTES for number in reversed(range(count)))
    return (Operation("write", (path,), (place_bytes, BLOCK_SIZE_BYTES)) for place_bytes in places)


MANY: dict[str, Callable[[bytes, int], Iterator[Operation]]] = {
    "fill": _fill,  # a directory with files of long names
    "clear": _clear,  # it of them
    "spread": _spread,  # directories in a directory
    "scatter": _scatter,  # a file in as many pieces
}

SCRIPTS = {
    "files": (  # at its end the journal is emptied
        "write a 0 9000; write b 0 100; sync; append a 5000; write b 0 200; fsync b; truncate a 4097; append b 40000; "
        "sync; unlink a; write c 0 20000; sync; write b 2000 3000; truncate c 5; append c 9000; write d 50000 10; "
        "sync; reopen"
    ),
    "names": (
        "mkdir d; mkdir e; write d/a 0 3000; sync; rename d/a e/a; link e/a d/b; sync; write d/c 0 5000; "
        "rename d/c e/a; symlink d/s ../e/a; sync; rename d e/d; exchange e/a e/d/b; sync; unlink e/d/s; "
        "rename e/d/b f; rmdir e/d; link f g; rename f g; sync; unlink e/a; rmdir e; sync"
    ),
    "directories": (
        "mkdir d; fill d 80; sync; clear d 70; sync; write f 0 30000; rename d/070" + "-" * 100 + " d/r; sync; "
        "clear d 80; unlink d/r; rmdir d; sync; write g 0 30000; sync"
    ),
    "fragments": (
        "scatter a 8; scatter b 8; sync; truncate a 20000; sync; write b 4096 9000; unlink a; sync; "
        "write c 0 60000; truncate b 0; sync"
    ),
    "orphans": (
        "write a 0 30000; write b 0 30000; write c 0 5000; link c d; sync; hold a; hold b; hold c; unlink a; sync; "
        "unlink b; unlink c; sync; write e 0 30000; sync; reopen; write f 0 30000; sync"
    ),
    "attributes": (
        "create a; xattr a 10; sync; xattr a 900; sync; write a 0 5000; xattr a 0; sync; xattr a 2000; unlink a; sync"
    ),
    "decoys": (  # the journal has to escape them
        "decoy a; sync; write b 0 9000; decoy c; sync; rename a d; unlink c; decoy e; write b 0 100; sync; reopen"
    ),
    "journal": (  # so much metadata that it has to be emptied on the way
        "mkdir d; mkdir e; mkdir f; spread d 180; sync; write a 0 50000; spread e 180; sync; spread f 180; "
        "write a 0 9000; sync; write b 0 20000; sync; rename a b; sync"
    ),
}


def parse(text: str) -> tuple[Operation, ...]:
    """Raises `UsageError` where the text is no script."""
    parts = [part.split() for part in text.split(";") if part.strip()]
    return tuple(operation for words in parts for operation in _parse(words))


def describe(script: tuple[Operation, ...]) -> str:
    return "; ".join(map(str, script))


def _parse(words: list[str]) -> Iterator[Operation]:
    verb, *arguments = words
    shape = Shape(1, 1) if verb in MANY else VERBS.get(verb)
    if shape is None or len(arguments) != sum(shape):
        raise UsageError(
            f"{' '.join(words)!r} is not an operation; give VERB PATH… NUMBER…, the verb of {_verbs()}; or the name of "
            f"a script: {', '.join(SCRIPTS)}"
        )
    for word in arguments[: 1 if verb == "symlink" else shape.paths]:  # where a link leads may be anywhere
        _check_path(word)
    paths = tuple(path.encode() for path in arguments[: shape.paths])
    numbers = tuple(map(_number, arguments[shape.paths :]))
    if verb in MANY:
        return MANY[verb](paths[0], min(numbers[0], 999))
    return iter([Operation(verb, paths, numbers)])


def _check_path(word: str) -> None:
    """From the root of the filesystem: what leads elsewhere would be looked for under another name than its own."""
    if {".", ".."} & set(word.split("/")):
        raise UsageError(f"{word!r} is not a path for a script: leave . and .. out of it")


def _number(word: str) -> int:
    if not word.isdecimal() or int(word) > NUMBER_MAX:
        raise UsageError(f"{word!r} is not a number from 0 to {NUMBER_MAX}")
    return int(word)


def _verbs() -> str:
    return ", ".join([*VERBS, *MANY])


PATHS = (b"a", b"b", b"c", b"d", b"d/a", b"d/b", b"d/e", b"d/e/a")
SIZES = (0, 1, 100, 4095, 4096, 5000, 12_288, 30_000)
OFTEN = ("create", "mkdir", "write", "write", "append", "truncate", "rename", "rename", "link", "unlink", "sync")


def draw_script(chance: Chance, length: int) -> tuple[Operation, ...]:
    """Few names, so that they meet; it begins with a directory and ends with a sync."""
    verbs = [*OFTEN, *VERBS]
    drawn = [_draw(chance, verbs[chance.below(len(verbs))]) for _ in range(length)]
    return (Operation("mkdir", (b"d",)), *drawn, Operation("sync"))


def _draw(chance: Chance, verb: str) -> Operation:
    shape = VERBS[verb]
    paths = tuple(PATHS[chance.below(len(PATHS))] for _ in range(shape.paths))
    return Operation(verb, paths, tuple(SIZES[chance.below(len(SIZES))] for _ in range(shape.numbers)))
