"""The kernel's log ring, as Linux kept it until 5.9: records of `struct printk_log` in a ring, found by two indices.

Source: Linux 5.4, kernel/printk/printk.c (the rules of the ring are stated in its comments). A record is a 16-byte
header and the text, padded to 8 bytes. A header of zeros says that the next record is at the front of the ring. There
is always room left for one more header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from vdisk.errors import FormatError
from vdisk.layout import Layout

if TYPE_CHECKING:
    from dumpwriter.memory.physical import PhysicalMemory

TEXT_LIMIT_BYTES = 992
RECORD_ALIGNMENT_BYTES = 8
LEVEL_EMERGENCY = 0
LEVEL_INFO = 6
FLAG_NEWLINE = 2


class PrintkRecord(NamedTuple):
    """struct printk_log; the last byte holds five bits of flags and three of level."""

    ts_nsec: Annotated[int, "Q"]
    len: Annotated[int, "H"]
    text_len: Annotated[int, "H"]
    dict_len: Annotated[int, "H"]
    facility: Annotated[int, "B"]
    flags_level: Annotated[int, "B"]


class PrintkVariables(NamedTuple):
    """The kernel's variables about its ring; here they stand together, so that one write publishes all of them."""

    log_buf: Annotated[int, "Q"]
    log_buf_len: Annotated[int, "I"]
    log_first_idx: Annotated[int, "I"]
    log_next_idx: Annotated[int, "I"]
    clear_idx: Annotated[int, "I"]
    log_first_seq: Annotated[int, "Q"]
    log_next_seq: Annotated[int, "Q"]


PRINTK_RECORD = Layout(PrintkRecord, size_bytes=16)
PRINTK_VARIABLES = Layout(PrintkVariables, size_bytes=40)


class RingPlace(NamedTuple):
    """Where a ring is: its variables and its buffer in physical bytes, and the buffer's kernel virtual address."""

    variables: int
    buffer: int
    buffer_address: int
    size_bytes: int


class FoundRing(NamedTuple):
    """A ring that stands in memory already, and the time of its newest record."""

    variables: PrintkVariables
    newest_ns: int


class Step(NamedTuple):
    """One record on its way into the ring. Carrying it out a second time changes nothing."""

    evicted: PrintkVariables
    writes: tuple[tuple[int, bytes], ...]
    after: PrintkVariables


class PrintkRing:
    """A log ring in physical memory. `append` may interrupt itself from a signal handler of the same thread.

    What stands in memory is a readable log after every single write. An append that is interrupted by another one is
    first carried out by the interrupter, at the place that it had claimed.
    """

    def __init__(self, memory: PhysicalMemory, place: RingPlace, found: FoundRing | None = None) -> None:
        """An empty ring, or one that goes on from what was found at the place."""
        self._memory = memory
        self._variables = place.variables
        self._buffer = place.buffer
        start = found.variables if found else PrintkVariables(place.buffer_address, place.size_bytes, 0, 0, 0, 0, 0)
        self._last = Step(start, (), start)
        self._settled: Step | None = None
        self._settle()

    def append(self, level: int, ts_nsec: int, text: bytes) -> None:
        """Add one line, at the price of the oldest ones. A text above 992 bytes is cut."""
        record = _record(level, ts_nsec, text[:TEXT_LIMIT_BYTES])
        self._settle()
        while True:
            last = self._last
            step = self._step(last.after, record)
            # Python runs signal handlers at calls and backward jumps only: none can come between these two lines.
            if self._last is last:
                self._last = step
                break
        self._settle()

    def _settle(self) -> None:
        """Carry the last step out; once more where a signal handler has added another one meanwhile."""
        while self._settled is not self._last:
            step = self._last
            self._publish(step.evicted)
            for index, content in step.writes:
                self._memory.write(self._buffer + index, content)
            self._publish(step.after)
            self._settled = step

    def _publish(self, variables: PrintkVariables) -> None:
        self._memory.write(self._variables, PRINTK_VARIABLES.pack(variables))

    def _step(self, variables: PrintkVariables, record: bytes) -> Step:
        evicted = self._make_room(variables, len(record))
        index = evicted.log_next_idx
        writes: tuple[tuple[int, bytes], ...] = ()
        if index + len(record) + PRINTK_RECORD.size_bytes > evicted.log_buf_len:
            writes = ((index, bytes(PRINTK_RECORD.size_bytes)),)
            index = 0
        after = evicted._replace(log_next_idx=index + len(record), log_next_seq=evicted.log_next_seq + 1)
        return Step(evicted, (*writes, (index, record)), after)

    def _make_room(self, variables: PrintkVariables, record_bytes: int) -> PrintkVariables:
        """Give up the oldest records until there is room. Ends by the sequence numbers, whatever the memory says."""
        while variables.log_first_seq < variables.log_next_seq and not _has_room(variables, record_bytes):
            following = self._following(variables.log_first_idx)
            first_seq = variables.log_first_seq + 1
            if first_seq == variables.log_next_seq:
                following = variables.log_next_idx
            variables = variables._replace(log_first_idx=following, clear_idx=following, log_first_seq=first_seq)
        return variables

    def _following(self, index: int) -> int:
        length = self._length_at(index)
        if length == 0:
            index, length = 0, self._length_at(0)
        following = index + length
        return following if following + PRINTK_RECORD.size_bytes <= self._last.after.log_buf_len else 0

    def _length_at(self, index: int) -> int:
        content = self._memory.read(self._buffer + index, PRINTK_RECORD.size_bytes)
        return PRINTK_RECORD.unpack_from(content).len


