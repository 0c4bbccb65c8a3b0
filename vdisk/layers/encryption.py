"""Encryption: every sector of a disk but those of a clear window goes down as ciphertext, and comes up as plain text.

A write is encrypted into a second buffer, which belongs to the thread; the caller's buffer is only read. What fails on
the way raises `EncryptionError`, and what was not encrypted is not written.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from vdisk import xts
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.imagefile import aligned_buffer
from vdisk.secret import Secret
from vdisk.xts import XtsCipher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from vdisk.extent import Run

SECOND_BUFFER_SIZE_BYTES = 1 << 20


class _SecondBuffer(threading.local):
    """One for each thread, made at its first use and kept; aligned, for direct I/O."""

    def __init__(self) -> None:
        self.view = memoryview(aligned_buffer(SECOND_BUFFER_SIZE_BYTES))
        self.view[:] = bytes(SECOND_BUFFER_SIZE_BYTES)


_second_buffer = _SecondBuffer()


class _Span(NamedTuple):
    """A part of the disk, in bytes, and whether it stands there in the clear."""

    start_bytes: int
    end_bytes: int
    is_clear: bool


class Encryption(Layer):
    """XTS over the whole disk, in which an offset gives the sector's number, but for one clear run."""

    def __init__(self, lower: BlockDevice, cipher: XtsCipher, clear: Run) -> None:
        super().__init__(lower)
        xts.self_test()
        self._cipher = cipher
        clear_end_bytes = clear.physical_bytes + clear.length_bytes
        self._spans = (
            _Span(0, clear.physical_bytes, is_clear=False),
            _Span(clear.physical_bytes, clear_end_bytes, is_clear=True),
            _Span(clear_end_bytes, lower.size_bytes, is_clear=False),
        )

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        self.lower.read_into(offset_bytes, view)
        for span in self._spans_of(offset_bytes, view.nbytes):
            if not span.is_clear:
                piece = view[span.start_bytes - offset_bytes : span.end_bytes - offset_bytes]
                self._cipher.decrypt(span.start_bytes // self.sector_size_bytes, piece, piece)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        for span in self._spans_of(offset_bytes, view.nbytes):
            piece = view[span.start_bytes - offset_bytes : span.end_bytes - offset_bytes]
            if span.is_clear:
                self.lower.write_from(span.start_bytes, piece)
            else:
                self._write_encrypted(span.start_bytes, piece)

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def _write_encrypted(self, offset_bytes: int, view: memoryview) -> None:
        for start_bytes in range(0, view.nbytes, SECOND_BUFFER_SIZE_BYTES):
            plain = view[start_bytes : start_bytes + SECOND_BUFFER_SIZE_BYTES]
            encrypted = _second_buffer.view[: plain.nbytes]
            self._cipher.encrypt((offset_bytes + start_bytes) // self.sector_size_bytes, plain, encrypted)
            self.lower.write_from(offset_bytes + start_bytes, encrypted)

    def _spans_of(self, offset_bytes: int, length_bytes: int) -> Iterator[_Span]:
        """The request, cut where clear and encrypted parts of the disk meet."""
        for span in self._spans:
            start_bytes = max(span.start_bytes, offset_bytes)
            end_bytes = min(span.end_bytes, offset_bytes + length_bytes)
            if start_bytes < end_bytes:
                yield span._replace(start_bytes=start_bytes, end_bytes=end_bytes)


def set_aside() -> None:
    """Make and load all that this thread needs to encrypt, and touch every page of it. Raises `EncryptionError`."""
    xts.self_test()
    XtsCipher(Secret(xts.VECTOR_KEY)).encrypt(0, _second_buffer.view, _second_buffer.view)
