"""What is fuzzed: each takes a program, or bytes as they come, and raises where a promise is broken.

The promise: a dump that is sound, or one declared error of one line; no read outside the file, none of more than the
file has or than is ever needed at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.dumpfile.raw import open_raw
from tests.dumpreading import open_or_refuse
from tests.fuzz import seeds
from tests.fuzz.conversions import converted_dump
from tests.fuzz.edits import edited
from tests.fuzz.kernels import edited_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fuzz.seeds import Seed

SEEDS: dict[str, Callable[[], Sequence[Seed]]] = {
    "elf": seeds.elf,
    "kdump": seeds.kdump,
    "pagedump": seeds.pagedump,
    "lime": seeds.lime,
    "flattened": seeds.flat,
}


def edited_dump(name: str, program: bytes) -> None:
    open_or_refuse(open_dump, edited(SEEDS[name](), program))


def any_bytes(content: bytes) -> None:
    open_or_refuse(open_dump, content)
    open_or_refuse(open_raw, content)


TARGETS: dict[str, Callable[[bytes], None]] = {
    **{name: partial(edited_dump, name) for name in SEEDS},
    "bytes": any_bytes,
    "conversion": converted_dump,
    "kernel": edited_kernel,
}
