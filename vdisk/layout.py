"""On-disk records as tables: one declaration gives the bytes, the record and the rows of docs/FORMAT.md.

All integers are little-endian and unsigned; records are packed, without padding that is not declared. A record is a
NamedTuple whose fields carry their `struct` code:

    class Point(NamedTuple):
        x: Annotated[int, "I"]
        y: Annotated[int, "I"]

    POINT = Layout(Point, size_bytes=8)
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, get_args, get_type_hints

import crc32c

from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

Record = TypeVar("Record", bound=tuple[Any, ...])


class Field(NamedTuple):
    """One row of a format table."""

    offset_bytes: int
    size_bytes: int
    name: str
    code: str


class Layout(Generic[Record]):
    """The bytes of one kind of record. `size_bytes` is stated, not derived: a slip in a field is then an error."""

    def __init__(self, record: type[Record], size_bytes: int) -> None:
        hints = get_type_hints(record, include_extras=True)
        self.record = record
        self.fields: tuple[Field, ...] = ()
        offset_bytes = 0
        for name, hint in hints.items():
            code = get_args(hint)[1]
            field = Field(offset_bytes, struct.calcsize("<" + code), name, code)
            self.fields += (field,)
            offset_bytes += field.size_bytes
        self._struct = struct.Struct("<" + "".join(field.code for field in self.fields))
        self.size_bytes = size_bytes
        assert self._struct.size == size_bytes, f"{record.__name__} has {self._struct.size} bytes, not {size_bytes}"

    def field(self, name: str) -> Field:
        """Where a field lies, for what is filled in later."""
        return next(field for field in self.fields if field.name == name)

    def pack(self, record: Record) -> bytes:
        return self._struct.pack(*record)

    def pack_into(self, buffer: Buffer, offset_bytes: int, record: Record) -> None:
        self._struct.pack_into(buffer, offset_bytes, *record)

    def unpack_from(self, buffer: Buffer, offset_bytes: int = 0) -> Record:
        """Raises `FormatError` where the buffer is too short to hold the record."""
        try:
            return self.record(*self._struct.unpack_from(buffer, offset_bytes))
        except struct.error:
            raise FormatError(f"{self.record.__name__}: fewer than {self.size_bytes} bytes are there") from None

    def pack_table(self, records: Sequence[Record]) -> bytes:
        """Records one behind the other."""
        return b"".join(map(self.pack, records))

    def unpack_table(self, buffer: Buffer, offset_bytes: int, count: int) -> list[Record]:
        """Raises `FormatError` where the buffer is too short to hold `count` records."""
        end_bytes = offset_bytes + count * self.size_bytes
        view = memoryview(buffer).cast("B")
        if count < 0 or offset_bytes < 0 or end_bytes > view.nbytes:
            raise FormatError(f"{count} records of {self.record.__name__} do not fit in {view.nbytes} bytes")
        return [self.record(*row) for row in self._struct.iter_unpack(view[offset_bytes:end_bytes])]


def seal(content: bytes, size_bytes: int) -> bytes:
    """Pad to `size_bytes` with zeros, the CRC32C of all that stands before it in the last four bytes."""
    assert len(content) <= size_bytes - 4
    body = content.ljust(size_bytes - 4, b"\0")
    return body + struct.pack("<I", crc32c.crc32c(body))


def unseal(sealed: bytes) -> bytes:
    """The content (with its padding) of what `seal` made. Raises `FormatError` where the checksum does not hold."""
    body = sealed[:-4]
    if len(sealed) < 4 or crc32c.crc32c(body) != struct.unpack("<I", sealed[-4:])[0]:
        raise FormatError("checksum does not hold")
    return body
