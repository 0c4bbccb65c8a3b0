"""The kdump-compressed format by a reader of our own: every page, every header field, every way to compress."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.dumpfile.decompression import unpack
from dumpwriter.dumpfile.dump import Contents
from dumpwriter.export.about import About
from dumpwriter.export.compression import COMPRESSIONS
from dumpwriter.export.kdump import KdumpExport
from dumpwriter.export.notes import pack_notes, prstatus_note, vmcoreinfo_note
from dumpwriter.formats.region import PageRun
from tests.builders.kdump_reader import KdumpFile
from tests.dumpfiles import PAGE, assemble, pieces_of
from tests.sampledumps import KINDS, NOTES, TEXT, page_content, pages_of, partial_contents, read
from vdisk.errors import FormatError

FLAGS = {"zlib": 1, "lzo": 2, "zstd": 0x20, "none": 0}


def export_of(
    memory: tuple[PageRun, ...],
    present: tuple[PageRun, ...] | None = None,
    *,
    method: str = "zlib",
    notes: bytes = NOTES,
    is_partial: bool = False,
) -> KdumpExport:
    contents = Contents(memory, memory if present is None else present, notes, is_partial)
    return KdumpExport(contents, About.of_notes(notes), COMPRESSIONS[method])


def dump_of(export: KdumpExport, runs: tuple[PageRun, ...], *, chunk_pages: int = 5) -> KdumpFile:
    return KdumpFile(assemble(export, pieces_of(export, runs, read, chunk_pages=chunk_pages)))


class TestHeaders:
    def test_they_say_what_readers_need(self) -> None:
        dump = dump_of(export_of((PageRun(1, 40),)), (PageRun(1, 40),))
        assert (dump.version, dump.block_size, dump.max_mapnr, dump.max_mapnr_32) == (6, PAGE, 41, 41)
        assert dump.system_names == [b"Linux", b"(none)", b"6.1.0-test", b"(none)", b"x86_64", b"(none)"]
        assert (dump.crash_seconds, dump.cpu_count, dump.status) == (1_700_000_000, 2, 1)
        assert (dump.phys_base, dump.dump_level, dump.split) == (-2097152, 0, 0)

    def test_notes_come_back_byte_for_byte(self) -> None:
        dump = dump_of(export_of((PageRun(0, 3),)), (PageRun(0, 3),))
        assert dump.notes() == NOTES
        assert dump.vmcoreinfo() == TEXT

    def test_notes_of_many_blocks_fit(self) -> None:
        notes = pack_notes([prstatus_note(cpu, {}) for cpu in range(100)] + [vmcoreinfo_note(TEXT)])
        dump = dump_of(export_of((PageRun(0, 3),), notes=notes), (PageRun(0, 3),))
        assert (dump.notes(), dump.cpu_count) == (notes, 100)
        assert dump.page(1) == page_content(1)

    @pytest.mark.parametrize("notes", [b"\xff" * 40, b"\x04", NOTES[:-8]])
    def test_notes_that_do_not_parse_are_left_out_and_reported(self, notes: bytes) -> None:
        export = export_of((PageRun(0, 1),), notes=notes)
        assert export.notes_dropped
        dump = dump_of(export, (PageRun(0, 1),))
        assert (dump.notes(), dump.vmcoreinfo()) == (b"", b"")

    @pytest.mark.parametrize("text", [b"NUMBER(phys_base)=x", b"NUMBER(phys_base)=" + b"9" * 5000, b"\xff=\xff", b""])
    def test_nonsense_in_vmcoreinfo_is_no_number(self, text: bytes) -> None:
        notes = pack_notes([vmcoreinfo_note(text + b"\nCRASHTIME=-1\n")])
        dump = dump_of(export_of((PageRun(0, 1),), notes=notes), (PageRun(0, 1),))
        assert (dump.phys_base, dump.crash_seconds) == (0, 0)

    def test_long_names_are_cut(self) -> None:
        about = About(system_names=(b"Linux", b"n" * 100, b"r" * 64, b"", b"x86_64", b""))
        export = KdumpExport(Contents((), ()), about, COMPRESSIONS["none"])
        assert dump_of(export, ()).system_names[:3] == [b"Linux", b"n" * 64, b"r" * 64]

    def test_a_partial_dump_says_so(self) -> None:
        present = (PageRun(0, 2), PageRun(4, 6))
        dump = dump_of(export_of((PageRun(0, 10),), present, is_partial=True), present)
        assert dump.status == 1 | 8
        assert (dump.memory, dump.dumped) == (list(range(10)), [0, 1, 4, 5, 6, 7, 8, 9])

    def test_a_dump_without_any_page_is_still_one(self) -> None:
        dump = dump_of(export_of((PageRun(0, 10),), (), is_partial=True), ())
        assert (dump.memory, dump.dumped) == (list(range(10)), [])


class TestPages:
    @pytest.mark.parametrize("method", FLAGS)
    def test_each_is_stored_as_it_should(self, method: str) -> None:
        memory = (PageRun(0, 9),)
        dump = dump_of(export_of(memory, method=method), memory)
        assert all(dump.page(page) == page_content(page) for page in range(9))
        kept = {KINDS[page % 3]: dump.descriptor(page) for page in range(9)}
        assert (kept["noise"].flags, kept["noise"].size) == (0, PAGE)
        assert kept["text"].flags == FLAGS[method]
        assert (kept["text"].size < PAGE) == (method != "none")
        assert dump.status == FLAGS[method]

    def test_all_pages_of_zeros_share_one(self) -> None:
        export = export_of((PageRun(0, 9), PageRun(100, 100_000)))
        pieces = [*pieces_of(export, (PageRun(0, 9),), read), *export.zeros(PageRun(100, 100_000))]
        dump = KdumpFile(assemble(export, pieces))
        zeros = {dump.descriptor(page) for page in (0, 3, 6, *range(100, 100_100))}
        assert len(zeros) == 1
        assert zeros.pop()[1:] == (PAGE, 0, 0)
        assert all(dump.page(page) == bytes(PAGE) for page in range(100, 100_100, 999))

    @given(st.data(), partial_contents())
    @settings(deadline=None, max_examples=150)
    def test_they_come_in_any_order_and_any_part_of_memory(self, data: st.DataObject, contents: Contents) -> None:
        method = data.draw(st.sampled_from(sorted(FLAGS)))
        export = KdumpExport(contents, About(), COMPRESSIONS[method])
        order = tuple(data.draw(st.permutations(contents.present)))
        dump = dump_of(export, order, chunk_pages=data.draw(st.integers(1, 9)))
        assert (dump.memory, dump.dumped) == (pages_of(contents.memory), pages_of(contents.present))
        assert all(dump.page(page) == page_content(page) for page in dump.dumped)

    @pytest.mark.parametrize("method", FLAGS)
    def test_threads_may_prepare_them_at_once(self, method: str) -> None:
        export = export_of((PageRun(0, 512),), method=method)
        with ThreadPoolExecutor(4) as pool:
            batches = [(page, memoryview(read(page * PAGE, 16 * PAGE))) for page in range(0, 512, 16)]
            prepared = list(pool.map(export.prepare, *zip(*batches, strict=True)))
        pieces = [*export.begin(), *(piece for part in reversed(prepared) for piece in export.data(part))]
        dump = KdumpFile(assemble(export, pieces))
        assert all(dump.page(page) == page_content(page) for page in range(512))

    def test_a_page_that_was_not_announced_is_our_own_mistake(self) -> None:
        export = export_of((PageRun(0, 10),), (PageRun(0, 4),))
        with pytest.raises(ValueError, match="not all present"):
            list(export.data(export.prepare(3, memoryview(bytes(2 * PAGE)))))
        with pytest.raises(ValueError, match="not all present"):
            list(export.zeros(PageRun(4, 1)))


@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_no_flipped_bit_of_a_compressed_page_gives_another_page(method: str) -> None:
    """LZO has no place for a checksum, and a page that did not shrink has none either."""
    page = bytes(range(64)) * (PAGE // 64)
    stored = bytearray(COMPRESSIONS[method].compressor()(memoryview(page)))
    for bit in range(8 * len(stored)):
        stored[bit // 8] ^= 1 << bit % 8
        with suppress(FormatError):
            assert unpack(memoryview(stored), FLAGS[method]) == page
        stored[bit // 8] ^= 1 << bit % 8
    assert unpack(memoryview(stored), FLAGS[method]) == page
