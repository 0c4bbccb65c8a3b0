"""The log ring of Linux from 5.10 on: descriptors, infos beside them, and a ring of texts that descriptors point into.

Source: Linux 6.1, kernel/printk/printk_ringbuffer.[ch]. A descriptor's state says whether its record was committed; its
logical positions grow for ever, and modulo the size of the ring say where the text is. A text that would cross the end
of the ring stands at its front instead. No two texts share a byte of the ring, so all of them together are no longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.linux.area import Area, unsigned
from dumpwriter.linux.log_record import LogRecord
from vdisk.errors import FormatError, PageMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.linux.address_space import AddressSpace
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

COUNT_BITS_MAX = 22
SIZE_BITS_MAX = 27
"""128 MiB: Linux has a record for each 32 bytes of text."""
STRUCTURE_BYTES_MAX = 1024

_ID_MASK = (1 << 62) - 1
_POSITION_MASK = (1 << 64) - 1
_STATE_SHIFT = 62
_COMMITTED, _FINALIZED = 1, 2
_EMPTY_LINE = 3  # a logical position of no text; that of a text which was lost is 1
_DESCRIPTOR_ID_BYTES = 8


class _Structure(NamedTuple):
    """A structure of the ring: its size, and where in it VMCOREINFO has a member."""

    name: str
    size_bytes: int
    offsets: dict[str, int]

    def member(self, content: bytes, name: str, size_bytes: int = 8) -> int:
        return unsigned(content, self.offsets[f"{self.name}.{name}"], size_bytes)


class _Ring(NamedTuple):
    """All that is needed to find a record by its id."""

    slots: int
    descriptor: _Structure
    descriptors: Area
    state_offset: int
    position: _Structure
    info: _Structure
    infos: Area
    texts: Area

    def record(self, record_id: int) -> LogRecord | None:
        """None where nothing was committed under the id, or its text was lost before the crash."""
        place = record_id % self.slots
        descriptor = self.descriptors.read(place * self.descriptor.size_bytes, self.descriptor.size_bytes)
        state = unsigned(descriptor, self.state_offset, 8)
        if state & _ID_MASK != record_id or state >> _STATE_SHIFT not in (_COMMITTED, _FINALIZED):
            return None
        info = self.infos.read(place * self.info.size_bytes, self.info.size_bytes)
        text = self._text(descriptor, self.info.member(info, "text_len", 2))
        return None if text is None else LogRecord(self.info.member(info, "ts_nsec"), text)

    def _text(self, descriptor: bytes, text_bytes: int) -> bytes | None:
        block = self.descriptor.offsets["prb_desc.text_blk_lpos"]
        begin, following = (
            unsigned(descriptor, block + self.position.offsets[f"prb_data_blk_lpos.{name}"], 8)
            for name in ("begin", "next")
        )
        if begin & 1 or begin == following:
            return b"" if begin == following == _EMPTY_LINE else None
        size_bytes = self.texts.length_bytes
        last = following - 1 & _POSITION_MASK
        start = begin % size_bytes if begin // size_bytes == last // size_bytes else 0
        end = last % size_bytes + 1
        room_bytes = end - start - _DESCRIPTOR_ID_BYTES
        if room_bytes < 0:
            raise FormatError(f"the log ring is damaged: a text from {begin} to {following}")
        return self.texts.read(start + _DESCRIPTOR_ID_BYTES, min(text_bytes, room_bytes))


def read_lockless_log(space: AddressSpace, info: Vmcoreinfo) -> Iterator[LogRecord]:
    """Records from the oldest on. Raises `FormatError` at the end where some of them are not in the dump."""
    outer, descriptors, texts = (
        _structure(info, name) for name in ("printk_ringbuffer", "prb_desc_ring", "prb_data_ring")
    )
    content = space.read(space.read_word(info.symbols["prb"]), outer.size_bytes)
    descriptor_ring = content[max(info.offsets["printk_ringbuffer.desc_ring"], 0) :]
    text_ring = content[max(info.offsets["printk_ringbuffer.text_data_ring"], 0) :]
    counter = info.offsets["atomic_long_t.counter"]
    count = 1 << _bits(descriptors.member(descriptor_ring, "count_bits", 4), COUNT_BITS_MAX)
    text_bytes = 1 << _bits(texts.member(text_ring, "size_bits", 4), SIZE_BITS_MAX)
    descriptor, record = _structure(info, "prb_desc"), _structure(info, "printk_info")
    ring = _Ring(
        count,
        descriptor,
        Area(space, descriptors.member(descriptor_ring, "descs"), count * descriptor.size_bytes),
        info.offsets["prb_desc.state_var"] + counter,
        _structure(info, "prb_data_blk_lpos"),
        record,
        Area(space, descriptors.member(descriptor_ring, "infos"), count * record.size_bytes),
        Area(space, texts.member(text_ring, "data"), text_bytes),
    )
    tail, head = (
        unsigned(descriptor_ring, info.offsets[f"prb_desc_ring.{name}"] + counter, 8) & _ID_MASK
        for name in ("tail_id", "head_id")
    )
    return _records(ring, tail, head)


def _records(ring: _Ring, tail: int, head: int) -> Iterator[LogRecord]:
    last = head - tail & _ID_MASK
    if last >= ring.slots:
        raise FormatError(f"the log ring is damaged: records {tail} to {head} are more than {ring.slots}")
    missing, reason = 0, ""
    room_bytes = ring.texts.length_bytes
    for step in range(last + 1):
        try:
            record = ring.record(tail + step & _ID_MASK)
        except PageMissingError as error:
            missing, reason = missing + 1, str(error)
            continue
        if record is None:
            continue
        room_bytes -= len(record.text)
        if room_bytes < 0:
            raise FormatError(f"the log ring is damaged: its texts are longer than its {ring.texts.length_bytes} bytes")
        yield record
    if missing:
        raise PageMissingError(f"{missing} of {last + 1} records of the log are not in the dump: {reason}")


def _structure(info: Vmcoreinfo, name: str) -> _Structure:
    size_bytes = info.sizes[name]
    if not 0 < size_bytes <= STRUCTURE_BYTES_MAX:
        raise FormatError(f"VMCOREINFO has a {name} of {size_bytes} bytes")
    return _Structure(name, size_bytes, info.offsets)


def _bits(bits: int, maximum: int) -> int:
    if bits > maximum:
        raise FormatError(f"the log ring is damaged: a size of 2**{bits}")
    return bits
