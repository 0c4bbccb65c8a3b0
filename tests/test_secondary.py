"""Secondary data: names, pieces in frames and back, and the place where blobs wait for a dump."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.blobarea import OWN, OWN_SIZE_BYTES_MAX, SHARED_SIZE_BYTES_MAX, BlobArea
from dumpwriter.crash.plan import SECONDARY_FRAMES_MAX
from dumpwriter.formats.region import (
    SECONDARY_COUNT_MAX,
    SECONDARY_PIECE,
    SECONDARY_SIZE_BYTES_MAX,
    SecondaryPiece,
    SecondaryRecord,
    SecondaryState,
)
from dumpwriter.formats.runtime import SECONDARY_COPY_SIZE_BYTES, SECONDARY_OFFSET_BYTES
from dumpwriter.recovery.blobs import LOST, TORN, BlobAssembly, FoundBlob, MissingBlob
from dumpwriter.secondary import PAYLOAD_SIZE_BYTES, check_name, decode_name, decode_pieces, fill, pack
from tests.dumping import BlobFile
from vdisk.errors import FormatError, GhostdumpError, UsageError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

HOSTILE_NAMES = ("", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "-rf", "a b", "a\n", "a\0b", "ä", "x" * 65)
GOOD_NAMES = ("a", "0", "A-z_0.9", "machine.json", "a..", "x" * 64)

contents = st.dictionaries(
    st.sampled_from([f"blob{number}" for number in range(SECONDARY_COUNT_MAX)]),
    st.integers(0, SECONDARY_SIZE_BYTES_MAX // SECONDARY_COUNT_MAX).map(lambda size: bytes([size % 251]) * size),
    max_size=SECONDARY_COUNT_MAX,
)


def payloads_of(file: BlobFile) -> list[bytes]:
    frames = []
    for pieces in pack(file.blobs):
        buffer = memoryview(bytearray(b"\xff" * PAYLOAD_SIZE_BYTES))
        frames.append(bytes(buffer[: fill(buffer, pieces, file.read_into)]))
    return frames


@settings(max_examples=60, deadline=None)
@given(contents)
def test_what_goes_into_frames_comes_back(blobs: dict[str, bytes]) -> None:
    file = BlobFile(blobs)
    payloads = payloads_of(file)
    assert len(payloads) <= SECONDARY_FRAMES_MAX
    assert all(len(payload) % 4096 == 0 for payload in payloads)
    assembly = BlobAssembly()
    for payload in reversed(payloads):
        assembly.take(payload)
    records = [blob.record() for blob in file.blobs]
    for rows in (records, []):
        outcome = assembly.outcome(rows)
        assert (dict(outcome.found), outcome.missing) == (blobs, ())


@pytest.mark.parametrize("size_bytes", [SECONDARY_SIZE_BYTES_MAX, PAYLOAD_SIZE_BYTES - 80, PAYLOAD_SIZE_BYTES - 79, 0])
def test_frames_are_filled_to_the_brim(size_bytes: int) -> None:
    frames = pack(BlobFile({"a": bytes(size_bytes)}).blobs)
    assert sum(piece.length_bytes for pieces in frames for piece in pieces) == size_bytes
    assert len(frames) == max(1, -(-size_bytes // (PAYLOAD_SIZE_BYTES - 80)))


def test_a_blob_with_a_missing_piece_is_left_out_and_named() -> None:
    file = BlobFile({"small": b"here", "large": bytes(600_000)})
    payloads = payloads_of(file)
    for lost in range(len(payloads)):
        assembly = BlobAssembly()
        for number, payload in enumerate(payloads):
            if number != lost:
                assembly.take(payload)
        for rows in ([blob.record() for blob in file.blobs], []):
            outcome = assembly.outcome(rows)
            assert [blob.name for blob in outcome.found] == ([] if lost == 0 else ["small"])
            assert MissingBlob("large", LOST) in outcome.missing


def test_a_blob_that_is_not_what_was_surveyed_is_left_out() -> None:
    file = BlobFile({"name": b"content"})
    assembly = BlobAssembly()
    for payload in payloads_of(file):
        assembly.take(payload)
    (row,) = (blob.record() for blob in file.blobs)
    other = row._replace(digest=bytes(32))
    torn = SecondaryRecord(b"", 0, SecondaryState.TORN, bytes(32))
    assert assembly.outcome([other, torn]).missing == (MissingBlob(None, TORN), MissingBlob("name", LOST))
    assert assembly.outcome([row._replace(state=SecondaryState.TORN)]).missing == (MissingBlob("name", TORN),)
    assert assembly.outcome([row]).found == (FoundBlob("name", b"content"),)


def piece(name: bytes, size_bytes: int, offset_bytes: int, length_bytes: int, content: bytes = b"") -> bytes:
    head = SECONDARY_PIECE.pack(SecondaryPiece(name, size_bytes, offset_bytes, length_bytes))
    return (head + content).ljust(4096, b"\0")


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if name and len(name) <= 64])
def test_a_hostile_name_on_a_disk_becomes_no_file(name: str) -> None:
    with pytest.raises(FormatError, match="cannot be"):
        list(decode_pieces(piece(name.encode(), 1, 0, 1, b"x")))


@pytest.mark.parametrize(
    "hostile",
    [
        piece(b"a", SECONDARY_SIZE_BYTES_MAX + 1, 0, 1),
        piece(b"a", 10, 5, 6),
        piece(b"a", 10, 11, 0),
        piece(b"a", 1 << 20, 0, 1 << 19),
        piece(b"a", 1 << 20, 0, 1 << 63),
    ],
)
def test_sizes_that_cannot_be_are_refused(hostile: bytes) -> None:
    with pytest.raises(FormatError):
        list(decode_pieces(hostile))


def test_more_than_a_dump_can_hold_is_refused() -> None:
    assembly = BlobAssembly()
    for number in range(SECONDARY_COUNT_MAX):
        assembly.take(piece(b"blob%d" % number, 0, 0, 0))
    with pytest.raises(FormatError, match="more blobs"):
        assembly.take(piece(b"another", 0, 0, 0))
    assembly = BlobAssembly()
    full = SECONDARY_PIECE.pack(SecondaryPiece(b"a", 200_000, 0, 200_000)) + bytes(200_000)
    for number in range(5):
        assembly.take(full.replace(b"a", b"abcde"[number : number + 1], 1))
    with pytest.raises(FormatError, match="more bytes"):
        assembly.take(full.replace(b"a", b"f", 1))


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_cannot_be_a_file_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for secondary data"):
        check_name(name)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_taken(name: str) -> None:
    check_name(name)
    assert decode_name(name.encode().ljust(64, b"\0")) == name


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = os.memfd_create("runtime", os.MFD_CLOEXEC)
    yield made
    os.close(made)


@pytest.fixture
def area(descriptor: int) -> BlobArea:
    return BlobArea(descriptor)


def held(area: BlobArea) -> dict[str, bytes]:
    """What a dump would hold now."""
    found = {}
    for blob in area.survey():
        content = bytearray(blob.size_bytes)
        area.read_into(blob.offset_bytes, content)
        assert blake3.blake3(content).digest() == blob.digest
        found[blob.name] = bytes(content)
    return found


def test_blobs_are_added_replaced_and_taken_away(area: BlobArea) -> None:
    assert held(area) == {}
    area.register("one", b"1")
    area.register("two", b"")
    for content in (b"first", b"second", b"", b"third" * 1000):
        area.register("one", content)
        assert held(area) == {"one": content, "two": b""}
    assert [(blob.name, blob.size_bytes) for blob in area.blobs()] == [("one", 5000), ("two", 0)]
    area.unregister("one")
    assert held(area) == {"two": b""}
    with pytest.raises(GhostdumpError, match="no secondary data of the name one"):
        area.unregister("one")
    area.keep_own(OWN[0], b"x" * OWN_SIZE_BYTES_MAX)
    assert set(held(area)) == {"two", OWN[0]}


def test_there_is_room_for_so_many_and_so_much(area: BlobArea) -> None:
    for name in OWN:
        area.keep_own(name, bytes(OWN_SIZE_BYTES_MAX))
    area.register("full", bytes(SHARED_SIZE_BYTES_MAX))
    assert sum(len(content) for content in held(area).values()) == SECONDARY_SIZE_BYTES_MAX
    with pytest.raises(GhostdumpError, match="no room for more"):
        area.register("more", b"x")
    with pytest.raises(UsageError, match="more than"):
        area.register("full", bytes(SHARED_SIZE_BYTES_MAX + 1))
    area.register("full", b"")
    for number in range(SECONDARY_COUNT_MAX - len(OWN) - 1):
        area.register(f"small{number}", b"x" * number)
    with pytest.raises(GhostdumpError, match="holds no more"):
        area.register("one-too-many", b"")
    assert len(held(area)) == SECONDARY_COUNT_MAX
    assert len(pack(area.survey())) <= SECONDARY_FRAMES_MAX
    with pytest.raises(UsageError, match="machine's own"):
        area.register(OWN[0], b"")


class Dies(BaseException):
    """The process ends."""


def test_a_process_that_dies_while_it_registers_leaves_what_was_there(
    area: BlobArea, monkeypatch: pytest.MonkeyPatch
) -> None:
    area.register("name", b"old")
    write = os.pwrite
    for left in range(3):
        calls = [left]

        def dies(descriptor: int, content: memoryview, offset_bytes: int, calls: list[int] = calls) -> int:
            if not calls[0]:
                write(descriptor, content[: len(content) // 2], offset_bytes)
                raise Dies
            calls[0] -= 1
            return write(descriptor, content, offset_bytes)

        monkeypatch.setattr(os, "pwrite", dies)
        with pytest.raises(Dies):
            area.register("name", b"new" * 1000)
        monkeypatch.setattr(os, "pwrite", write)
        assert held(area) == {"name": b"old"}
    area.register("name", b"new")
    assert held(area) == {"name": b"new"}


def test_a_torn_entry_is_left_out_and_counted(area: BlobArea, descriptor: int) -> None:
    area.register("whole", b"whole")
    area.register("torn", b"torn")
    os.pwrite(descriptor, b"X", SECONDARY_OFFSET_BYTES + 2 * (len(OWN) + 1) * SECONDARY_COPY_SIZE_BYTES + 512)
    states = {blob.name: blob.state for blob in area.survey()}
    assert states == {"whole": SecondaryState.WHOLE, "torn": SecondaryState.TORN}
    os.pwrite(descriptor, b"X", SECONDARY_OFFSET_BYTES + 2 * (len(OWN) + 1) * SECONDARY_COPY_SIZE_BYTES + 20)
    assert [(blob.name, blob.state) for blob in area.survey()][1] == ("", SecondaryState.TORN)


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_scribbled_memory_gives_no_wrong_blob(source: random.Random) -> None:
    descriptor = os.memfd_create("runtime", os.MFD_CLOEXEC)
    try:
        area = BlobArea(descriptor)
        kept = {f"blob{number}": bytes([number]) * (number * 700) for number in range(6)}
        for name, content in kept.items():
            area.register(name, b"older")
            area.register(name, content)
        for _ in range(source.randrange(1, 30)):
            place = source.randrange(len(OWN) * 2, 20)
            where = SECONDARY_OFFSET_BYTES + place * SECONDARY_COPY_SIZE_BYTES + source.randrange(2000)
            os.pwrite(descriptor, source.randbytes(source.randrange(1, 200)), where)
        for blob in area.survey():
            if blob.state == SecondaryState.WHOLE:
                found = bytearray(blob.size_bytes)
                area.read_into(blob.offset_bytes, found)
                assert bytes(found) in (kept[blob.name], b"older")
    finally:
        os.close(descriptor)
