"""The filter of an encrypted volume, live: what the filesystem writes reaches the port driver as ciphertext."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.bootarea import clear_run
from vdisk.layers.encryption import Encryption
from vdisk.xts import XtsCipher

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice
    from vdisk.secret import Secret

VERSION = "1.0"
DESCRIPTION = "volume encryption"


def attach(lower: BlockDevice, key: Secret) -> BlockDevice:
    return Encryption(lower, XtsCipher(key), clear_run(lower.size_bytes))
