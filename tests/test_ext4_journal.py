"""The journal's bytes, against a reader written from the specification alone; e2fsck and the kernel judge elsewhere."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from tests.ext4_crashes import RecordingDisk, Workload, state_after_cut
from tests.ext4_images import MIB, TAIL_BYTES, assert_clean, repair, run
from vdisk.errors import FilesystemError
from vdisk.ext4 import journal as jbd2
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = jbd2.JournalSuperblock(1024, 1, 77, 1, 0, bytes(range(16)))
WIDE = PLAIN._replace(incompat=jbd2.FEATURE_64BIT)
CHECKED = PLAIN._replace(incompat=jbd2.FEATURE_64BIT | jbd2.FEATURE_CSUM_V3)


def crc32c_bitwise(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """As the kernel's: without a final inversion, so that it can be continued."""
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def read_transaction(body: bytes, journal: jbd2.JournalSuperblock) -> dict[int, bytes]:
    """Number and content of each block of a transaction."""
    found: dict[int, bytes] = {}
    place = 0
    while place < len(body):
        assert struct.unpack_from(">III", body, place) == (0xC03B3998, 1, journal.sequence)
        offset, data, last = place + 12, place + 4096, False
        while not last:
            if journal.has_checksums:
                low, flags, high, checksum = struct.unpack_from(">IIII", body, offset)
                seed = crc32c_bitwise(struct.pack(">I", journal.sequence), crc32c_bitwise(journal.uuid))
                assert checksum == crc32c_bitwise(body[data : data + 4096], seed)
            else:
                low, _, flags = struct.unpack_from(">IHH", body, offset)
                high = struct.unpack_from(">I", body, offset + 8)[0] if journal.incompat & 2 else 0
            offset += journal.tag_bytes + (0 if flags & 2 else 16)
            block = body[data : data + 4096]
            found[high << 32 | low] = struct.pack(">I", 0xC03B3998) + block[4:] if flags & 1 else block
            data += 4096
            last = bool(flags & 8)
        assert offset <= place + 4096
        place = data
    return found


@pytest.mark.parametrize("journal", [PLAIN, WIDE, CHECKED])
@pytest.mark.parametrize("count", [1, 254, 340, 700])
def test_a_transaction_is_read_back(journal: jbd2.JournalSuperblock, count: int) -> None:
    if journal.has_checksums and count > 300:
        count = 260  # the bitwise checksum of the reader is slow
    chance = random.Random(count)
    high = 1 << 33 if journal.incompat & jbd2.FEATURE_64BIT else 0
    blocks = {high + 3 * index: chance.randbytes(4096) for index in range(count)}
    blocks[high] = struct.pack(">I", jbd2.MAGIC) + b"looks like the journal's own".ljust(4092, b"\0")
    body = jbd2.TransactionEncoder(journal).body(list(blocks), memoryview(b"".join(blocks.values())))
    assert read_transaction(bytes(body), journal) == blocks
    assert len(body) // 4096 + 1 == jbd2.transaction_blocks(journal, count)


def test_a_commit_block_says_when_and_is_checked() -> None:
    block = bytearray(jbd2.TransactionEncoder(CHECKED).commit(5_000_000_123))
    assert struct.unpack_from(">III", block) == (0xC03B3998, 2, 77)
    assert struct.unpack_from(">QI", block, 48) == (5, 123)
    checksum = struct.unpack_from(">I", block, 16)[0]
    block[16:20] = bytes(4)
    assert checksum == crc32c_bitwise(bytes(block), crc32c_bitwise(CHECKED.uuid))


def test_the_superblock_changes_within_its_first_sector() -> None:
    block = bytearray(4096)
    struct.pack_into(">IIIIIIIIIIII16s", block, 0, jbd2.MAGIC, 4, 0, 4096, 1024, 1, 5, 0, 0, 0, 0, 0, bytes(16))
    block[512:] = b"\x77" * 3584
    found = jbd2.decode_superblock(bytes(block))
    changed = jbd2.encode_superblock(bytes(block), found._replace(sequence=9, start=1, incompat=jbd2.FEATURE_CSUM_V3))
    assert changed[512:] == block[512:]
    assert jbd2.decode_superblock(changed)[2:5] == (9, 1, jbd2.FEATURE_CSUM_V3)
    without = changed[:0xFC] + bytes(4) + changed[0x100:1024]
    assert struct.unpack_from(">I", changed, 0xFC)[0] == crc32c_bitwise(without)


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (4, 3), (12, 1024), (20, 0), (20, 5000), (0x28, jbd2.FEATURE_ASYNC_COMMIT)]
)
def test_a_damaged_superblock_is_refused(offset: int, value: int) -> None:
    block = bytearray(4096)
    struct.pack_into(">IIIIIIIIIIII16s", block, 0, jbd2.MAGIC, 4, 0, 4096, 1024, 1, 5, 0, 0, 0, 0, 0, bytes(16))
    jbd2.decode_superblock(bytes(block))
    struct.pack_into(">I", block, offset, value)
    with pytest.raises(FilesystemError):
        jbd2.decode_superblock(bytes(block))


@pytest.mark.parametrize("features", ["^metadata_csum", "^metadata_csum,^64bit", "metadata_csum_seed", "orphan_file"])
def test_journals_of_other_filesystems_are_replayed(features: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(16 * MIB + TAIL_BYTES))
    made = run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, str(path), "4096")
    assert made.returncode == 0, made.stderr
    before = path.read_bytes()
    work = Workload(RecordingDisk(MemoryDisk(len(before), before)))
    work.mkdir(b"/d")
    for index in range(8):
        work.write(b"/d/%d-s" % index, 0, 9000)
        work.sync()
    length = len(work.disk.record)
    for cut in range(1, length, 3):
        path.write_bytes(state_after_cut(before, work.disk.record, cut, random.Random(f"{features} {cut}")))
        repair(path)
        assert_clean(path)
        for name, content in work.promised_at(cut).items():
            shown = run("debugfs", "-R", f"cat {name.decode()}", str(path)).stdout
            assert shown.encode() == content
