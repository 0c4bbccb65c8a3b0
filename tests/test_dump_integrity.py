"""The digest of loaded code: it stays as code runs, is the same in every process, and misses no byte of it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

import pytest

from dumpwriter import frames
from dumpwriter.crash import dump, plan, turn
from dumpwriter.crash.integrity import LoadedCode
from tests.dumping import DumpBench
from vdisk.errors import IntegrityError
from vdisk.layers.write_guard import WriteGuard

if TYPE_CHECKING:
    from collections.abc import Callable

PRINT_DIGEST = """
from dumpwriter.crash import integrity, standby
print(integrity.LoadedCode().own_digest().hex())
"""


@pytest.fixture(scope="module")
def code() -> LoadedCode:
    return LoadedCode()


def test_code_that_runs_hot_is_still_the_same(code: LoadedCode) -> None:
    before = specialised_count()
    for seed in range(3):
        DumpBench(300, pieces=7, seed=seed).write()
    assert specialised_count() > before or before > 0, "nothing was specialised: this shows nothing"
    code.check()


def specialised_count() -> int:
    """Functions whose bytecode is no longer what was compiled."""
    functions = [value for module in (dump, frames, plan) for value in vars(module).values()]
    codes = [function.__code__ for function in functions if isinstance(function, FunctionType)]
    return sum(bytecode(found) != found.co_code for found in codes)


def test_every_process_has_the_same_digest() -> None:
    """Each has other hashes, and other addresses."""
    said = {
        subprocess.run([sys.executable, "-I", "-c", PRINT_DIGEST], capture_output=True, check=True).stdout
        for _ in range(4)
    }
    assert len(said) == 1
    assert len(said.pop().strip()) == 64


def bytecode(code: CodeType) -> bytes:
    found: bytes = code._co_code_adaptive  # type: ignore[attr-defined]
    return found


def in_memory(code: CodeType) -> ctypes.Array[ctypes.c_char]:
    """The bytecode of a function as it lies in memory, behind the head of its object."""
    content = bytecode(code)
    place = ctypes.string_at(id(code), code.__sizeof__() + 64).index(content)
    return (ctypes.c_char * len(content)).from_address(id(code) + place)


# Functions that no test here runs, so that they lie in memory as they were compiled.
COLD: list[Callable[..., object]] = [
    WriteGuard._check,
    turn.unlock,
    subprocess.Popen.terminate,  # not ours
]


@pytest.mark.parametrize("function", COLD, ids=lambda function: function.__qualname__)
def test_no_byte_of_an_instruction_may_change(code: LoadedCode, function: FunctionType) -> None:
    content = in_memory(function.__code__)
    pure = function.__code__.co_code
    for position in range(len(content)):
        if not pure[position // 2 * 2]:
            continue  # a cache
        kept = content[position]
        content[position] = bytes([kept[0] ^ 0x55])
        with pytest.raises(IntegrityError):
            code.check()
        content[position] = kept
    code.check()


def test_a_name_that_a_function_uses_may_not_change(code: LoadedCode) -> None:
    """It is written over where it lies."""
    name = next(name for name in dump._write_headers.__code__.co_names if name.startswith("seal"))
    letters = (ctypes.c_char * len(name)).from_address(id(name) + name.__sizeof__() - len(name) - 1)
    assert letters.raw == name.encode()
    kept = letters.raw
    letters[0] = b"#"
    with pytest.raises(IntegrityError):
        code.check()
    letters.raw = kept
    code.check()


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (dump, "REQUEST_BUFFER_SIZE_BYTES", 1),
        (plan, "REQUEST_FRAMES", 9),
        (frames, "BLOCK_SIZE_BYTES", 512),
        (dump.cut_text, "__defaults__", (3,)),
        (WriteGuard, "__init__", lambda self, lower, permitted: None),
    ],
)
def test_a_value_of_a_module_may_not_change(
    code: LoadedCode, monkeypatch: pytest.MonkeyPatch, place: object, name: str, value: object
) -> None:
    monkeypatch.setattr(place, name, value)
    with pytest.raises(IntegrityError):
        code.check()
    monkeypatch.undo()
    code.check()
