"""From the region of a hibernated machine to its memory, byte for byte, or not at all.

The same frames as those of a dump, believed by the same proofs; but where a dump that lost a page is still worth
having, a machine that lost a page must not run on. So only COMPLETE counts, and whatever is less is a `ResumeError`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import PAGE_SIZE_BYTES, CauseKind, PageRun
from dumpwriter.memory.physical import PhysicalMemory
from dumpwriter.recovery.scan import read_metadata, recover
from dumpwriter.verdict import Verdict
from vdisk.errors import FormatError, GhostdumpError, ResumeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import DumpIdentity
    from dumpwriter.metadata import Metadata
    from dumpwriter.recovery.blobs import FoundBlob
    from dumpwriter.recovery.scan import Findings
    from vdisk.layers.mapped import Mapped

MEMORY_SIZE_BYTES_MAX = 512 << 30  # no machine of ours has more; a forged map must not ask for more than that


class Restored(NamedTuple):
    """A memory as its machine left it; the caller's to close. `machine` is the kind of machine."""

    memory: PhysicalMemory
    machine: str
    header: DumpHeader | None
    blobs: tuple[FoundBlob, ...]  # what was registered beside memory


class _IntoMemory:
    """A sink that puts each page where the machine had it. Untouched memory holds zeros already."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory

    def data(self, first_page: int, content: memoryview) -> None:
        try:
            self._memory.write(first_page * PAGE_SIZE_BYTES, content)
        except ValueError as error:
            raise ResumeError(f"a frame names pages that the machine does not have: {error}") from None

    def zeros(self, run: PageRun) -> None:
        """Nothing was written there."""


def restore(region: Mapped, identity: DumpIdentity, progress: Callable[[int, int], None]) -> Restored:
    """Read the whole region once and verify every frame of it.

    Raises `ResumeError` where it does not hold the whole memory of a hibernated machine, and a plain `GhostdumpError`
    where this host has no room for that memory: at another time it may.
    """
    metadata = read_metadata(region, identity)
    if metadata is None:
        raise ResumeError("no metadata frame of it can be read")
    size_bytes = sum(part.length_bytes for part in metadata.ranges)
    if not 0 < size_bytes <= MEMORY_SIZE_BYTES_MAX:
        raise ResumeError(f"its map names {size_bytes} bytes of memory, which no machine has")
    with _host_memory(size_bytes), contextlib.ExitStack() as undo:
        memory = PhysicalMemory.create(metadata.ranges)
        undo.callback(memory.close)
        findings = recover(region, identity, _IntoMemory(memory), progress)
        _must_be_whole(findings, metadata)
        _write_notes(memory, metadata.notes)
        undo.pop_all()
    return Restored(memory, metadata.machine, findings.header, findings.secondary.found)


@contextlib.contextmanager
def _host_memory(size_bytes: int) -> Iterator[None]:
    """What fails in here, and is no error of ours, is the host's lack of memory."""
    try:
        yield
    except GhostdumpError:
        raise
    except OSError as error:
        raise GhostdumpError(
            f"this host has no room for {size_bytes} bytes of memory ({error.strerror}); the hibernated machine stays "
            f"where it is: free memory and mount again"
        ) from None


def _write_notes(memory: PhysicalMemory, notes: bytes) -> None:
    try:
        memory.write_notes(notes)
    except FormatError as error:
        raise ResumeError(str(error)) from None


def _must_be_whole(findings: Findings, metadata: Metadata) -> None:
    if findings.header is not None and findings.header.cause_kind != CauseKind.HIBERNATION:
        raise ResumeError("it is the dump of a crash, not of a hibernation")
    if findings.verdict != Verdict.COMPLETE:
        total, present = findings.judgement.pages_total, findings.pages_present
        raise ResumeError(f"{findings.reason}; {present} of {total} pages are whole")
    if findings.judgement.left_out:
        raise ResumeError("it holds only a part of memory")
    if findings.metadata != metadata:
        raise ResumeError("its two metadata frames say different things")
