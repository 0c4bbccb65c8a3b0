"""The ELF vmcore: its layout by a reader of our own, its content by the readers that people use."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.export.about import VirtualRange
from dumpwriter.export.elf import ElfLayout
from dumpwriter.export.notes import Note, pack_notes, parse_notes
from dumpwriter.memory import kernel
from dumpwriter.memory.loading import load_image
from dumpwriter.memory.simulated import SimulatedMemory
from dumpwriter.memory.source import PageClass
from tests.builders.elf_reader import CoreNote, ElfCoreFile
from tests.builders.kdump_reader import dumped_pages
from tests.vmcores import run_reader, write_vmcore
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
PAGE = 4096
BUGCHECK_LINE = (
    "BUG: bugcheck 0x000000d1 (0x0000000000000001, 0x0000000000000002, 0x0000000000000003, 0x0000000000000004): test"
)
NOTES = pack_notes([Note(b"CORE", 1, b"r" * 336), Note(b"VMCOREINFO", 0, b"OSRELEASE=x\n")])


def core_of(layout: ElfLayout) -> ElfCoreFile:
    """The core with zeros for pages."""
    return ElfCoreFile(layout.header().ljust(layout.size_bytes, b"\0"))


class TestLayout:
    def test_headers_are_what_readers_need(self) -> None:
        core = core_of(ElfLayout([(0x1000, PAGE), (0x10_0000, 4 * PAGE)], NOTES, partial=False))
        assert (core.kind, core.machine, core.program_headers_at, core.flags) == (4, 62, 64, 0)
        assert [(load.physical, load.in_file) for load in core.loads] == [(0x1000, PAGE), (0x10_0000, 4 * PAGE)]
        for load in core.loads:
            assert load.virtual == load.physical
            assert load.in_memory == load.in_file
            assert load.alignment == 0
            assert load.offset % PAGE == 0

    def test_notes_come_back_byte_for_byte(self) -> None:
        core = core_of(ElfLayout([(0, PAGE)], NOTES, partial=False))
        assert core.notes() == [CoreNote(b"CORE", 1, b"r" * 336), CoreNote(b"VMCOREINFO", 0, b"OSRELEASE=x\n")]

    def test_a_partial_dump_says_so_as_makedumpfile_does(self) -> None:
        assert core_of(ElfLayout([(0, PAGE)], NOTES, partial=True)).flags == 1

    def test_runs_that_touch_are_one_segment(self) -> None:
        core = core_of(ElfLayout([(0, PAGE), (PAGE, PAGE), (3 * PAGE, PAGE)], b"", partial=False))
        assert [(load.physical, load.in_file) for load in core.loads] == [(0, 2 * PAGE), (3 * PAGE, PAGE)]

    @pytest.mark.parametrize("notes", [b"\xff" * 40, b"\x04", NOTES[:-8], bytes(3) + b"\x01"])
    def test_notes_that_do_not_parse_are_left_out_and_reported(self, notes: bytes) -> None:
        layout = ElfLayout([(0, PAGE)], notes, partial=False)
        assert layout.notes_dropped
        core = core_of(layout)
        assert core.notes() == []
        assert core.header_count == 1

    def test_a_dump_without_any_page_is_still_a_core(self) -> None:
        layout = ElfLayout([], NOTES, partial=True)
        assert len(layout.header()) == layout.size_bytes
        assert core_of(layout).loads == []

    @pytest.mark.parametrize("count", [65533, 65534, 65535])
    def test_more_segments_than_e_phnum_can_count(self, count: int) -> None:
        layout = ElfLayout(((index * 2 * PAGE, PAGE) for index in range(count)), NOTES, partial=True)
        core = core_of(layout)
        assert len(core.loads) == count
        assert len(core.notes()) == 2
        assert layout.file_offset_bytes((count - 1) * 2 * PAGE) == layout.size_bytes - PAGE

    @pytest.mark.parametrize("runs", [[(0, 0)], [(0, PAGE), (0, PAGE)], [(PAGE, PAGE), (0, PAGE)], [(0, -PAGE)]])
    def test_runs_out_of_order_are_our_own_mistake(self, runs: list[tuple[int, int]]) -> None:
        with pytest.raises(ValueError, match="not in order"):
            ElfLayout(runs, b"", partial=False)

    def test_a_missing_page_has_no_place(self) -> None:
        layout = ElfLayout([(PAGE, PAGE), (4 * PAGE, PAGE)], b"", partial=True)
        for missing in (0, 2 * PAGE, 3 * PAGE, 5 * PAGE, -1):
            with pytest.raises(ValueError, match="not in the dump"):
                layout.file_offset_bytes(missing)

    @given(st.sets(st.integers(0, 300)))
    @settings(deadline=None)
    def test_every_page_has_the_place_that_the_headers_name(self, pages: set[int]) -> None:
        layout = ElfLayout([(page * PAGE, PAGE) for page in sorted(pages)], NOTES, partial=True)
        content = bytearray(layout.header().ljust(layout.size_bytes, b"\0"))
        for page in pages:
            place = layout.file_offset_bytes(page * PAGE)
            content[place : place + PAGE] = page.to_bytes(2, "little") * (PAGE // 2)
        core = ElfCoreFile(bytes(content))
        assert core.pages() == pages
        assert all(core.read(page * PAGE, PAGE) == page.to_bytes(2, "little") * (PAGE // 2) for page in pages)
        assert len(core.notes()) == 2


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_notes_parse_or_give_a_declared_error(segment: bytes) -> None:
    try:
        notes = list(parse_notes(segment))
    except FormatError:
        return
    assert sum(len(note.name) + len(note.content) for note in notes) <= len(segment)


@pytest.fixture(scope="module")
def machine() -> Iterator[SimulatedMemory]:
    with closing(SimulatedMemory(16 * MIB)) as machine:
        machine.log("boot")
        machine.bugcheck(0xD1, (1, 2, 3, 4), "test")
        yield machine


# A page of kernel text and a user page. Without the first page of a free block, makedumpfile takes the rest for used.
MISSING = (0x20_3000, 0x50_0000)
PARTIAL_RUNS = [(0, 0x20_3000), (0x20_4000, 0x50_0000 - 0x20_4000), (0x50_1000, 16 * MIB - 0x50_1000)]


@pytest.fixture(params=["whole", "partial"], scope="module")
def vmcore(request: pytest.FixtureRequest, machine: SimulatedMemory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "vmcore"
    is_partial = request.param == "partial"
    write_vmcore(path, machine.memory, PARTIAL_RUNS if is_partial else None, partial=is_partial)
    return path


class TestReaders:
    """Each on the whole dump, and on one without two pages."""

    def test_every_page_equals_the_memory(self, vmcore: Path, machine: SimulatedMemory) -> None:
        core = ElfCoreFile(vmcore.read_bytes())
        for load in core.loads:
            assert core.bytes_of(load) == machine.memory.read(load.physical, load.in_file)
        missing = set(range(16 * MIB // PAGE)) - core.pages()
        assert missing == ({page // PAGE for page in MISSING} if "partial" in str(vmcore) else set())

    def test_file(self, vmcore: Path) -> None:
        assert "ELF 64-bit LSB core file, x86-64" in run_reader("file", str(vmcore), cwd=vmcore.parent)

    def test_gdb(self, vmcore: Path) -> None:
        questions = (
            f"x/x {MISSING[1]:#x}",
            "info registers rip rdi",
            "info threads",
            f"x/s {kernel.UTS_NAMESPACE + 4:#x}",
        )
        asked = [word for question in questions for word in ("-ex", question)]
        answer = run_reader("gdb", "-nx", "-batch", "-c", str(vmcore), *asked, cwd=vmcore.parent)
        assert re.search(rf"rip +{kernel.TEXT_MAP + kernel.BUGCHECK_ENTRY:#x}", answer)
        assert re.search(r"rdi +0xd1 ", answer)
        assert len(re.findall(r"^\*? +\d+ +(?:process|LWP)", answer, re.MULTILINE)) == 2
        assert f'{kernel.UTS_NAMESPACE + 4:#x}:\t"Linux"' in answer
        assert bool(re.search(rf"{MISSING[1]:#x}:\s+0x", answer)) == ("whole" in str(vmcore))

    def test_drgn(self, vmcore: Path, machine: SimulatedMemory) -> None:
        drgn = pytest.importorskip("drgn", reason="drgn is not installed")
        program = drgn.Program()
        program.set_core_dump(str(vmcore))
        assert drgn.ProgramFlags.IS_LINUX_KERNEL in program.flags
        name = kernel.UTS_NAMESPACE + kernel.UTS_NAME_OFFSET
        for address in (kernel.TEXT_MAP + name, kernel.DIRECT_MAP + name):
            uts = program.read(address, 6 * 65)
            assert [uts[at : at + 65].rstrip(b"\0") for at in (0, 65, 130)] == [
                b"Linux",
                b"ghostdump",
                kernel.RELEASE.encode(),
            ]
        assert program.read(8 * MIB, MIB, physical=True) == machine.memory.read(8 * MIB, MIB)
        if "partial" in str(vmcore):
            with pytest.raises(drgn.FaultError):
                program.read(MISSING[0], 8, physical=True)

    def test_makedumpfile_prints_the_log(self, vmcore: Path) -> None:
        run_reader("makedumpfile", "-f", "--dump-dmesg", str(vmcore), "dmesg", cwd=vmcore.parent)
        lines = [line.partition("] ")[2] for line in (vmcore.parent / "dmesg").read_text().splitlines()]
        assert lines == ["boot", BUGCHECK_LINE, "Kernel panic - not syncing: bugcheck 0x000000d1: test"]

    def test_crash_prints_the_log_and_the_release(self, vmcore: Path) -> None:
        assert BUGCHECK_LINE in run_reader("crash", "--log", str(vmcore), cwd=vmcore.parent)
        assert run_reader("crash", "--osrelease", str(vmcore), cwd=vmcore.parent).strip() == kernel.RELEASE

    @pytest.mark.parametrize(
        ("level", "excluded"),
        [
            (0, set()),
            (2, {PageClass.CACHE}),
            (8, {PageClass.USER}),
            (16, {PageClass.FREE}),
            (30, {PageClass.CACHE, PageClass.USER, PageClass.FREE}),
            (31, {PageClass.CACHE, PageClass.USER, PageClass.FREE}),
        ],
    )
    def test_makedumpfile_filters_the_planted_classes(
        self, vmcore: Path, machine: SimulatedMemory, level: int, excluded: set[PageClass]
    ) -> None:
        """Pages of zeros (level 1) stay in the bitmap; makedumpfile lets them share one page of the file."""
        run_reader("makedumpfile", "-f", "-c", "-d", str(level), str(vmcore), "filtered", cwd=vmcore.parent)
        expected = {
            page
            for run in machine.page_classes()
            if run.page_class not in excluded
            for page in range(run.first_page, run.first_page + run.page_count)
        }
        kept = dumped_pages((vmcore.parent / "filtered").read_bytes())
        assert kept == expected & ElfCoreFile(vmcore.read_bytes()).pages()

    def test_it_comes_back_as_a_memory_image(self, vmcore: Path, machine: SimulatedMemory) -> None:
        with closing(load_image(str(vmcore))) as image:
            assert image.memory.read_notes() == machine.memory.read_notes()
            for part in image.memory.ranges:
                original = machine.memory.read(part.physical_bytes, part.length_bytes)
                assert image.memory.read(part.physical_bytes, part.length_bytes) == original


def test_readers_open_a_dump_of_more_segments_than_e_phnum_can_count(machine: SimulatedMemory, tmp_path: Path) -> None:
    with closing(SimulatedMemory(640 * MIB)) as large:
        large.bugcheck(0xD1, (1, 2, 3, 4), "test")
        kernel_end = 16 * MIB
        runs = [(0, kernel_end)] + [(kernel_end + (2 * n + 1) * PAGE, PAGE) for n in range(66_000)]
        path = tmp_path / "vmcore"
        write_vmcore(path, large.memory, runs, partial=True)
        core = ElfCoreFile(path.read_bytes())
        assert len(core.loads) == len(runs)
        assert all(core.bytes_of(load) == large.memory.read(load.physical, load.in_file) for load in core.loads)
    run_reader("makedumpfile", "-f", "--dump-dmesg", str(path), "dmesg", cwd=tmp_path)
    assert BUGCHECK_LINE in (tmp_path / "dmesg").read_text()
    assert "ELF 64-bit LSB core file" in run_reader("file", "-P", "elf_phnum=70000", str(path), cwd=tmp_path)


TEXT_MAP = VirtualRange(2 * MIB, 2 * MIB, kernel.text_address(2 * MIB))
DIRECT_MAP = VirtualRange(4 * MIB, 12 * MIB, kernel.direct_address(4 * MIB))


class TestVirtualAddresses:
    """A part of memory seen at the kernel's text, a part in the direct map, and one of which nothing is known."""

    def test_a_run_is_cut_where_the_mapping_changes(self) -> None:
        layout = ElfLayout([(0, 16 * MIB)], b"", partial=False, virtual_ranges=(TEXT_MAP, DIRECT_MAP))
        assert [(load.virtual, load.physical, load.in_file) for load in core_of(layout).loads] == [
            (0, 0, 2 * MIB),
            (kernel.TEXT_MAP + 2 * MIB, 2 * MIB, 2 * MIB),
            (kernel.DIRECT_MAP + 4 * MIB, 4 * MIB, 12 * MIB),
        ]

    @given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
    @settings(deadline=None)
    def test_every_page_has_one_place_and_its_virtual_address(self, pages: set[int], mapped: set[int]) -> None:
        ranges = [VirtualRange(page * PAGE, PAGE, (page * 7 + 1000) * PAGE) for page in sorted(mapped)]
        runs = [(page * PAGE, PAGE) for page in sorted(pages)]
        layout = ElfLayout(runs, NOTES, partial=False, virtual_ranges=ranges)
        found: dict[int, int] = {}
        for load in core_of(layout).loads:
            assert layout.file_offset_bytes(load.physical) == load.offset
            for inside in range(0, load.in_file, PAGE):
                assert (load.physical + inside) // PAGE not in found
                found[(load.physical + inside) // PAGE] = (load.virtual + inside) // PAGE
        assert found == {page: page * 7 + 1000 if page in mapped else page for page in pages}

    def test_gdb_finds_memory_where_the_kernel_sees_it(self, machine: SimulatedMemory, tmp_path: Path) -> None:
        path = tmp_path / "vmcore"
        write_vmcore(path, machine.memory, virtual_ranges=(TEXT_MAP, DIRECT_MAP))
        name, page = kernel.text_address(kernel.UTS_NAMESPACE) + 4, kernel.direct_address(4 * MIB)
        asked = ("-ex", "x/i $rip", "-ex", f"x/s {name:#x}", "-ex", f"x/s {page:#x}")
        answer = run_reader("gdb", "-nx", "-batch", "-c", str(path), *asked, cwd=tmp_path)
        assert f"=> {kernel.text_address(kernel.BUGCHECK_ENTRY):#x}:\tud2" in answer
        assert '"Linux"' in answer
        assert "ghostdump page" in answer
