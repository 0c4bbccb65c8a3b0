"""The product against a reader of its format that shares no code with it: both must find the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from dumpwriter.formats.region import DumpLevel, DumpState
from dumpwriter.recovery.crashstore import HostStore
from dumpwriter.recovery.extraction import RegionSource, extract
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.retention import KEEP_ALL
from dumpwriter.recovery.scan import recover
from dumpwriter.recovery.unsealing import WithPrivateKey
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.region_reader import Dump, Extent, Region, find_region, read_dump
from tests.builders.seal_reader import SealReader
from tests.dumping import DumpBench, Pages
from tests.sealed import PRIVATE_KEYS, sealed_bench, write_slot
from tests.sources import REPOSITORY
from tests.test_dump_recovery import StopsAfter
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES, BootArea, RegionState, new_record
from vdisk.errors import PowerLost
from vdisk.layers.mapped import Mapped
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from pathlib import Path

    from dumpwriter.formats.region import PageRun
    from tests.machines import Machine
    from vdisk.extent import ExtentMap


IN_SLOT = {0: (), 1: ("empty", "note.txt", "large"), 2: ("large",), 3: ("large", "z")}


def region_of(bench: DumpBench) -> Region:
    return Region(bench.identity.dump_id, bench.identity.generation, rows(bench.extents))


def rows(extents: ExtentMap) -> tuple[Extent, ...]:
    return tuple(Extent(*extent) for extent in extents.extents)


def pages_of(runs: tuple[PageRun, ...]) -> set[int]:
    return {page for first, count in runs for page in range(first, first + count)}


def both_agree(bench: DumpBench) -> Dump:
    """Read with both, compare all that both can tell, and give the other reader's account."""
    theirs = read_dump(bytes(bench.disk.content), region_of(bench))
    sink = Pages()
    ours = recover(Mapped(bench.disk, bench.extents), bench.identity, sink)
    assert theirs.pages == sink.pages
    assert theirs.verdict == ours.verdict
    assert (theirs.expected is None) == (ours.metadata is None)
    if theirs.expected is not None:
        assert pages_of(ours.judgement.missing) == theirs.wanted - set(theirs.pages)
        assert pages_of(ours.judgement.left_out) == theirs.expected - theirs.wanted - set(theirs.pages)
    assert theirs.blobs == dict(ours.secondary.found) or ours.metadata is None
    assert max(theirs.header_states, default=None) == (ours.header.state if ours.header else None)
    return theirs


@pytest.mark.parametrize("pieces", [1, 9, 200])
@pytest.mark.parametrize("pages", [1, 64, 1000])
def test_a_complete_dump(pages: int, pieces: int) -> None:
    bench = DumpBench(pages, pieces)
    bench.write()
    found = both_agree(bench)
    assert found.verdict == "COMPLETE"
    assert found.header_states == (DumpState.WRITTEN, DumpState.WRITTEN)
    assert found.pages == {number: bench.page(number) for number in range(pages)}


def test_a_region_that_is_too_small() -> None:
    bench = DumpBench(1000, region_bytes=4096 * (2 + 65 * 6))
    bench.write()
    assert both_agree(bench).verdict == "PARTIAL"


@pytest.mark.parametrize("level", DumpLevel)
@pytest.mark.parametrize("slots", [4, 9, 40])
def test_a_dump_of_each_level(level: DumpLevel, slots: int) -> None:
    bench = DumpBench(1000, region_bytes=4096 * (2 + 65 * slots), classes=7, level=level)
    bench.write()
    assert both_agree(bench).verdict == ("COMPLETE" if slots == 40 or (slots, level) == (9, 1) else "PARTIAL")


@pytest.mark.parametrize("damaged", [(), (0,), (1,), (2,), (3,), (1, 3)])
def test_secondary_data(damaged: tuple[int, ...]) -> None:
    blobs = {"empty": b"", "note.txt": b"a note", "large": random.Random(1).randbytes(600_000), "z": bytes(70_000)}
    bench = DumpBench(300, pieces=1, blobs=blobs)
    bench.write()
    for slot in damaged:
        bench.disk.content[bench.extents.extents[0].physical_bytes + 4096 + slot * 65 * 4096 + 5000] ^= 1
    theirs = both_agree(bench).blobs
    assert set(theirs) == set(blobs) - {name for slot in damaged for name in IN_SLOT[slot]}
    assert all(content == blobs[name] for name, content in theirs.items())


def test_an_armed_region() -> None:
    found = both_agree(DumpBench(100))
    assert (found.verdict, found.header_states) == ("NONE", (DumpState.ARMED, DumpState.ARMED))


