"""Secondary data while the machine runs: a place for each blob in the runtime file.

The command line and the machine write there, the standby reads it when the machine is dead. A place has two copies,
each a head and a content. Whoever registers anew overwrites the older copy, its head last; so a process that dies in
the middle of it leaves the other one. The reader believes a copy whose head has its checksum and whose content has the
digest in the head, and nothing else.

The first places are the machine's own: nobody else writes them, so no lock of somebody else's is in its way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import blake3

from dumpwriter.formats.region import SECONDARY_COUNT_MAX, SECONDARY_SIZE_BYTES_MAX, SecondaryState
from dumpwriter.formats.runtime import (
    SECONDARY_COPIES,
    SECONDARY_COPY_SIZE_BYTES,
    SECONDARY_ENTRY,
    SECONDARY_HEAD_SIZE_BYTES,
    SECONDARY_MAGIC,
    SECONDARY_OFFSET_BYTES,
    Lock,
    SecondaryEntry,
)
from dumpwriter.secondary import Blob, check_name, decode_name
from vdisk.errors import FormatError, GhostdumpError, UsageError
from vdisk.layout import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

OWN = ("events.log", "machine.json")
OWN_SIZE_BYTES_MAX = 64 << 10
SHARED_SIZE_BYTES_MAX = SECONDARY_SIZE_BYTES_MAX - len(OWN) * OWN_SIZE_BYTES_MAX
READ_SIZE_BYTES = 64 << 10
LOCK_SECONDS = 2.0
LOCK_POLL_SECONDS = 0.01


class _Copy(NamedTuple):
    """A copy whose head is whole, and where its content lies."""

    number: int
    entry: SecondaryEntry
    name: str
    offset_bytes: int

    def blob(self) -> Blob:
        return Blob(self.name, self.entry.size_bytes, self.entry.digest, self.offset_bytes)


class BlobArea:
    """The blobs in a runtime file, by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def register(self, name: str, content: bytes) -> None:
        """Add a blob, or replace the one of that name. It goes into the next dump.

        Raises `UsageError` for a name or a size that cannot be, `GhostdumpError` where there is no room.
        """
        check_name(name)
        if name in OWN:
            raise UsageError(f"{name} is the machine's own: give another name")
        if len(content) > SHARED_SIZE_BYTES_MAX:
            raise UsageError(f"{name} has more than {SHARED_SIZE_BYTES_MAX} bytes, which is all that a dump holds")
        with self._locked():
            others = {blob.name: (place, blob) for place, blob in self._shared()}
            place, _ = others.pop(name, (None, None))
            taken_bytes = sum(blob.size_bytes for _, blob in others.values())
            if taken_bytes + len(content) > SHARED_SIZE_BYTES_MAX:
                raise GhostdumpError(
                    f"no room for {name}: other blobs take {taken_bytes} of {SHARED_SIZE_BYTES_MAX} bytes; "
                    f"ghostdump unregister one"
                )
            self._put(self._free_place() if place is None else place, name, content)

    def unregister(self, name: str) -> None:
        """Raises `GhostdumpError` where there is no such blob, `UsageError` where it is the machine's own."""
        if name in OWN:
            raise UsageError(f"{name} is the machine's own and goes into every dump")
        with self._locked():
            places = [place for place, blob in self._shared() if blob.name == name]
            if not places:
                raise GhostdumpError(f"no secondary data of the name {name} is registered")
            for copy in reversed(self._copies(places[0])):
                self._write(_head_offset_bytes(places[0], copy.number), bytes(SECONDARY_HEAD_SIZE_BYTES))

    def keep_own(self, name: str, content: bytes) -> None:
        """Replace a blob of the machine's own; only its process may. Takes no lock, and may interrupt itself."""
        assert len(content) <= OWN_SIZE_BYTES_MAX
        self._put(OWN.index(name), name, content)

    def blobs(self) -> list[Blob]:
        """What is registered, by the heads alone."""
        newest = (self._copies(place)[:1] for place in range(SECONDARY_COUNT_MAX))
        return [copy.blob() for copies in newest for copy in copies]

    def survey(self) -> list[Blob]:
        """What a dump is to hold: every blob that proves true, and a torn one for every place where none does."""
        found, left_bytes = [], SECONDARY_SIZE_BYTES_MAX
        for place in range(SECONDARY_COUNT_MAX):
            copies = self._copies(place)
            whole = [copy for copy in copies if copy.entry.size_bytes <= left_bytes and self._is_true(copy)]
            if whole:
                found.append(whole[0].blob())
                left_bytes -= whole[0].entry.size_bytes
            elif not self._is_blank(place):
                name = copies[0].name if copies else ""
                found.append(Blob(name, 0, bytes(32), 0, SecondaryState.TORN))
        return found

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Fill the buffer from the file. Raises `OSError` where it ends before."""
        view = memoryview(buffer).cast("B")
        while view.nbytes:
            count = os.preadv(self._descriptor, [view], offset_bytes)
            if not count:
                raise OSError("secondary data: the runtime file ends before it")
            offset_bytes, view = offset_bytes + count, view[count:]

    def _shared(self) -> Iterator[tuple[int, Blob]]:
        for place in range(len(OWN), SECONDARY_COUNT_MAX):
            for copy in self._copies(place)[:1]:
                yield place, copy.blob()

    def _free_place(self) -> int:
        for place in range(len(OWN), SECONDARY_COUNT_MAX):
            if not self._copies(place):
                return place
        count = SECONDARY_COUNT_MAX - len(OWN)
        raise GhostdumpError(f"{count} blobs are registered, and a dump holds no more: ghostdump unregister one")

    def _copies(self, place: int) -> list[_Copy]:
        """Those whose head is whole, the newest first."""
        found = []
        for number in range(SECONDARY_COPIES):
            offset_bytes = _head_offset_bytes(place, number)
            try:
                entry = SECONDARY_ENTRY.unpack_from(unseal(self._read(offset_bytes, SECONDARY_HEAD_SIZE_BYTES)))
            except FormatError:
                continue
            name = decode_name(entry.name)
            if entry.magic == SECONDARY_MAGIC and name is not None and entry.size_bytes <= SECONDARY_SIZE_BYTES_MAX:
                found.append(_Copy(number, entry, name, offset_bytes + SECONDARY_HEAD_SIZE_BYTES))
        return sorted(found, key=lambda copy: copy.entry.sequence, reverse=True)

    def _is_blank(self, place: int) -> bool:
        """Whether nothing was ever registered there, or what was is unregistered."""
        heads = (_head_offset_bytes(place, number) for number in range(SECONDARY_COPIES))
        return not any(any(self._read(offset_bytes, SECONDARY_HEAD_SIZE_BYTES)) for offset_bytes in heads)

    def _is_true(self, copy: _Copy) -> bool:
        hasher, left_bytes = blake3.blake3(), copy.entry.size_bytes
        offset_bytes = copy.offset_bytes
        while left_bytes and (content := self._read(offset_bytes, min(left_bytes, READ_SIZE_BYTES))):
            hasher.update(content)
            offset_bytes, left_bytes = offset_bytes + len(content), left_bytes - len(content)
        return not left_bytes and hasher.digest() == copy.entry.digest

    def _put(self, place: int, name: str, content: bytes) -> None:
        copies = self._copies(place)
        number = (copies[0].number + 1) % SECONDARY_COPIES if copies else 0
        sequence = copies[0].entry.sequence + 1 if copies else 1
        offset_bytes = _head_offset_bytes(place, number)
        self._write(offset_bytes, bytes(SECONDARY_HEAD_SIZE_BYTES))
        self._write(offset_bytes + SECONDARY_HEAD_SIZE_BYTES, content)
        digest = blake3.blake3(content).digest()
        entry = SecondaryEntry(SECONDARY_MAGIC, sequence, name.encode(), len(content), digest)
        self._write(offset_bytes, seal(SECONDARY_ENTRY.pack(entry), SECONDARY_HEAD_SIZE_BYTES))

    def _read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return os.pread(self._descriptor, length_bytes, offset_bytes)

    def _write(self, offset_bytes: int, content: bytes) -> None:
        view = memoryview(content)
        while view.nbytes:
            count = os.pwrite(self._descriptor, view, offset_bytes)
            offset_bytes, view = offset_bytes + count, view[count:]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One registers at a time. Raises `GhostdumpError` where somebody holds the lock and stands still."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, Lock.SECONDARY)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GhostdumpError("another process registers secondary data and stands still: end it") from None
                time.sleep(LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, Lock.SECONDARY)


def _head_offset_bytes(place: int, number: int) -> int:
    return SECONDARY_OFFSET_BYTES + (place * SECONDARY_COPIES + number) * SECONDARY_COPY_SIZE_BYTES
