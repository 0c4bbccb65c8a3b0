"""What a dump's memory tells of its machine, for the header of another format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.export.about import About
from dumpwriter.linux.address_space import kernel_address_space
from dumpwriter.linux.kernel_map import virtual_ranges
from dumpwriter.linux.physical import DumpMemory
from dumpwriter.linux.vmcoreinfo import find_vmcoreinfo
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from dumpwriter.dumpfile.dump import Dump

NAME_SIZE_BYTES = 65  # of each of the six in `struct new_utsname`
NAME_COUNT = 6


def about_machine(dump: Dump) -> About:
    """From the notes, and as far as the memory is that of a Linux kernel and is there, from its own tables."""
    known = About.of_notes(dump.contents.notes)
    try:
        info = find_vmcoreinfo(dump.contents.notes)
        if info is None:
            return known
        space = kernel_address_space(DumpMemory(dump), info)
        known = known._replace(page_table_root=space.top_table, virtual_ranges=virtual_ranges(space, info))
        place = info.symbols["init_uts_ns"] + info.offsets["uts_namespace.name"]
        content = space.read(place, NAME_COUNT * NAME_SIZE_BYTES)
    except FormatError:
        return known  # a header needs none of this
    found = (content[at : at + NAME_SIZE_BYTES].partition(b"\0")[0] for at in range(0, len(content), NAME_SIZE_BYTES))
    names = (name or fallback for name, fallback in zip(found, known.system_names, strict=True))
    system, node, release, version, machine, domain = names
    return known._replace(system_names=(system, node, release, version, machine, domain))
