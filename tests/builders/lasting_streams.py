"""Pages, and compressed streams of them that last: they are made by hand, so no library's next version changes them.

A page that shrinks begins with any bytes and ends in one that repeats. Each stream says the beginning as it is and then
one byte so many times over. Sources: RFC 1950 and 1951 (zlib), RFC 8878 (zstd), the LZO stream format as Linux
documents it in Documentation/staging/lzo.rst.
"""

from __future__ import annotations

import hashlib
import zlib

PAGE = 4096
ZLIB, LZO, ZSTD = 1, 2, 0x20
HEAD_MAXIMUM = 238  # what LZO's first instruction can carry
LONGEST_COPY = 258  # in deflate
END_OF_BLOCK = 256


def text_page(number: int) -> bytes:
    return (b"page %d of a golden dump, " % number).ljust(PAGE, b".")


def noise_page(number: int) -> bytes:
    return hashlib.shake_256(b"page %d of a golden dump" % number).digest(PAGE)


def zero_page(_: int) -> bytes:
    return bytes(PAGE)


def lasting_stream(page: bytes, kind: int) -> bytes:
    """A page as one kind of stream; the page itself where it does not end in one byte that repeats."""
    head = page.rstrip(page[-1:])
    head = page[: max(len(head) + 1, 4)]
    if len(head) > HEAD_MAXIMUM:
        return page
    return {ZLIB: _zlib, LZO: _lzo, ZSTD: _zstd}[kind](head, PAGE - len(head))


def _zlib(head: bytes, repeats: int) -> bytes:
    """One block with the fixed code: literals, copies of 258 bytes from one byte back, literals."""
    copies, left_over = divmod(repeats, LONGEST_COPY)
    tail = head[-1:] * left_over
    bits = "110"  # the last block; fixed code, its lower bit first
    bits += "".join(_literal(byte) for byte in head)
    bits += (f"{0xC0 + 285 - 280:08b}" + "00000") * copies
    bits += "".join(_literal(byte) for byte in tail)
    bits += f"{END_OF_BLOCK - 256:07b}"
    page = head + head[-1:] * repeats
    return b"\x78\x01" + _packed(bits) + zlib.adler32(page).to_bytes(4, "big")


def _literal(byte: int) -> str:
    return f"{0x30 + byte:08b}" if byte < 144 else f"{0x190 + byte - 144:09b}"


def _packed(bits: str) -> bytes:
    """Bits in the order of the stream; each byte is filled from its lowest bit up."""
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))


def _lzo(head: bytes, repeats: int) -> bytes:
    """One run of literals, one copy from one byte back, the end."""
    zeros, last = divmod(repeats - 33 - 1, 255)
    copy = b"\x20" + bytes(zeros) + bytes([last + 1]) + b"\0\0"
    return bytes([17 + len(head)]) + head + copy + b"\x11\0\0"


def _zstd(head: bytes, repeats: int) -> bytes:
    """One segment of a known size without a checksum: a raw block, then a block of one byte."""
    frame_header = b"\x28\xb5\x2f\xfd" + b"\x60" + (PAGE - 256).to_bytes(2, "little")
    raw = (len(head) << 3).to_bytes(3, "little") + head
    return frame_header + raw + (repeats << 3 | 1 << 1 | 1).to_bytes(3, "little") + head[-1:]
