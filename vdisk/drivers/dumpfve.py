"""The filter of an encrypted volume, for clones alone: a dump reaches the port driver as ciphertext, or not at all.

It is never loaded from this file: `fve` filters for the live machine. What both share is imported before the clone's
process is confined; `set_aside` is called on each of its threads then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdisk.bootarea import clear_run
from vdisk.layers import encryption
from vdisk.layers.encryption import Encryption
from vdisk.xts import XtsCipher

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice
    from vdisk.secret import Secret

VERSION = "1.0"
DESCRIPTION = "crash-time volume encryption"

set_aside = encryption.set_aside


def attach(lower: BlockDevice, key: Secret) -> BlockDevice:
    return Encryption(lower, XtsCipher(key), clear_run(lower.size_bytes))
