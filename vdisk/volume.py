"""Whether a disk is encrypted, and its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.bootarea import BootArea, IncompatibleFeature
from vdisk.errors import FormatError, LockedImageError, NotAnImageError
from vdisk.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootRecord
    from vdisk.keyslot import KeySlotRecord

NO_KEY = Secret()  # the key of a plain volume


def is_encrypted(record: BootRecord) -> bool:
    return bool(record.features_incompatible & IncompatibleFeature.ENCRYPTED)


def key_of(device: BlockDevice, ask: Callable[[], Secret]) -> Secret:
    """The volume key, or `NO_KEY` of a plain disk; the device is the disk without a filter.

    The secret is asked for only where it is needed. A lost boot record does not lock the disk: the slots stand beside
    it. Raises `LockedImageError` where the secret is a wrong one, `FormatError` where the slots are lost.
    """
    from vdisk.keyslot import unwrap  # a plain disk does without the cryptography

    slot = _slot_of(device)
    return unwrap(slot, ask()) if slot else NO_KEY


def _slot_of(device: BlockDevice) -> KeySlotRecord | None:
    """None where the disk is plain, as far as it tells."""
    from vdisk.keyslot import KeySlots

    area = BootArea(device)
    try:
        record = area.read()
    except (FormatError, NotAnImageError):
        return KeySlots(device).read()
    if not is_encrypted(record):
        return None
    slot = KeySlots(device).read()
    if slot is None or slot.disk_id != record.disk_id:
        raise FormatError("both key slots are damaged: the volume key is lost, and nobody can read the disk without it")
    return slot


def check_key(record: BootRecord, key: Secret) -> None:
    """Raises `LockedImageError` where an encrypted disk comes without a key, or a plain one with a key."""
    if is_encrypted(record) != bool(key):
        raise LockedImageError("it was replaced by another disk meanwhile: run the command again")


def mend_key_slots(device: BlockDevice) -> None:
    """Make a damaged copy anew from the whole one. Raises `DeviceError`, `FormatError`."""
    from vdisk.keyslot import KeySlots

    KeySlots(device).mend()
