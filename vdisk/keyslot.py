"""The key slot: the volume key of an encrypted disk, wrapped under what the user knows or has.

The volume key is random and never changes. It is wrapped by AES-256-GCM under a key that scrypt (RFC 7914) derives from
a passphrase or the bytes of a key file. The slot stands twice in the clear part of the boot area, each copy sealed in
one sector; its parameters, its salt and the disk's id are authenticated with the key (docs/FORMAT.md has the fields).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from vdisk.blockdevice import SECTOR_SIZE_BYTES
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES
from vdisk.errors import DeviceError, FormatError, LockedImageError
from vdisk.layout import Layout, seal, unseal
from vdisk.secret import Secret

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice

MAGIC = b"GHOSTKS\0"
VERSION = 1
SLOT_OFFSETS_BYTES = (16 << 10, 32 << 10)
VOLUME_KEY_SIZE_BYTES = 64
SCRYPT_COST = 1 << 17
SCRYPT_BLOCK_SIZE = 8
SCRYPT_PARALLELISM = 1
SCRYPT_MEMORY_SIZE_BYTES_MAX = 1 << 30


class KeySlotRecord(NamedTuple):
    """One sector. `copy_offset_bytes` binds a copy to its place, and is no part of what is authenticated."""

    magic: Annotated[bytes, "8s"]
    version: Annotated[int, "I"]
    scrypt_block_size: Annotated[int, "I"]
    scrypt_cost: Annotated[int, "Q"]
    scrypt_parallelism: Annotated[int, "I"]
    data_unit_size_bytes: Annotated[int, "I"]
    copy_offset_bytes: Annotated[int, "Q"]
    disk_id: Annotated[bytes, "16s"]
    salt: Annotated[bytes, "32s"]
    nonce: Annotated[bytes, "12s"]
    wrapped_key: Annotated[bytes, "80s"]


KEY_SLOT = Layout(KeySlotRecord, size_bytes=180)


def new_volume_key() -> Secret:
    return Secret(os.urandom(VOLUME_KEY_SIZE_BYTES))


def wrap(key: Secret, secret: Secret, disk_id: bytes) -> KeySlotRecord:
    """A slot that whoever has the secret can open."""
    slot = KeySlotRecord(
        magic=MAGIC,
        version=VERSION,
        scrypt_block_size=SCRYPT_BLOCK_SIZE,
        scrypt_cost=SCRYPT_COST,
        scrypt_parallelism=SCRYPT_PARALLELISM,
        data_unit_size_bytes=SECTOR_SIZE_BYTES,
        copy_offset_bytes=0,
        disk_id=disk_id,
        salt=os.urandom(32),
        nonce=os.urandom(12),
        wrapped_key=b"",
    )
    wrapped = AESGCM(_derive(slot, secret)).encrypt(slot.nonce, key, _authenticated(slot))
    return slot._replace(wrapped_key=wrapped)


def unwrap(slot: KeySlotRecord, secret: Secret) -> Secret:
    """The volume key. Raises `LockedImageError` where the secret is another one, or the slot is not what was made."""
    try:
        key = AESGCM(_derive(slot, secret)).decrypt(slot.nonce, slot.wrapped_key, _authenticated(slot))
    except InvalidTag:
        raise LockedImageError("wrong passphrase or key file; nothing was changed") from None
    return Secret(key)


def _derive(slot: KeySlotRecord, secret: Secret) -> bytes:
    derivation = Scrypt(
        salt=slot.salt,
        length=32,
        n=slot.scrypt_cost,
        r=slot.scrypt_block_size,
        p=slot.scrypt_parallelism,
    )
    return derivation.derive(secret)


def _authenticated(slot: KeySlotRecord) -> bytes:
    return KEY_SLOT.pack(slot._replace(copy_offset_bytes=0, wrapped_key=b""))


class KeySlots:
    """The two copies of the slot on a disk. Reading needs no key."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._area_bytes = device.size_bytes - BOOT_AREA_SIZE_BYTES

    def write(self, slot: KeySlotRecord) -> None:
        for offset in SLOT_OFFSETS_BYTES:
            sector = seal(KEY_SLOT.pack(slot._replace(copy_offset_bytes=offset)), SECTOR_SIZE_BYTES)
            self._device.write_through(self._area_bytes + offset, sector)

    def read(self) -> KeySlotRecord | None:
        """The first copy that is whole; None where neither is.

        Raises `FormatError` for one that this version cannot use, or whose parameters no ghostdump would choose.
        """
        copies = (self._copy(offset) for offset in SLOT_OFFSETS_BYTES)
        slot = next((copy for copy in copies if copy is not None), None)
        if slot is not None:
            _check(slot)
        return slot

    def mend(self) -> None:
        """Write both copies where one is damaged: the other is all that stands between the disk and noise."""
        slot = self.read()
        if slot is not None and any(self._copy(offset) is None for offset in SLOT_OFFSETS_BYTES):
            self.write(slot)

    def _copy(self, offset_bytes: int) -> KeySlotRecord | None:
        try:
            sector = self._device.read(self._area_bytes + offset_bytes, SECTOR_SIZE_BYTES)
            slot = KEY_SLOT.unpack_from(unseal(sector))
        except (DeviceError, FormatError):
            return None
        return slot if (slot.magic, slot.copy_offset_bytes) == (MAGIC, offset_bytes) else None


def _check(slot: KeySlotRecord) -> None:
    """What a disk says must not cost more memory or time than a slot of ours could ever."""
    if slot.version != VERSION or slot.data_unit_size_bytes != SECTOR_SIZE_BYTES:
        raise FormatError(f"key slot has format version {slot.version}: a newer ghostdump wrote it")
    cost, block_size, parallelism = slot.scrypt_cost, slot.scrypt_block_size, slot.scrypt_parallelism
    is_a_power_of_two = cost > 1 and cost & (cost - 1) == 0
    is_affordable = 0 < 128 * cost * block_size * parallelism <= SCRYPT_MEMORY_SIZE_BYTES_MAX
    if not is_a_power_of_two or not is_affordable or cost.bit_length() > 16 * block_size:
        raise FormatError("key slot has scrypt parameters out of bounds")
