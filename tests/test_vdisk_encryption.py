"""The cipher against others' answers, the layer that uses it, and the slot that keeps its key."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vdisk import keyslot, stack, xts
from vdisk.bootarea import (
    BOOT_AREA_SIZE_BYTES,
    EXTENT_TABLE_OFFSETS_BYTES,
    RECORD_OFFSETS_BYTES,
    SMALL_DUMP_OFFSETS_BYTES,
    BootArea,
    clear_run,
    new_record,
)
from vdisk.controller import Controller
from vdisk.errors import DeviceError, EncryptionError, FormatError, LockedImageError
from vdisk.keyslot import KEY_SLOT, SLOT_OFFSETS_BYTES, KeySlots
from vdisk.layers.encryption import SECOND_BUFFER_SIZE_BYTES, Encryption
from vdisk.memorydisk import MemoryDisk
from vdisk.registers import create_registers
from vdisk.secret import Secret
from vdisk.volume import NO_KEY, check_key, key_of
from vdisk.xts import CHUNK_SECTORS, XtsCipher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

DISK_SIZE_BYTES = 3 * BOOT_AREA_SIZE_BYTES
AREA_BYTES = DISK_SIZE_BYTES - BOOT_AREA_SIZE_BYTES
KEY = Secret(random.Random(4).randbytes(64))
PASSPHRASE = Secret(b"correct horse")
DISK_ID = bytes(range(16))


def by_the_library(key: bytes, first_sector: int, plain: bytes) -> bytes:
    """XTS as the library has it, one sector a call."""
    encrypted = []
    for number in range(len(plain) // 512):
        tweak = (first_sector + number).to_bytes(16, "little")
        encryptor = Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor()
        encrypted.append(encryptor.update(plain[number * 512 : number * 512 + 512]) + encryptor.finalize())
    return b"".join(encrypted)


@pytest.fixture(params=range(3))
def key(request: pytest.FixtureRequest) -> Secret:
    return Secret(random.Random(request.param).randbytes(64))


@pytest.mark.parametrize("first_sector", [0, 1, 0xFF, (1 << 32) - 3, (1 << 35) - 1, (1 << 63) - 2000])
@pytest.mark.parametrize("sectors", [1, 2, 7, 8, CHUNK_SECTORS - 1, CHUNK_SECTORS, CHUNK_SECTORS + 1, 1100])
def test_the_cipher_is_that_of_the_library(key: Secret, first_sector: int, sectors: int) -> None:
    plain = random.Random(sectors).randbytes(sectors * 512)
    target = memoryview(bytearray(len(plain)))
    cipher = XtsCipher(key)
    cipher.encrypt(first_sector, memoryview(plain), target)
    assert bytes(target) == by_the_library(key, first_sector, plain)
    cipher.decrypt(first_sector, target, target)
    assert bytes(target) == plain


def test_the_cipher_gives_the_answers_of_ieee_1619() -> None:
    xts.self_test()
    assert by_the_library(xts.VECTOR_KEY, xts.VECTOR_SECTOR, xts.VECTOR_PLAIN).startswith(xts.VECTOR_CIPHER_START)
    assert by_the_library(xts.VECTOR_KEY, xts.VECTOR_SECTOR, xts.VECTOR_PLAIN).endswith(xts.VECTOR_CIPHER_END)


def test_a_cipher_that_gives_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xts, "EXPONENTS", xts.EXPONENTS[:, ::-1].copy())
    with pytest.raises(EncryptionError, match="IEEE 1619"):
        xts.self_test()
    with pytest.raises(EncryptionError):
        Encryption(MemoryDisk(DISK_SIZE_BYTES), XtsCipher(KEY), clear_run(DISK_SIZE_BYTES))


def test_a_sector_that_was_never_written_is_zeros_and_its_neighbours_are_not() -> None:
    cipher = XtsCipher(KEY)
    plain = bytes(512) + random.Random(1).randbytes(9 * 512)
    buffer = memoryview(bytearray(len(plain)))
    cipher.encrypt(5, memoryview(plain), buffer)
    buffer[512:1024] = bytes(512)
    buffer[1024:1032] = bytes(8)  # begins with zeros, and is no blank sector
    cipher.decrypt(5, buffer, buffer)
    assert bytes(buffer[:1024]) == bytes(1024)
    assert any(buffer[1024:1040])
    assert bytes(buffer[1040:]) == plain[1040:]


@pytest.mark.parametrize("wrong", [b"", bytes(63), bytes(64), KEY[:32] * 2])
def test_a_key_that_is_none_is_refused(wrong: bytes) -> None:
    with pytest.raises(EncryptionError):
        XtsCipher(Secret(wrong))


def test_a_secret_does_not_show_itself() -> None:
    for shown in (repr(KEY), str(KEY), f"{KEY}", repr(stack.clone("dump_", KEY)), str([KEY])):
        assert repr(bytes(KEY))[2:20] not in shown
        assert "<64 secret bytes>" in shown


# The layer


class Recorder(MemoryDisk):
    """Remembers what reached it."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.writes: list[tuple[int, bytes]] = []

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self.writes.append((offset_bytes, bytes(buffer)))
        super().write_from(offset_bytes, buffer)


