"""The kernel log of a dump, by VMCOREINFO alone, whichever ring the kernel kept it in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.linux.legacy_log import read_legacy_log
from dumpwriter.linux.lockless_log import read_lockless_log
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.linux.address_space import AddressSpace
    from dumpwriter.linux.log_record import LogRecord
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo


def read_kernel_log(space: AddressSpace, info: Vmcoreinfo) -> Iterator[LogRecord]:
    """Records from the oldest on. Raises `FormatError` where the dump has none, or where what it has ends."""
    if "prb" in info.symbols:
        return read_lockless_log(space, info)
    if "log_first_idx" in info.symbols:
        return read_legacy_log(space, info)
    raise FormatError("VMCOREINFO names no kernel log that is known: neither prb nor log_first_idx")