@pytest.mark.parametrize("writes", range(9))
def test_a_dump_that_was_cut(writes: int) -> None:
    bench = DumpBench(1500, pieces=3, region_bytes=4096 * (2 + 65 * 33))
    with pytest.raises(PowerLost):
        bench.write(lambda disk: StopsAfter(disk, writes, sectors=9))
    # Two headers, five pieces of frames, two headers: without the last two, the frames speak for themselves.
    assert both_agree(bench).verdict == ("NONE" if writes < 3 else "PARTIAL" if writes < 7 else "COMPLETE")


@pytest.mark.parametrize("seed", range(40))
def test_a_dump_that_was_damaged(seed: int) -> None:
    source = random.Random(seed)
    bench = DumpBench(300, pieces=1 + seed % 5, seed=seed)
    bench.write()
    for _ in range(1 + seed % 9):
        start = source.randrange(len(bench.disk.content))
        length = min(source.choice([1, 4, 512, 4096, 100_000]), len(bench.disk.content) - start)
        bench.disk.content[start : start + length] = source.choice([bytes(length), source.randbytes(length)])
    both_agree(bench)


@pytest.mark.parametrize("seed", range(24))
def test_a_dump_with_parity_that_was_damaged(seed: int) -> None:
    """Seldom so much that nothing is rebuilt, often more than can be."""
    source = random.Random(seed)
    bench = DumpBench(900 + 100 * (seed % 5), pieces=1 + seed % 4, seed=seed, parity_percent=(12, 50)[seed % 2])
    bench.write()
    for _ in range(1 + seed % 4):
        start = source.randrange(len(bench.disk.content))
        bench.disk.content[start : start + 1] = b"\x5a"
    both_agree(bench)


@pytest.mark.parametrize("name", PRIVATE_KEYS)
@pytest.mark.parametrize("seed", range(6))
def test_a_sealed_dump(tmp_path: Path, name: str, seed: int) -> None:
    """Whole, and with a frame that is gone: from the region and from the file, by both."""
    bench = sealed_bench(name, 300, seed=seed)
    if seed % 2:
        write_slot(bench, 1 + seed // 2, bytes(65 * 4096))
    theirs = read_dump(bytes(bench.disk.content), region_of(bench), SealReader(PRIVATE_KEYS[name]).payload_of)
    region, sink = Mapped(bench.disk, bench.extents), Pages()
    ours = recover(region, bench.identity, sink, opener=WithPrivateKey(PRIVATE_KEYS[name]))
    assert theirs.pages == sink.pages
    assert theirs.verdict == ours.verdict == ("PARTIAL" if seed % 2 else "COMPLETE")
    assert read_dump(bytes(bench.disk.content), region_of(bench)).pages == {}
    store = HostStore(str(tmp_path))
    extract(RegionSource(region, bench.identity), store, KEEP_ALL, lambda *_: None, WithoutKey())
    store.close()
    file = (tmp_path / "1" / "dump.sealed").read_bytes()
    assert SealReader(PRIVATE_KEYS[name]).pages_of_file(file) == sink.pages


@pytest.mark.parametrize("damaged", [(), (0,), (4096,), (64 << 10,), (1 << 20,), (0, 1 << 20), (0, 4096)])
def test_the_boot_area(damaged: tuple[int, ...]) -> None:
    extents = DumpBench(300, pieces=7).extents
    disk = MemoryDisk(16 << 20)
    record = new_record(bytes(range(16)), disk.size_bytes, 300 * 4096)
    area = BootArea(disk)
    armed = record._replace(region_state=RegionState.ARMED, dump_id=b"d" * 16, generation=7)
    area.write_region(area.write(armed), extents)
    for offset in damaged:
        disk.content[disk.size_bytes - BOOT_AREA_SIZE_BYTES + offset + 5] ^= 1
    found = find_region(bytes(disk.content))
    assert found == (None if damaged == (0, 4096) else Region(b"d" * 16, 7, rows(extents)))


def test_a_real_dump_on_a_real_disk(machine: Machine) -> None:
    """From the image's bytes alone, without any help of the product, to the vmcore's bytes."""
    machine.run("create", machine.image, "--recipe", REPOSITORY / "images" / "fragmented.toml")
    machine.mount()
    machine.crash("--bugcheck", "0xD1")
    image = machine.image.read_bytes()
    region = find_region(image)
    assert region is not None
    assert len(region.extents) >= 50
    dump = read_dump(image, region)
    assert dump.verdict == "COMPLETE"
    report = machine.facts("recover", machine.image, "--output", machine.directory / "out")
    assert report["pages_present"] == len(dump.pages)
    core = ElfCoreFile((machine.directory / "out" / "1" / "vmcore").read_bytes())
    assert core.pages() == set(dump.pages)
    assert core.notes() and all(note.content in dump.notes for note in core.notes())
    assert {number: core.read(number * 4096, 4096) for number in dump.pages} == dump.pages
