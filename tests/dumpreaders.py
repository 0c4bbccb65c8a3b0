"""The programs and libraries that people read dumps with, each asked for every page of one.

A judge opens a dump and says in one word what came of it; where it reads pages, each must equal the memory's. It raises
`UnreadError` where the reader does not open the file at all.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders.kdump_reader import KdumpFile
from tests.dumpfiles import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT_SECONDS = 60
DEBIANS_PYTHON = "/usr/bin/python3"  # has libkdumpfile's own binding


class UnreadError(Exception):
    """The reader does not open the file."""


@dataclass
class Sample:
    """A dump, and what it is to hold. `virtual` says where gdb finds a physical address; `log` stands in the log.

    Readers leave what they write in `directory`.
    """

    path: Path
    directory: Path
    memory: bytes
    missing: frozenset[int]
    log: str
    virtual: Callable[[int], int]

    def runs(self) -> list[tuple[int, int]]:
        """The present pages as (first, first behind them)."""
        borders = sorted(self.missing)
        ends = [*borders, len(self.memory) // PAGE]
        return [
            (start, end) for start, end in zip([0, *(page + 1 for page in borders)], ends, strict=True) if start < end
        ]

    def page(self, page: int) -> bytes:
        return self.memory[page * PAGE : (page + 1) * PAGE]

    def judge(self, read: Callable[[int], bytes | None]) -> str:
        """Compare every page with what a reader gives for its number; None is a page that it refuses."""
        found_in_holes = {read(page) for page in self.missing}
        for page in range(len(self.memory) // PAGE):
            assert page in self.missing or read(page) == self.page(page), f"page {page:#x} is not what memory had"
        assert found_in_holes <= {None, bytes(PAGE)}, "a missing page has content"
        return "zeros" if bytes(PAGE) in found_in_holes else "yes"


def run(sample: Sample, *command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A reader's own program; the test is skipped where it is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(
        command, cwd=sample.directory, capture_output=True, timeout=TIMEOUT_SECONDS, check=False, **options
    )


def file(sample: Sample) -> str:
    told = run(sample, "file", "--brief", str(sample.path)).stdout.decode()
    if told.strip() == "data":
        raise UnreadError
    assert any(words in told for words in ("ELF 64-bit LSB core file", "dump v6", "MS Windows 64bit crash dump")), told
    return "name"


def gdb(sample: Sample) -> str:
    """By virtual addresses, which are all that gdb knows; a run is read in pieces where the mapping changes."""
    commands = []
    for page in sample.missing:
        address = sample.virtual(page * PAGE)
        commands += [f"dump binary memory missing {address:#x} {address + PAGE:#x}"]
    parts = list(_pieces(sample))
    for number, (start, end) in enumerate(parts):
        address = sample.virtual(start * PAGE)
        commands += [f"dump binary memory part{number} {address:#x} {address + (end - start) * PAGE:#x}"]
    words = [word for command in commands for word in ("-ex", command)]
    told = run(sample, "gdb", "-nx", "-batch", "-c", str(sample.path), *words).stderr.decode()
    if not (sample.directory / "part0").exists():
        raise UnreadError
    assert told.count("Cannot access memory") == len(sample.missing), told
    content = {start: (sample.directory / f"part{number}").read_bytes() for number, (start, _) in enumerate(parts)}
    pages = {
        start + at // PAGE: part[at : at + PAGE] for start, part in content.items() for at in range(0, len(part), PAGE)
    }
    return sample.judge(pages.get)


def _pieces(sample: Sample) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    for first, end in sample.runs():
        for page in range(first, end):
            follows = pieces and pieces[-1][1] == page
            if follows and sample.virtual(page * PAGE) == sample.virtual((page - 1) * PAGE) + PAGE:
                pieces[-1] = (pieces[-1][0], page + 1)
            else:
                pieces.append((page, page + 1))
    return pieces


def drgn(sample: Sample) -> str:
    library = pytest.importorskip("drgn")
    program = library.Program()
    try:
        program.set_core_dump(str(sample.path))
    except Exception as error:  # drgn raises nothing more precise
        raise UnreadError from error

    def read(page: int) -> bytes | None:
        try:
            content: bytes = program.read(page * PAGE, PAGE, physical=True)
        except library.FaultError:
            return None
        return content

    return sample.judge(read)


_LIBKDUMPFILE = """
import kdumpfile, sys
dump = kdumpfile.kdumpfile(sys.argv[1])
for page in range(int(sys.argv[2])):
    try:
        content = bytes(dump.read(kdumpfile.KDUMP_MACHPHYSADDR, page * 4096, 4096))
    except kdumpfile.exceptions.NoDataException:
        content = b""
    sys.stdout.buffer.write(bytes([len(content) // 4096]) + content.ljust(4096, b"\\0"))
"""


def libkdumpfile(sample: Sample) -> str:
    binding = run(sample, DEBIANS_PYTHON, "-c", "import kdumpfile")
    if binding.returncode:
        pytest.skip("python3-libkdumpfile is not installed")
    count = len(sample.memory) // PAGE
    done = run(sample, DEBIANS_PYTHON, "-c", _LIBKDUMPFILE, str(sample.path), str(count))
    if done.returncode:
        assert b"NotImplementedException" in done.stderr, done.stderr
        raise UnreadError
    rows = [done.stdout[at : at + 1 + PAGE] for at in range(0, len(done.stdout), 1 + PAGE)]
    return sample.judge(lambda page: rows[page][1:] if rows[page][0] else None)


def makedumpfile(sample: Sample) -> str:
    """Its own copy of the dump, page by page; of a flattened one, of what its -R makes of that."""
    source, word = sample.path, "yes"
    if sample.path.read_bytes().startswith(b"makedumpfile\0"):
        source, word = sample.directory / "rearranged", "-R"
        with sample.path.open("rb") as flattened:
            assert run(sample, "makedumpfile", "-R", source.name, stdin=flattened).returncode == 0
    if run(sample, "makedumpfile", "-c", "-d", "0", str(source), "copy").returncode:
        raise UnreadError
    copy = KdumpFile((sample.directory / "copy").read_bytes())
    dumped = set(copy.dumped)
    found = sample.judge(lambda page: copy.page(page) if page in dumped else None)
    return word if found == "yes" else found


def crash(sample: Sample) -> str:
    """Without the kernel's debug information it reads the log, and nothing else."""
    done = run(sample, "crash", "--log", str(sample.path))
    if done.returncode:
        raise UnreadError
    assert sample.log in done.stdout.decode(errors="replace")
    return "log"


def volatility3(sample: Sample) -> str:
    """By the layer that its stacker chooses; a file without headers is a layer as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from volatility3.framework import contexts, exceptions
        from volatility3.framework.layers import crash as windows
        from volatility3.framework.layers import elf, lime, physical

    context = contexts.Context()
    context.config["file.location"] = sample.path.as_uri()
    base = physical.FileLayer(context, "file", "file")
    context.add_layer(base)
    try:
        stackers = (elf.Elf64Stacker, lime.LimeStacker, windows.WindowsCrashDumpStacker)
        layers = [layer for stacker in stackers if (layer := stacker.stack(context, "file")) is not None]
        if not layers and sample.path.suffix != ".raw":
            raise UnreadError
        layer = layers[0] if layers else base

        def read(page: int) -> bytes | None:
            try:
                content: bytes = layer.read(page * PAGE, PAGE)
            except exceptions.InvalidAddressException:
                return None
            return content

        return sample.judge(read)
    finally:
        base.destroy()


def kdmp_parser(sample: Sample) -> str:
    library = pytest.importorskip("kdmp_parser")
    try:
        dump = library.KernelDumpParser(str(sample.path))
    except RuntimeError as error:
        raise UnreadError from error

    def read(page: int) -> bytes | None:
        content = dump.read_physical_page(page * PAGE)
        return None if content is None else bytes(content)

    return sample.judge(read)


def leechcore(sample: Sample) -> str:
    """It takes what it does not know for raw memory."""
    library = pytest.importorskip("leechcorepyc")
    try:
        dump = library.LeechCore(f"file://{sample.path}")
    except TypeError as error:
        raise UnreadError from error
    if dump.maxaddr != len(sample.memory):
        raise UnreadError  # the file itself, not what it holds

    def read(page: int) -> bytes | None:
        try:
            content: bytes = dump.read(page * PAGE, PAGE)
        except RuntimeError:
            return None
        return content

    return sample.judge(read)


READERS: dict[str, Callable[[Sample], str]] = {
    "file": file,
    "gdb": gdb,
    "drgn": drgn,
    "libkdumpfile": libkdumpfile,
    "makedumpfile": makedumpfile,
    "crash": crash,
    "volatility3": volatility3,
    "kdmp-parser": kdmp_parser,
    "leechcore": leechcore,
}
