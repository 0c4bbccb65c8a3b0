"""A lockless printk ring as bytes, by the rules of Linux 6.1's printk_ringbuffer.c. Imports nothing of the product.

Texts are laid one behind the other; one that would cross the end of the ring goes to its front; the oldest records give
way. Ids and positions begin below zero, as the kernel's do, so that both wrap around soon; here they go on growing.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

ID_MASK = (1 << 62) - 1
WORD_MASK = (1 << 64) - 1
RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
FAILED, EMPTY_LINE = 1, 3

HEAD_BYTES = 88
DESCRIPTOR_BYTES = 24
INFO_BYTES = 88
MEMBERS = {
    "printk_ringbuffer": (HEAD_BYTES, {"desc_ring": 0, "text_data_ring": 48, "fail": 80}),
    "prb_desc_ring": (48, {"count_bits": 0, "descs": 8, "infos": 16, "head_id": 24, "tail_id": 32}),
    "prb_desc": (DESCRIPTOR_BYTES, {"state_var": 0, "text_blk_lpos": 8}),
    "prb_data_blk_lpos": (16, {"begin": 0, "next": 8}),
    "printk_info": (INFO_BYTES, {"seq": 0, "ts_nsec": 8, "text_len": 16, "caller_id": 20, "dev_info": 24}),
    "prb_data_ring": (32, {"size_bits": 0, "data": 8, "head_lpos": 16, "tail_lpos": 24}),
    "atomic_long_t": (8, {"counter": 0}),
}


class Record(NamedTuple):
    record_id: int
    begin: int
    next: int
    time_ns: int
    text: bytes
    state: int


@dataclass
class LocklessRing:
    count_bits: int
    size_bits: int
    records: deque[Record] = field(default_factory=deque)
    head: int = 0
    head_id: int = 0
    sequence: int = 0

    def __post_init__(self) -> None:
        self.head_id = -(1 << self.count_bits) - 1 & ID_MASK
        self.head = -(1 << self.size_bits) & WORD_MASK
        self.data = bytearray(1 << self.size_bits)

    def add(self, time_ns: int, text: bytes, state: int = FINALIZED, lost: int = 0) -> None:
        """`lost` gives the logical positions of a record without text."""
        self.head_id = self.head_id + 1 & ID_MASK
        if len(self.records) == 1 << self.count_bits:
            self.records.popleft()
        begin, following = (lost, lost) if lost else self._place(text)
        self.records.append(Record(self.head_id, begin, following, time_ns, text, state))

    def _place(self, text: bytes) -> tuple[int, int]:
        ring_bytes = 1 << self.size_bits
        size = (8 + len(text) + 7) // 8 * 8
        begin, following = self.head, self.head + size
        at = begin % ring_bytes
        if begin // ring_bytes != following // ring_bytes:
            following = (following // ring_bytes) * ring_bytes + size
            at = 0
        while self.records and following - self._tail() > ring_bytes:
            self.records.popleft()
        self.data[at : at + size] = struct.pack("<Q", self.head_id) + text.ljust(size - 8, b"\0")
        self.head = following
        return begin, following

    def _tail(self) -> int:
        """Where the oldest text begins; a record without text holds nobody up."""
        return next((record.begin for record in self.records if not record.begin & 1), self.head)

    def texts(self) -> list[tuple[int, bytes]]:
        """What a reader has to find, as (time, text)."""
        said = (record for record in self.records if record.state in (COMMITTED, FINALIZED) and record.begin != FAILED)
        return [(record.time_ns, record.text) for record in said]

    def build(self, address: int) -> bytes:
        """A pointer to the ring, the ring, descriptors, infos and texts, for a virtual address."""
        slots = 1 << self.count_bits
        ring_at = address + 8
        descriptors_at = ring_at + HEAD_BYTES
        infos_at = descriptors_at + slots * DESCRIPTOR_BYTES
        texts_at = infos_at + slots * INFO_BYTES
        tail_id = self.records[0].record_id if self.records else self.head_id
        head = struct.pack("<IxxxxQQQQ8x", self.count_bits, descriptors_at, infos_at, self.head_id, tail_id)
        head += struct.pack("<IxxxxQQQ8x", self.size_bits, texts_at, self.head & WORD_MASK, self._tail() & WORD_MASK)
        descriptors, infos = self._slots(slots)
        return struct.pack("<Q", ring_at) + head + descriptors + infos + bytes(self.data)

    def _slots(self, slots: int) -> tuple[bytes, bytes]:
        descriptors, infos = bytearray(slots * DESCRIPTOR_BYTES), bytearray(slots * INFO_BYTES)
        for slot in range(slots):
            struct.pack_into("<QQQ", descriptors, slot * DESCRIPTOR_BYTES, REUSABLE << 62, FAILED, FAILED)
        for sequence, record in enumerate(self.records):
            slot = record.record_id % slots
            state = record.state << 62 | record.record_id
            places = record.begin & WORD_MASK, record.next & WORD_MASK
            struct.pack_into("<QQQ", descriptors, slot * DESCRIPTOR_BYTES, state, *places)
            struct.pack_into("<QQHBBI", infos, slot * INFO_BYTES, sequence, record.time_ns, len(record.text), 0, 0, 0)
        return bytes(descriptors), bytes(infos)


def vmcoreinfo(address: int) -> str:
    """The lines that describe a ring at a virtual address."""
    lines = [f"SYMBOL(prb)={address:x}"]
    for name, (size, offsets) in MEMBERS.items():
        lines.append(f"SIZE({name})={size}")
        lines += [f"OFFSET({name}.{member})={offset}" for member, offset in offsets.items()]
    return "".join(line + "\n" for line in lines)