def find_ring(memory: PhysicalMemory, place: RingPlace) -> FoundRing:
    """The ring that stands there. Every record is walked; raises `FormatError` where it is no ring."""
    found = PRINTK_VARIABLES.unpack_from(memory.read(place.variables, PRINTK_VARIABLES.size_bytes))
    count = found.log_next_seq - found.log_first_seq
    if (found.log_buf, found.log_buf_len) != (place.buffer_address, place.size_bytes):
        raise FormatError("the log is no ring: it is somewhere else")
    if not 0 <= count <= place.size_bytes // PRINTK_RECORD.size_bytes:
        raise FormatError(f"the log is no ring: it cannot hold {count} records")
    ring, index, newest_ns = memory.read(place.buffer, place.size_bytes), found.log_first_idx, 0
    for _ in range(count):
        index, newest_ns = _walk(ring, index)
    if index != found.log_next_idx:
        raise FormatError(f"the log is no ring: its last record ends at {index}, not at {found.log_next_idx}")
    return FoundRing(found, newest_ns)


def _walk(ring: bytes, index: int) -> tuple[int, int]:
    """Where the record at an index, or at the front where none fits there, ends; and its time."""
    record = _record_at(ring, index)
    if not record.len:
        index, record = 0, _record_at(ring, 0)
    end = index + record.len
    if record.len % RECORD_ALIGNMENT_BYTES or record.len < PRINTK_RECORD.size_bytes + record.text_len:
        raise FormatError(f"the log is no ring: a record of {record.len} bytes at {index}")
    if end + PRINTK_RECORD.size_bytes > len(ring):
        raise FormatError(f"the log is no ring: a record at {index} ends behind it")
    return end, record.ts_nsec


def _record_at(ring: bytes, index: int) -> PrintkRecord:
    if index % RECORD_ALIGNMENT_BYTES or index + PRINTK_RECORD.size_bytes > len(ring):
        raise FormatError(f"the log is no ring: a record cannot be at {index}")
    return PRINTK_RECORD.unpack_from(ring, index)


def _has_room(variables: PrintkVariables, record_bytes: int) -> bool:
    first, following = variables.log_first_idx, variables.log_next_idx
    is_empty = variables.log_first_seq == variables.log_next_seq
    is_wrapped = following <= first and not is_empty
    free_bytes = first - following if is_wrapped else max(variables.log_buf_len - following, first)
    return free_bytes >= record_bytes + PRINTK_RECORD.size_bytes


def _record(level: int, ts_nsec: int, text: bytes) -> bytes:
    used_bytes = PRINTK_RECORD.size_bytes + len(text)
    size_bytes = used_bytes + -used_bytes % RECORD_ALIGNMENT_BYTES
    header = PrintkRecord(ts_nsec, size_bytes, len(text), 0, 0, level << 5 | FLAG_NEWLINE)
    return (PRINTK_RECORD.pack(header) + text).ljust(size_bytes, b"\0")
