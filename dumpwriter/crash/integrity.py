"""Whether a standby is still what it was when it got ready: the code that it has loaded, as it lies in memory.

The digest goes over the bytecode of every function in the interpreter, those of others included. Of our own modules it
takes constants, names and the default values of arguments as well.

It does not read `co_code`: from its first use on, that is a copy beside the code which runs. And the code which runs
changes without being wrong: an instruction that runs often is replaced by a quicker one of its family, and counters and
caches stand behind it. So every instruction counts as its family, and what lies in caches does not count.
"""

from __future__ import annotations

import dis
import gc
import os
import sys
from enum import EnumType
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import blake3

from vdisk.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PACKAGES = ("dumpwriter", "vdisk")
BATCH_SIZE = 256  # functions that are read at once: more need more memory, fewer more time
PLAIN_TYPES = (bool, bytes, float, int, str, type(None))
TABLE_TYPES = (tuple, dict)

_NUMBERS: dict[str, int] = dis._all_opmap  # type: ignore[attr-defined]  # noqa: SLF001 - of specialised ones as well
_FAMILIES: dict[str, str] = dis.deoptmap  # type: ignore[attr-defined]
FAMILY = bytes(
    _NUMBERS.get(_FAMILIES.get(name, name), number)
    for number, name in enumerate(dis._all_opname)  # type: ignore[attr-defined]  # noqa: SLF001
)
COUNTS = bytes([0] + 255 * [255])  # an entry of a cache is written as opcode 0


class Batch(NamedTuple):
    """Functions that are read at once, and which of their instructions count: an integer with a byte for each."""

    codes: tuple[CodeType, ...]
    mask: int

    def update(self, hasher: blake3.blake3) -> None:
        loaded = b"".join([code._co_code_adaptive for code in self.codes])  # type: ignore[attr-defined]  # noqa: SLF001
        for bytes_of_each in (loaded[::2].translate(FAMILY), loaded[1::2]):
            counting = int.from_bytes(bytes_of_each, "little") & self.mask
            hasher.update(counting.to_bytes(len(bytes_of_each), "little"))


class LoadedCode:
    """The code of this interpreter, as it is now. What is loaded later is not in it."""

    def __init__(self) -> None:
        roots = tuple(os.path.dirname(str(sys.modules[name].__file__)) + os.sep for name in PACKAGES)
        codes = list(_codes())
        self._modules = tuple(_modules_below(roots))
        self._own = _batches(sorted((code for code in codes if code.co_filename.startswith(roots)), key=_order))
        self._foreign = _batches([code for code in codes if not code.co_filename.startswith(roots)])
        self._expected = self.digest()

    def check(self) -> None:
        """Raises `IntegrityError` where the code is not what it was when this was made."""
        if self.digest() != self._expected:
            raise IntegrityError("the code that the standby has loaded is damaged")

    def own_digest(self) -> bytes:
        """Of our own modules alone: the same in every process that has loaded the same of them."""
        hasher = blake3.blake3()
        for module in self._modules:
            hasher.update("\0".join(_values(module.__name__, vars(module))).encode(errors="surrogatepass"))
        for code in (code for batch in self._own for code in batch.codes):
            hasher.update(_shape(code))
        return _digest(hasher, self._own)

    def digest(self) -> bytes:
        """Of all code. It can be compared with what it was in the same process before."""
        return _digest(blake3.blake3(self.own_digest()), self._foreign)


def _digest(hasher: blake3.blake3, batches: Iterable[Batch]) -> bytes:
    for batch in batches:
        batch.update(hasher)
    return hasher.digest()


def _batches(codes: list[CodeType]) -> tuple[Batch, ...]:
    batches = []
    for start in range(0, len(codes), BATCH_SIZE):
        piece = tuple(codes[start : start + BATCH_SIZE])
        pure = b"".join([code.co_code for code in piece])
        batches.append(Batch(piece, int.from_bytes(pure[::2].translate(COUNTS), "little")))
    return tuple(batches)


def _codes() -> Iterator[CodeType]:
    """The code of every function, and of what is defined in functions."""
    seen: set[int] = set()
    found = [function.__code__ for function in gc.get_objects() if isinstance(function, FunctionType)]
    while found:
        code = found.pop()
        if id(code) not in seen:
            seen.add(id(code))
            yield code
            found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _order(code: CodeType) -> tuple[Any, ...]:
    """A place for each that no process's addresses have a part in."""
    return code.co_filename, code.co_firstlineno, code.co_qualname, _shape(code), code.co_code


def _shape(code: CodeType) -> bytes:
    """What a function is besides its bytecode."""
    names = "\0".join(code.co_names + code.co_varnames + code.co_cellvars + code.co_freevars)
    constants = [_text(constant) for constant in code.co_consts if type(constant) is not CodeType]
    numbers = (code.co_argcount, code.co_kwonlyargcount, code.co_flags, code.co_stacksize)
    return f"{names}{constants}{numbers}".encode(errors="surrogatepass") + code.co_exceptiontable


def _text(constant: object) -> str:
    """A constant as text. A set has no order of its own."""
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def _modules_below(roots: tuple[str, ...]) -> list[ModuleType]:
    """By where they were loaded from: the one that was started has another name."""
    found = sorted(sys.modules.items())
    return [module for _, module in found if (getattr(module, "__file__", None) or "").startswith(roots)]


def _values(owner: str, names: Mapping[str, Any]) -> Iterator[str]:
    """What the names of a module, and of its classes, stand for: plain values, and functions with their defaults."""
    for name, value in sorted(names.items()):
        kind = type(value)
        if kind in PLAIN_TYPES:
            yield f"{owner}.{name}={value!r}"
        elif kind is FunctionType:
            defaults = f"{_plain(value.__defaults__)}{_plain(value.__kwdefaults__)}"
            yield f"{owner}.{name}={value.__code__.co_qualname}:{value.__code__.co_firstlineno}{defaults}"
        elif kind in TABLE_TYPES and not name.startswith("__"):
            yield f"{owner}.{name}={_plain(value)}"
        elif isinstance(value, EnumType):
            yield f"{owner}.{name}={_plain(dict(value.__members__))}"
        elif isinstance(value, type) and value.__module__ == owner:
            yield from _values(owner, vars(value))


def _plain(value: object) -> str:
    """A value as text as far as it is made of numbers and texts; else what type it has."""
    if isinstance(value, PLAIN_TYPES):
        return repr(value)
    if isinstance(value, tuple):
        return str([_plain(item) for item in value])
    if isinstance(value, dict):
        return str([(_plain(name), _plain(item)) for name, item in value.items()])
    return type(value).__qualname__
