"""Which pages of a dump go where, and what becomes of the file that they go into. No command, no real dump."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.conversion.conversion import Wish, convert
from dumpwriter.conversion.exports import MAKERS
from dumpwriter.conversion.formats import COMPRESSION_NAMES, FORMATS
from dumpwriter.conversion.outputs import Stream, new_file
from dumpwriter.conversion.selection import gaps, runs_within, select
from dumpwriter.dumpfile.dump import Contents, DumpRun
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.export.compression import COMPRESSIONS
from dumpwriter.export.export import Piece
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.kdump_reader import KdumpFile
from tests.dumpfiles import page_runs
from vdisk.errors import ConversionError, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PAGE = 4096
Pages = st.frozensets(st.integers(0, 60))


class FakeDump:
    """Pages that say which they are; every fifth is zeros, and the dump knows it."""

    format = "fake"

    def __init__(self, memory: Iterable[int], present: Iterable[int]) -> None:
        self.pages = frozenset(present)
        self.contents = Contents(page_runs(memory), page_runs(present))

    def page(self, number: int) -> bytes:
        return bytes(PAGE) if number % 5 == 0 else number.to_bytes(4, "little") * (PAGE // 4)

    def runs(self) -> Iterator[DumpRun]:
        for kind in (frozenset(page for page in self.pages if page % 5 == 0),):
            runs = [DumpRun(*run, is_zero=True) for run in page_runs(kind)]
            runs += [DumpRun(*run, is_zero=False) for run in page_runs(self.pages - kind)]
            yield from sorted(runs)

    def read_into(self, first_page: int, buffer: memoryview) -> None:
        pages = range(first_page, first_page + buffer.nbytes // PAGE)
        assert self.pages.issuperset(pages)
        buffer[:] = b"".join(map(self.page, pages))


class BytesOutput:
    """A file in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    def begin(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self.write(piece)

    def write(self, piece: Piece) -> None:
        view = memoryview(piece.content).cast("B")
        end = piece.offset_bytes + view.nbytes
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[piece.offset_bytes : end] = view

    def finish(self, size_bytes: int) -> None:
        self.content.extend(bytes(size_bytes - len(self.content)))


def ignore(done: int, total: int) -> None:
    """No progress is looked at."""


def numbers(runs: Iterable[tuple[int, int]]) -> set[int]:
    return {page for first, count in runs for page in range(first, first + count)}


@given(Pages, Pages, Pages)
def test_every_page_of_memory_is_in_one_list(
    memory: frozenset[int], present: frozenset[int], excluded: frozenset[int]
) -> None:
    present &= memory
    chosen = select(Contents(page_runs(memory), page_runs(present)), page_runs(excluded))
    assert numbers(chosen.written) == present - excluded
    assert numbers(chosen.excluded) == present & excluded
    assert numbers(chosen.missing) == memory - present
    end = max(memory, default=-1) + 1
    assert numbers(gaps(chosen, page_runs(memory))) == set(range(end)) - (present - excluded)


@given(Pages, Pages)
def test_runs_are_cut_to_what_is_wanted(present: frozenset[int], wanted: frozenset[int]) -> None:
    dump = FakeDump(present, present)
    cut = list(runs_within(dump.runs(), PageRuns.of(page_runs(wanted))))
    assert numbers((run.first_page, run.page_count) for run in cut) == present & wanted
    assert all((run.first_page % 5 == 0) == run.is_zero for run in cut)
    assert cut == sorted(cut)


@settings(max_examples=25)
@given(Pages, Pages)
def test_the_file_has_the_pages_of_the_dump_and_no_others(memory: frozenset[int], present: frozenset[int]) -> None:
    dump = FakeDump(memory | present, present)
    elf, kdump = BytesOutput(), BytesOutput()
    told = convert(dump, Wish("elf"), elf, ignore)
    convert(dump, Wish("kdump", "lzo"), kdump, ignore)
    core, compressed = ElfCoreFile(bytes(elf.content)), KdumpFile(bytes(kdump.content))
    assert core.pages() == set(compressed.dumped) == present
    for page in present:
        assert core.read(page * PAGE, PAGE) == compressed.page(page) == dump.page(page)
    assert told["pages_written"] == len(present)
    assert numbers((run["first_page"], run["page_count"]) for run in told["missing"]) == memory - present


def test_more_pages_than_a_batch_come_out_in_order() -> None:
    dump, output = FakeDump(range(5000), range(5000)), BytesOutput()
    seen: list[tuple[int, int]] = []
    convert(dump, Wish("elf"), output, lambda done, total: seen.append((done, total)))
    core = ElfCoreFile(bytes(output.content))
    assert core.read(0, 5000 * PAGE) == b"".join(map(dump.page, range(5000)))
    assert seen[-1] == (5000, 5000)
    assert seen == sorted(seen)


def test_what_fails_in_a_thread_ends_the_conversion() -> None:
    class Damaged(FakeDump):
        def read_into(self, first_page: int, buffer: memoryview) -> None:
            if first_page > 2000:
                raise FormatError("damaged")
            super().read_into(first_page, buffer)

    with pytest.raises(FormatError, match="damaged"):
        convert(Damaged(range(9000), range(9000)), Wish("elf"), BytesOutput(), ignore)


def test_the_tables_of_names_are_those_of_what_carries_them_out() -> None:
    assert list(FORMATS) == list(MAKERS)
    assert list(COMPRESSION_NAMES) == list(COMPRESSIONS)


class TestNewFile:
    """The file is there whole or not at all."""

    def write(self, path: Path, source: Path, *, replace: bool = False) -> None:
        with new_file(str(path), str(source), replace=replace) as file:
            file.write(Piece(10, b"content"))
            file.finish(20)

    def test_it_is_whole_private_and_alone(self, tmp_path: Path) -> None:
        source, path = tmp_path / "source", tmp_path / "file"
        source.touch()
        self.write(path, source)
        assert path.read_bytes() == bytes(10) + b"content" + bytes(3)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert sorted(os.listdir(tmp_path)) == ["file", "source"]

    def test_a_file_that_is_there_is_replaced_on_request_alone(self, tmp_path: Path) -> None:
        source, path = tmp_path / "source", tmp_path / "file"
        source.touch()
        path.write_bytes(b"before")
        with pytest.raises(UsageError, match="--force"):
            self.write(path, source)
        assert path.read_bytes() == b"before"
        self.write(path, source, replace=True)
        assert path.stat().st_size == 20
        assert sorted(os.listdir(tmp_path)) == ["file", "source"]

    def test_one_that_appears_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        source, path = tmp_path / "source", tmp_path / "file"
        source.touch()
        with pytest.raises(FileExistsError), new_file(str(path), str(source), replace=False):
            path.write_bytes(b"meanwhile")
        assert path.read_bytes() == b"meanwhile"

    @pytest.mark.parametrize("replace", [False, True])
    def test_the_dump_itself_is_never_overwritten(self, tmp_path: Path, *, replace: bool) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"dump")
        (tmp_path / "hard").hardlink_to(source)
        (tmp_path / "soft").symlink_to(source)
        for name in ("source", "hard", "soft"):
            with pytest.raises(UsageError, match="the dump itself"):
                self.write(tmp_path / name, source, replace=replace)
        assert source.read_bytes() == b"dump"

    @pytest.mark.parametrize("what", ["directory", "pipe", "dangling link"])
    def test_what_is_no_file_is_refused(self, tmp_path: Path, what: str) -> None:
        source, path = tmp_path / "source", tmp_path / "other"
        source.touch()
        match what:
            case "directory":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case _:
                path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(UsageError):
            self.write(path, source, replace=True)

    @pytest.mark.parametrize("failure", [KeyboardInterrupt, ConversionError, MemoryError])
    @pytest.mark.parametrize("nameless", [True, False])
    def test_a_failure_leaves_what_was_there(
        self, tmp_path: Path, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch, *, nameless: bool
    ) -> None:
        source, path = tmp_path / "source", tmp_path / "file"
        source.touch()
        path.write_bytes(b"before")
        if not nameless:
            monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY)  # refused, as by an old filesystem
        with pytest.raises(failure), new_file(str(path), str(source), replace=True):
            raise failure
        assert path.read_bytes() == b"before"
        assert sorted(os.listdir(tmp_path)) == ["file", "source"]

    def test_a_filesystem_without_nameless_files_does_as_well(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY)
        source, path = tmp_path / "source", tmp_path / "file"
        source.touch()
        self.write(path, source)
        self.write(path, source, replace=True)
        assert path.stat().st_size == 20
        assert sorted(os.listdir(tmp_path)) == ["file", "source"]

    def test_a_kill_leaves_nothing(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.touch()
        program = (
            "import sys\n"
            "from dumpwriter.conversion.outputs import new_file\n"
            "from dumpwriter.export.export import Piece\n"
            f"with new_file({str(tmp_path / 'file')!r}, {str(source)!r}, replace=False) as file:\n"
            "    file.write(Piece(0, b'half'))\n"
            "    print('half', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"half\n"
            process.send_signal(signal.SIGKILL)
        assert os.listdir(tmp_path) == ["source"]


class TestStream:
    """A pipe takes the file in order, gaps as zeros."""

    def test_gaps_are_zeros(self) -> None:
        reader, writer = os.pipe()
        try:
            stream = Stream(writer)
            stream.begin([])
            stream.write(Piece(2, b"ab"))
            stream.write(Piece(6, b"c"))
            stream.finish(8)
            assert os.read(reader, 100) == b"\0\0ab\0\0c\0"
        finally:
            os.close(reader)
            os.close(writer)

    def test_what_was_known_before_stands_at_its_place(self) -> None:
        reader, writer = os.pipe()
        try:
            stream = Stream(writer)
            stream.begin([Piece(0, b"A"), Piece(1, b"B"), Piece(4, b"C"), Piece(7, b"D"), Piece(9, b"E")])
            assert os.read(reader, 100) == b"AB"
            stream.write(Piece(2, b"--"))
            stream.write(Piece(5, b"--"))
            stream.finish(11)
            assert os.read(reader, 100) == b"--C--D\0E\0"
        finally:
            os.close(reader)
            os.close(writer)

    def test_a_reader_that_goes_is_told(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            with pytest.raises(ConversionError, match="gone before its end"):
                Stream(writer).write(Piece(0, b"x"))
        finally:
            os.close(writer)