@pytest.fixture
def disk() -> Recorder:
    return Recorder(DISK_SIZE_BYTES)


@pytest.fixture
def layer(disk: Recorder) -> Encryption:
    return Encryption(disk, XtsCipher(KEY), clear_run(DISK_SIZE_BYTES))


BORDERS = (0, AREA_BYTES, AREA_BYTES + SMALL_DUMP_OFFSETS_BYTES[0], DISK_SIZE_BYTES)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("before", [0, 512, 3 * 512, SECOND_BUFFER_SIZE_BYTES + 512])
@pytest.mark.parametrize("after", [0, 512, 5 * 512, SECOND_BUFFER_SIZE_BYTES * 2 + 4096])
def test_what_was_written_is_read_and_only_the_clear_run_is_clear(
    disk: Recorder, layer: Encryption, border: int, before: int, after: int
) -> None:
    start, end = max(0, border - before), min(DISK_SIZE_BYTES, border + after)
    content = bytearray(os.urandom(end - start))
    kept = bytes(content)
    layer.write_from(start, content)
    assert content == kept, "the source of a write was touched"
    assert layer.read(start, end - start) == kept
    expected = bytearray(by_the_library(KEY, start // 512, kept))
    clear_start, clear_end = max(start, BORDERS[1]), min(end, BORDERS[2])
    if clear_start < clear_end:
        expected[clear_start - start : clear_end - start] = kept[clear_start - start : clear_end - start]
    assert disk.read(start, end - start) == expected


def test_what_was_discarded_or_never_written_reads_as_zeros(layer: Encryption) -> None:
    assert layer.read(0, 1 << 20) == bytes(1 << 20)
    layer.write_from(8192, os.urandom(8192))
    layer.discard(8192, 4096)
    assert layer.read(8192, 4096) == bytes(4096)
    assert any(layer.read(12288, 4096))


def test_a_cipher_that_fails_lets_nothing_down(
    disk: Recorder, layer: Encryption, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    pattern = b"never in the clear " * 512
    disk.content[:512] = pattern[:512]
    monkeypatch.setattr("numpy.bitwise_xor", fail)
    with pytest.raises(EncryptionError) as failure:
        layer.write_from(0, pattern[:8192])
    assert not isinstance(failure.value, DeviceError)  # the dump goes on past those, and must not here
    with pytest.raises(EncryptionError):
        layer.read(0, 512)
    assert not disk.writes


def test_requests_of_no_whole_sectors_are_refused(layer: Encryption) -> None:
    for offset, length in ((1, 512), (0, 511), (DISK_SIZE_BYTES, 512)):
        with pytest.raises(ValueError):
            layer.write_from(offset, bytes(length))
        with pytest.raises(ValueError):
            layer.read(offset, length)


# The stack


@pytest.fixture
def controller() -> Iterator[Controller]:
    registers = create_registers()
    yield Controller(registers, MemoryDisk(DISK_SIZE_BYTES))
    os.close(registers)


def test_the_stack_of_an_encrypted_volume_has_the_filter_and_its_clone_the_other(controller: Controller) -> None:
    live = stack.load_live(controller, KEY)
    images = stack.clone("dump_", KEY)
    ghost = stack.load_clone(images)
    ghost.set_aside()
    assert [module.name for module in live.modules] == ["storahci", "fve", "diskdump"]
    assert [module.name for module in ghost.modules] == ["dump_storahci", "dump_dumpfve", "dump_diskdump"]
    assert [bool(image.key) for image in images] == [False, True, False]
    assert [module.signer for module in live.modules] == ["verified"] * 3
    assert not any(os.path.exists(module.path) for module in ghost.modules)
    live.device.write_from(4096, b"a" * 4096)
    assert ghost.attach(controller).read(4096, 4096) == b"a" * 4096
    assert stack.load_live(controller, NO_KEY).device.read(4096, 4096) == by_the_library(KEY, 8, b"a" * 4096)


# The key slot


@pytest.fixture(scope="module")
def slot() -> keyslot.KeySlotRecord:
    return keyslot.wrap(KEY, PASSPHRASE, DISK_ID)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> keyslot.KeySlotRecord:
    """A slot that is opened without waiting."""
    monkeypatch.setattr(keyslot, "SCRYPT_COST", 2)
    return keyslot.wrap(KEY, PASSPHRASE, DISK_ID)


def test_the_slot_gives_the_key_to_whoever_has_the_secret(slot: keyslot.KeySlotRecord) -> None:
    assert keyslot.unwrap(slot, PASSPHRASE) == KEY
    with pytest.raises(LockedImageError, match="wrong passphrase or key file"):
        keyslot.unwrap(slot, Secret(PASSPHRASE + b"\n"))


def test_any_flipped_bit_of_the_slot_is_refused(cheap: keyslot.KeySlotRecord) -> None:
    content = KEY_SLOT.pack(cheap)
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            found = KEY_SLOT.unpack_from(flipped)
            if found.copy_offset_bytes != cheap.copy_offset_bytes:
                continue  # told by the place that the copy stands at
            if (found.scrypt_cost, found.scrypt_block_size, found.scrypt_parallelism) != (
                cheap.scrypt_cost,
                cheap.scrypt_block_size,
                cheap.scrypt_parallelism,
            ):
                continue  # another wrapping key, or out of bounds: below
            with pytest.raises(LockedImageError):
                keyslot.unwrap(found, PASSPHRASE)


@pytest.mark.parametrize("damaged", SLOT_OFFSETS_BYTES)
def test_one_damaged_copy_costs_nothing_and_any_flipped_bit_is_noticed(
    cheap: keyslot.KeySlotRecord, damaged: int
) -> None:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    slots = KeySlots(disk)
    slots.write(cheap)
    (other,) = set(SLOT_OFFSETS_BYTES) - {damaged}
    for position in range(512):
        disk.content[AREA_BYTES + damaged + position] ^= 16
        assert slots.read() == cheap._replace(copy_offset_bytes=other)
        disk.content[AREA_BYTES + damaged + position] ^= 16
    disk.content[AREA_BYTES + damaged] ^= 1
    disk.content[AREA_BYTES + other] ^= 1
    assert slots.read() is None


@pytest.mark.parametrize("damaged", SLOT_OFFSETS_BYTES)
def test_a_damaged_copy_is_mended_from_the_other(cheap: keyslot.KeySlotRecord, damaged: int) -> None:
    disk = Recorder(DISK_SIZE_BYTES)
    slots = KeySlots(disk)
    slots.write(cheap)
    whole = bytes(disk.content)
    disk.writes.clear()
    slots.mend()
    assert not disk.writes
    disk.content[AREA_BYTES + damaged] ^= 1
    slots.mend()
    assert disk.content == whole
    for offset in SLOT_OFFSETS_BYTES:
        disk.content[AREA_BYTES + offset] ^= 1
    disk.writes.clear()
    slots.mend()
    assert not disk.writes


def test_a_copy_that_stands_where_the_other_should_is_none(cheap: keyslot.KeySlotRecord) -> None:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    first, second = (AREA_BYTES + offset for offset in SLOT_OFFSETS_BYTES)
    KeySlots(disk).write(cheap)
    disk.content[second : second + 512] = disk.content[first : first + 512]
    disk.content[first : first + 512] = bytes(512)
    assert KeySlots(disk).read() is None


@pytest.mark.parametrize(
    ("cost", "block_size", "parallelism"),
    [
        (0, 8, 1),
        (1, 8, 1),
        (3, 8, 1),
        (1 << 17, 0, 1),
        (1 << 17, 8, 0),
        (1 << 21, 8, 1),
        (1 << 63, 8, 1),
        (1 << 10, 1 << 31, 1),
        (1 << 17, 8, 1 << 31),
        (1 << 16, 1, 1),
        ((1 << 64) - 1, (1 << 32) - 1, (1 << 32) - 1),
    ],
)
def test_parameters_that_cost_too_much_or_make_no_sense_are_refused(
    slot: keyslot.KeySlotRecord, cost: int, block_size: int, parallelism: int
) -> None:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    hostile = slot._replace(scrypt_cost=cost, scrypt_block_size=block_size, scrypt_parallelism=parallelism)
    KeySlots(disk).write(hostile)
    with pytest.raises(FormatError, match="out of bounds"):
        KeySlots(disk).read()


def test_parameters_within_the_bounds_can_be_used(slot: keyslot.KeySlotRecord) -> None:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    for cost, block_size, parallelism in ((2, 1, 1), (1 << 15, 1, 3), (16, 1 << 10, 2), (1 << 20, 8, 1)):
        other = slot._replace(scrypt_cost=cost, scrypt_block_size=block_size, scrypt_parallelism=parallelism)
        KeySlots(disk).write(other)
        assert KeySlots(disk).read() is not None
        if cost < 1 << 20:
            with pytest.raises(LockedImageError):
                keyslot.unwrap(other, PASSPHRASE)


def test_a_slot_of_a_later_version_is_refused(slot: keyslot.KeySlotRecord) -> None:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    for later in (slot._replace(version=2), slot._replace(data_unit_size_bytes=4096)):
        KeySlots(disk).write(later)
        with pytest.raises(FormatError, match="newer ghostdump"):
            KeySlots(disk).read()


# The volume


def nobody() -> Secret:
    raise AssertionError("a plain disk needs no secret")


def encrypted_disk(slot: keyslot.KeySlotRecord) -> MemoryDisk:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    KeySlots(disk).write(slot)
    BootArea(disk).write(new_record(DISK_ID, DISK_SIZE_BYTES, 1 << 24)._replace(features_incompatible=1))
    return disk


def test_a_plain_disk_asks_for_nothing() -> None:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    assert key_of(disk, nobody) == NO_KEY
    BootArea(disk).write(new_record(DISK_ID, DISK_SIZE_BYTES, 1 << 24))
    assert key_of(disk, nobody) == NO_KEY


def test_a_lost_boot_record_does_not_lose_the_key(cheap: keyslot.KeySlotRecord) -> None:
    disk = encrypted_disk(cheap)
    assert key_of(disk, lambda: PASSPHRASE) == KEY
    for offset in (0, 4096):
        disk.content[AREA_BYTES + offset + 100] ^= 1
    assert key_of(disk, lambda: PASSPHRASE) == KEY


def test_lost_key_slots_and_those_of_another_disk_are_told(cheap: keyslot.KeySlotRecord) -> None:
    disk = encrypted_disk(cheap)
    KeySlots(disk).write(cheap._replace(disk_id=bytes(16)))
    with pytest.raises(FormatError, match="the volume key is lost"):
        key_of(disk, nobody)
    for offset in SLOT_OFFSETS_BYTES:
        disk.content[AREA_BYTES + offset] ^= 1
    with pytest.raises(FormatError, match="the volume key is lost"):
        key_of(disk, nobody)


def test_a_key_that_does_not_go_with_the_disk_is_refused() -> None:
    plain = new_record(DISK_ID, DISK_SIZE_BYTES, 1 << 24)
    check_key(plain, NO_KEY)
    check_key(plain._replace(features_incompatible=1), KEY)
    for record, key in ((plain, KEY), (plain._replace(features_incompatible=1), NO_KEY)):
        with pytest.raises(LockedImageError):
            check_key(record, key)


def test_the_slots_lie_in_the_clear_and_over_nothing_else() -> None:
    clear = clear_run(DISK_SIZE_BYTES)
    for offset in SLOT_OFFSETS_BYTES:
        assert max(RECORD_OFFSETS_BYTES) + 512 <= offset
        assert offset + 512 <= min(EXTENT_TABLE_OFFSETS_BYTES) < clear.length_bytes
