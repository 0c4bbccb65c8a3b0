"""Recovery of sealed dumps: whole with the private key, told apart without, never wrong whatever was done to them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from dumpwriter.cipher import GcmSealer
from dumpwriter.dumpkeys import new_seal
from dumpwriter.frames import decode_dump_header, encode_dump_header
from dumpwriter.recovery.carving import carve
from dumpwriter.recovery.crashstore import HostStore
from dumpwriter.recovery.extraction import CarvedSource, RegionSource, extract
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.retention import KEEP_ALL
from dumpwriter.recovery.scan import Findings, recover
from dumpwriter.recovery.sealedfile import SealedFileSource, identity_in, is_sealed_file
from dumpwriter.recovery.unsealing import WithPrivateKey
from dumpwriter.verdict import Reason, Verdict
from tests.builders.elf_reader import ElfCoreFile
from tests.dumping import CAUSE, DumpBench, Pages
from tests.sealed import PRIVATE_KEYS, SEALS, read_slot, redigest, sealed_bench, write_slot
from tests.test_dump_recovery import BadBlocks, StopsAfter
from vdisk.errors import KeyFileError, PowerLost
from vdisk.layers.mapped import Mapped
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

    from dumpwriter.recovery.opening import Opener

BY_ALGORITHM = pytest.mark.parametrize("name", PRIVATE_KEYS)


def opened(bench: DumpBench, name: str = "X25519") -> tuple[Findings, WithPrivateKey]:
    """Recover with the key, and hold the promise against it."""
    sink, opener = Pages(), WithPrivateKey(PRIVATE_KEYS[name])
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, sink, opener=opener)
    must_be_true(findings, sink, bench)
    return findings, opener


def must_be_true(findings: Findings, sink: Pages, bench: DumpBench) -> None:
    for number, content in sink.pages.items():
        assert content == bench.page(number), f"page {number} is wrong"
    assert findings.pages_present == len(sink.pages)
    pages = len(bench.memory.content) // 4096
    named = {page for run in findings.judgement.missing for page in range(run.first_page, sum(run))}
    if findings.metadata is not None:
        assert named == set(range(pages)) - set(sink.pages)
    assert (findings.verdict == Verdict.COMPLETE) == (len(sink.pages) == pages and findings.metadata is not None)


def closed(bench: DumpBench) -> Findings:
    """Recover without the key: no page may come out."""
    sink = Pages()
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, sink, opener=WithoutKey())
    assert not sink.pages
    assert findings.is_closed and findings.sealed_for is not None
    return findings


@BY_ALGORITHM
def test_a_whole_dump_is_whole_with_the_key_and_told_so_without(name: str) -> None:
    bench = sealed_bench(name, 700)
    findings, _ = opened(bench, name)
    assert (findings.verdict, findings.reason) == (Verdict.COMPLETE, Reason.WHOLE)
    assert findings.sealed_for == SEALS[name].fingerprint
    assert findings.header is not None and findings.header.cause_text.rstrip(b"\0").decode() == CAUSE.text
    without = closed(bench)
    assert without.verdict == Verdict.COMPLETE
    assert (without.metadata, without.judgement.missing, without.pages_present) == (None, (), 700)


@BY_ALGORITHM
def test_another_private_key_opens_nothing_and_says_for_whom_the_dump_is(name: str) -> None:
    other = next(kind for kind in PRIVATE_KEYS if kind != name)
    findings, opener = opened(sealed_bench(name), other)
    assert findings.verdict == Verdict.NONE
    assert SEALS[name].fingerprint.hex() in opener.why_nothing()


def test_a_plain_dump_is_not_taken_for_a_sealed_one() -> None:
    bench = DumpBench(200)
    bench.write()
    findings, opener = opened(bench)
    assert findings.verdict == Verdict.NONE
    assert "not sealed" in opener.why_nothing()


@pytest.mark.parametrize("writes", range(0, 8, 2))
def test_a_sealed_dump_that_was_cut(writes: int) -> None:
    bench = DumpBench(1500, pieces=3, sealer=GcmSealer(SEALS["X25519"]))
    with pytest.raises(PowerLost):
        bench.write(lambda disk: StopsAfter(disk, writes, sectors=9))
    opened(bench)
    sink = Pages()
    without = recover(Mapped(bench.disk, bench.extents), bench.identity, sink)
    assert not sink.pages
    assert without.verdict == opened(bench)[0].verdict


@pytest.mark.parametrize("writes", [3, 4, 5, 6])
def test_what_a_second_standby_writes_over_the_first_opens_with_what_the_first_left(writes: int) -> None:
    """Both have the key from the one control block, and neither knows how far the other came."""
    bench = DumpBench(1500, pieces=3)
    for cut in (6, writes):
        bench.sealer = GcmSealer(SEALS["X25519"])
        with pytest.raises(PowerLost):
            bench.write(lambda disk, cut=cut: StopsAfter(disk, cut, sectors=9))  # type: ignore[misc]
    of_both = opened(bench)[0].pages_present
    bench.sealer = GcmSealer(SEALS["X25519"])
    bench.write()
    assert opened(bench)[0].verdict == Verdict.COMPLETE
    alone = DumpBench(1500, pieces=3, sealer=GcmSealer(SEALS["X25519"]))
    with pytest.raises(PowerLost):
        alone.write(lambda disk: StopsAfter(disk, writes, sectors=9))
    assert of_both >= opened(alone)[0].pages_present


@pytest.mark.parametrize("seed", range(60))
def test_damage_never_gives_a_wrong_byte(seed: int) -> None:
    """Half of it by somebody who makes checksums and digest anew."""
    source, bench = random.Random(seed), sealed_bench(pages=300, seed=seed)
    frames = len(bench.job().plan.frames)
    for _ in range(1 + seed % 6):
        number = source.randrange(frames)
        slot = read_slot(bench, number)
        start = source.choice([source.randrange(900), source.randrange(len(slot))])
        slot[start : start + 1 + seed % 9] = source.randbytes(len(slot[start : start + 1 + seed % 9]))
        if seed % 2:
            redigest(slot)
        write_slot(bench, number, slot)
    opened(bench)


def test_frames_that_changed_their_slots_are_not_believed() -> None:
    bench = sealed_bench(pages=400)
    first, second = read_slot(bench, 1), read_slot(bench, 2)
    write_slot(bench, 1, second)
    write_slot(bench, 2, first)
    findings, _ = opened(bench)
    assert findings.verdict == Verdict.PARTIAL
    assert findings.pages_present == 400 - 2 * 64


def with_fields(slot: bytearray, *, like: bytearray) -> bytearray:
    """A frame of another dump under the identity and on the places of this one."""
    places = int.from_bytes(like[64:66], "little")
    assert places == int.from_bytes(slot[64:66], "little")
    slot[16:56] = like[16:56]
    slot[104 : 104 + 16 * places] = like[104 : 104 + 16 * places]
    redigest(slot)
    return slot


def another_dump(bench: DumpBench, seal: str = "X25519", seed: int = 1) -> DumpBench:
    """Of other memory, sealed for the same public key as another arming would."""
    other = DumpBench(len(bench.memory.content) // 4096, seed=seed)
    other.sealer = GcmSealer(new_seal(PRIVATE_KEYS[seal].public_key()))
    other.write()
    return other


def test_frames_of_another_sealed_dump_are_not_spliced_in() -> None:
    bench = sealed_bench(pages=400)
    other = another_dump(bench)
    for number in (1, 3):
        write_slot(bench, number, with_fields(read_slot(other, number), like=read_slot(bench, number)))
    findings, _ = opened(bench)
    assert (findings.verdict, findings.frames_damaged) == (Verdict.PARTIAL, 2)


def test_a_whole_older_dump_does_not_pass_for_this_one() -> None:
    bench = sealed_bench(pages=400)
    older = another_dump(bench)
    for number in range(len(bench.job().plan.frames)):
        write_slot(bench, number, with_fields(read_slot(older, number), like=read_slot(bench, number)))
    findings, opener = opened(bench)
    assert findings.verdict == Verdict.NONE
    assert "altered" in opener.why_nothing()


def test_frames_that_somebody_sealed_for_the_same_key_are_never_mixed_in() -> None:
    """Everybody has the public key: frames that are perfect but for another one-time key."""
    bench = sealed_bench(pages=400)
    forger = DumpBench(400, seed=1, sealer=GcmSealer(new_seal(PRIVATE_KEYS["X25519"].public_key())))
    forger.identity = bench.identity
    forger.write()
    for number in (2, 4, 5):
        write_slot(bench, number, read_slot(forger, number))
    findings, _ = opened(bench)
    assert (findings.verdict, findings.frames_damaged) == (Verdict.PARTIAL, 3)


def test_a_plain_frame_is_not_of_a_sealed_dump() -> None:
    bench, forger = sealed_bench(pages=400), DumpBench(400, seed=1)
    forger.identity = bench.identity
    forger.write()
    write_slot(bench, 2, read_slot(forger, 2))
    findings, _ = opened(bench)
    assert (findings.verdict, findings.frames_damaged) == (Verdict.PARTIAL, 1)
    without = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages(), opener=WithoutKey())
    assert without.is_closed
    assert (without.verdict, without.frames_damaged) == (Verdict.PARTIAL, 1)


def test_a_header_that_was_changed_explains_nothing_and_makes_nothing_whole() -> None:
    bench = sealed_bench(pages=400)
    write_slot(bench, 3, bytes(65 * 4096))
    for offset in (0, bench.extents.size_bytes - 4096):
        (place,) = bench.extents.runs(offset, 4096)
        start = place.physical_bytes
        header = decode_dump_header(bytes(bench.disk.content[start : start + 512]), bench.identity, start)
        assert header is not None
        forged = header._replace(pages_wanted=400 - 64, pages_total=400 - 64, cause_text=b"nothing happened")
        bench.disk.content[start : start + 4096] = encode_dump_header(forged)
    findings, _ = opened(bench)
    assert (findings.verdict, findings.header) == (Verdict.PARTIAL, None)


def test_bad_blocks_cost_their_frames() -> None:
    bench = sealed_bench(pages=1000, pieces=1)
    bad = {bench.extents.extents[0].physical_bytes // 4096 + 1 + 65 * 3 + 30}
    sink = Pages()
    region = Mapped(BadBlocks(bench.disk, bad), bench.extents)
    findings = recover(region, bench.identity, sink, opener=WithPrivateKey(PRIVATE_KEYS["X25519"]))
    must_be_true(findings, sink, bench)
    assert (findings.verdict, findings.reads_failed) == (Verdict.PARTIAL, 1)
    assert recover(region, bench.identity, Pages()).verdict == Verdict.PARTIAL


# The file


class InMemory(MemoryDisk):
    """A file's bytes, as far as they are whole blocks."""

    def __init__(self, content: bytes) -> None:
        super().__init__(len(content) // 4096 * 4096)
        self.content[:] = content[: self.size_bytes]


def source_of(bench: DumpBench) -> RegionSource:
    return RegionSource(Mapped(bench.disk, bench.extents), bench.identity)


def carried_out(bench: DumpBench, directory: Path) -> bytes:
    """The content of dump.sealed, made as the machine makes it."""
    store = HostStore(str(directory))
    extraction = extract(source_of(bench), store, KEEP_ALL, lambda *_: None, WithoutKey())
    store.close()
    assert (extraction.report["sealed"], extraction.report["format"]) == (True, "sealed")
    return (directory / "1" / "dump.sealed").read_bytes()


def opened_file(content: bytes, bench: DumpBench, opener: Opener | None = None) -> Findings:
    file, sink = InMemory(content), Pages()
    identity = identity_in(file)
    assert identity == bench.identity
    opener = opener or WithPrivateKey(PRIVATE_KEYS["X25519"])
    findings = SealedFileSource(file, identity).read(sink, lambda *_: None, opener)
    must_be_true(findings, sink, bench)
    return findings


def test_the_file_is_opened_as_the_region_would_be(tmp_path: Path) -> None:
    bench = sealed_bench(pages=400, pieces=30)
    content = carried_out(bench, tmp_path)
    assert is_sealed_file(InMemory(content))
    assert not any(bench.page(number)[:32] in content for number in range(400) if number % 5 != 4)
    findings = opened_file(content, bench)
    assert findings.verdict == Verdict.COMPLETE
    assert findings.header is not None and findings.header.cause_text.rstrip(b"\0").decode() == CAUSE.text
    store = HostStore(str(tmp_path / "opened"))
    source = SealedFileSource(InMemory(content), bench.identity)
    extract(source, store, KEEP_ALL, lambda *_: None, WithPrivateKey(PRIVATE_KEYS["X25519"]))
    store.close()
    core = ElfCoreFile((tmp_path / "opened" / "1" / "vmcore").read_bytes())
    assert core.read(0, 400 * 4096) == bench.memory.content


def test_a_file_that_was_cut_gives_what_is_there(tmp_path: Path) -> None:
    bench = sealed_bench(pages=300)
    content = carried_out(bench, tmp_path)
    verdicts = [opened_file(content[:length], bench).verdict for length in range(4096, len(content) + 1, 4096 * 16 - 7)]
    assert verdicts[0] == Verdict.NONE
    assert verdicts.count(Verdict.PARTIAL) > 10
    assert Verdict.COMPLETE not in verdicts[: len(verdicts) // 2]


def pieces(content: bytes) -> list[bytes]:
    """The headers together, then each frame."""
    found, position = [content[:8192]], 8192
    while position < len(content):
        size = 4096 + int.from_bytes(content[position + 56 : position + 60], "little")
        found.append(content[position : position + size])
        position += size
    return found


@pytest.mark.parametrize("seed", range(12))
def test_order_does_not_matter_and_what_is_gone_is_missed(tmp_path: Path, seed: int) -> None:
    source, bench = random.Random(seed), sealed_bench(pages=400, seed=seed)
    found = pieces(carried_out(bench, tmp_path))
    shuffled = source.sample(found, len(found))
    assert opened_file(b"".join(shuffled), bench).verdict == Verdict.COMPLETE
    assert opened_file(b"".join([*shuffled, *shuffled]), bench).verdict == Verdict.COMPLETE
    with_gaps = [bytes(4096 * source.randrange(3)) + piece for piece in found if piece is not found[2]]
    assert opened_file(b"".join(with_gaps), bench).verdict == Verdict.PARTIAL


@pytest.mark.parametrize("seed", range(30))
def test_a_file_with_damage_anywhere_never_gives_a_wrong_byte(tmp_path: Path, seed: int) -> None:
    source, bench = random.Random(seed), sealed_bench(pages=200)
    content = bytearray(carried_out(bench, tmp_path))
    for _ in range(1 + seed % 5):
        start = source.randrange(len(content))
        length = min(source.choice([1, 512, 4096, 50_000]), len(content) - start)
        content[start : start + length] = source.randbytes(length)
    opened_file(bytes(content), bench)


def test_a_sealed_dump_is_carved_too(tmp_path: Path) -> None:
    bench = sealed_bench(pages=400)
    carved = carve(bench.disk, lambda *_: None)
    assert carved is not None
    store = HostStore(str(tmp_path))
    source, key = CarvedSource(bench.disk, *carved), WithPrivateKey(PRIVATE_KEYS["X25519"])
    assert extract(source, store, KEEP_ALL, lambda *_: None, key).findings.verdict == Verdict.COMPLETE
    assert extract(source, store, KEEP_ALL, lambda *_: None, WithoutKey()).report["sealed"]
    store.close()
    opened_file((tmp_path / "2" / "dump.sealed").read_bytes(), bench)


def test_a_copy_is_made_once_and_again_where_it_is_not_what_it_was(tmp_path: Path) -> None:
    bench = sealed_bench()
    content = carried_out(bench, tmp_path)
    assert carried_out(bench, tmp_path) == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "bounds"]
    (tmp_path / "1" / "dump.sealed").write_bytes(content[:-4096])
    store = HostStore(str(tmp_path))
    assert extract(source_of(bench), store, KEEP_ALL, lambda *_: None, WithoutKey()).report["path"] == str(
        tmp_path / "2"
    )
    store.close()


class CutStore(HostStore):
    """The power goes before the n-th change of the store."""

    left = -1

    def _change(self) -> None:
        if not self.left:
            raise PowerLost
        self.left -= 1

    def begin(self) -> None:
        self._change()
        super().begin()

    def write(self, file: str, offset_bytes: int, content: Buffer) -> None:
        self._change()
        super().write(file, offset_bytes, content)

    def finish(self, name: str) -> None:
        self._change()
        super().finish(name)

    def write_bound(self, content: bytes) -> None:
        self._change()
        super().write_bound(content)


def test_a_recovery_that_was_cut_anywhere_is_simply_run_again(tmp_path: Path) -> None:
    bench, cuts = sealed_bench(), 0
    is_through = False
    while not is_through:
        directory = tmp_path / str(cuts)
        store = CutStore(str(directory))
        store.left = cuts
        try:
            extract(source_of(bench), store, KEEP_ALL, lambda *_: None, WithoutKey())
            is_through = True
        except PowerLost:
            cuts += 1
        store.close()
        assert opened_file(carried_out(bench, directory), bench).verdict == Verdict.COMPLETE
        assert sorted(path.name for path in directory.iterdir()) == ["1", "bounds"]
    assert cuts > 8


def test_the_wrong_key_copies_nothing(tmp_path: Path) -> None:
    bench, store = sealed_bench(), HostStore(str(tmp_path))
    with pytest.raises(KeyFileError, match="another key"):
        extract(source_of(bench), store, KEEP_ALL, lambda *_: None, WithPrivateKey(PRIVATE_KEYS["RSA"]))
    store.close()
    assert list(tmp_path.iterdir()) == []
