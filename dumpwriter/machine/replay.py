"""The replay: what a crash left of the journal is brought to the disk by e2fsck, through the machine's own drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from vdisk.ext4.filesystem import needs_check
from vdisk.ext4.mkfs import check_filesystem
from vdisk.ext4.repairs import Repairs
from vdisk.mount.export import exported

if TYPE_CHECKING:
    from collections.abc import Callable

    from vdisk.blockdevice import BlockDevice


async def replay(device: BlockDevice, on_failure: Callable[[str, Exception], object]) -> bool:
    """Replay and repair where the last run did not end cleanly; whether there was anything to do.

    Raises `FilesystemError` where e2fsck cannot leave the filesystem clean.
    """
    if not needs_check(device):
        return False
    repairs = Repairs(device)
    async with exported(repairs, on_failure) as path:
        await trio.to_thread.run_sync(check_filesystem, path)
    repairs.commit()
    return True
