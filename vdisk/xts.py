"""XTS-AES-256 over whole buffers: IEEE Std 1619, a data unit of 512 bytes, the tweak the number of the sector.

The library takes one data unit a call, and a call costs more than 512 bytes of AES. So XTS is put together here from
what the library does at full speed and from what numpy does to whole arrays:

    tweaks      all sector numbers in one call of AES-ECB; block j of a sector has that, multiplied by alpha to the j
    data        XOR the tweaks, one call of AES-ECB, XOR the tweaks

Each thread has a workspace of its own, which is made at its first use and kept. Both ECB and the arithmetic let other
threads run meanwhile.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vdisk.blockdevice import SECTOR_SIZE_BYTES
from vdisk.errors import EncryptionError
from vdisk.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.ciphers import CipherContext
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint64]

KEY_SIZE_BYTES = 64  # two keys of AES-256: one for the data, one for the tweaks
AES_BLOCK_SIZE_BYTES = 16
SECTOR_BLOCKS = SECTOR_SIZE_BYTES // AES_BLOCK_SIZE_BYTES
SECTOR_WORDS = SECTOR_SIZE_BYTES // 8
CHUNK_SECTORS = 512  # a workspace that stays in the processor's cache
SPARE_BYTES = AES_BLOCK_SIZE_BYTES - 1  # the library wants so much behind what it fills
WORD = numpy.dtype("<u8")
# One row for each sector of a chunk: two arrays of one shape go through numpy's loops three times as fast as one that
# has to be broadcast.
EXPONENTS = numpy.tile(numpy.arange(SECTOR_BLOCKS, dtype=WORD), (CHUNK_SECTORS, 1))
LEAVING_SHIFTS = 64 - EXPONENTS  # what a shift to the left pushes out of a word; numpy shifts by 64 to zero
REDUCTION_SHIFTS = tuple(map(numpy.uint64, (1, 2, 7)))  # x^128 is x^7 + x^2 + x + 1

# IEEE Std 1619-2007, annex B, vector 10: XTS-AES-256, data unit 0xff, the bytes 0 to 255 twice.
VECTOR_KEY = bytes.fromhex(
    "2718281828459045235360287471352662497757247093699959574966967627"
    "3141592653589793238462643383279502884197169399375105820974944592"
)
VECTOR_SECTOR = 0xFF
VECTOR_PLAIN = bytes(range(256)) * 2
VECTOR_CIPHER_START = bytes.fromhex("1c3b3a102f770386e4836c99e370cf9b")
VECTOR_CIPHER_END = bytes.fromhex("c4f36ffda9fcea70b9c6e693e148c151")


class _Workspace(threading.local):
    """Room for one chunk, for one thread."""

    def __init__(self) -> None:
        self.numbers: Words = numpy.zeros((CHUNK_SECTORS, 2), WORD)
        self.first = bytearray(CHUNK_SECTORS * AES_BLOCK_SIZE_BYTES + SPARE_BYTES)
        self.spread: Words = numpy.zeros((CHUNK_SECTORS, SECTOR_BLOCKS), WORD)
        self.leaving: Words = numpy.zeros((CHUNK_SECTORS, SECTOR_BLOCKS), WORD)
        self.shifted: Words = numpy.zeros((CHUNK_SECTORS, SECTOR_BLOCKS), WORD)
        self.low: Words = numpy.zeros((CHUNK_SECTORS, SECTOR_BLOCKS), WORD)
        self.high: Words = numpy.zeros((CHUNK_SECTORS, SECTOR_BLOCKS), WORD)
        self.tweaks: Words = numpy.zeros((CHUNK_SECTORS, SECTOR_BLOCKS, 2), WORD)
        self.whitened: Words = numpy.zeros((CHUNK_SECTORS, SECTOR_WORDS), WORD)
        self.output = bytearray(CHUNK_SECTORS * SECTOR_SIZE_BYTES + SPARE_BYTES)


class _Contexts(threading.local):
    """The library's contexts, which must not be used by two threads at once. ECB keeps no state between calls."""

    def __init__(self, key: Secret) -> None:
        data = Cipher(algorithms.AES256(key[:32]), modes.ECB())  # noqa: S305 - the kernel of XTS
        tweak = Cipher(algorithms.AES256(key[32:]), modes.ECB())  # noqa: S305
        self.encrypt: CipherContext = data.encryptor()
        self.decrypt: CipherContext = data.decryptor()
        self.tweak: CipherContext = tweak.encryptor()


_workspace = _Workspace()


class XtsCipher:
    """One volume's cipher. Buffers are whole sectors, contiguous; source and target may be the same.

    Raises `EncryptionError` where the library fails. The target of an `encrypt` never holds anything but ciphertext.
    """

    def __init__(self, key: Secret) -> None:
        if len(key) != KEY_SIZE_BYTES or key[:32] == key[32:]:
            raise EncryptionError("a volume key is 64 bytes whose halves differ")
        self._contexts = _Contexts(key)

    def encrypt(self, first_sector: int, source: memoryview, target: memoryview) -> None:
        for sector, plain, cipher in _chunks(first_sector, source, target):
            self._transform(self._contexts.encrypt, sector, plain, cipher)

    def decrypt(self, first_sector: int, source: memoryview, target: memoryview) -> None:
        """A sector of zeros was never written, or was discarded: no data gives such ciphertext. It stays zeros."""
        for sector, cipher, plain in _chunks(first_sector, source, target):
            blank = _blank_rows(cipher)
            if blank.size < len(cipher):
                self._transform(self._contexts.decrypt, sector, cipher, plain)
            if blank.size:
                plain[blank] = 0

    def _transform(self, context: CipherContext, first_sector: int, source: Words, target: Words) -> None:
        count = len(source)
        whitened, output = _workspace.whitened[:count], _workspace.output
        try:
            tweaks = self._tweaks(first_sector, count)
            numpy.bitwise_xor(source, tweaks, out=whitened)
            done_bytes = context.update_into(whitened.data.cast("B"), output)
        except Exception as failure:
            raise EncryptionError(f"the cipher failed: {failure!r}") from None
        if done_bytes != count * SECTOR_SIZE_BYTES:
            raise EncryptionError(f"the cipher gave {done_bytes} bytes for {count} sectors")
        transformed = numpy.frombuffer(output, WORD, count * SECTOR_WORDS).reshape(count, SECTOR_WORDS)
        numpy.bitwise_xor(transformed, tweaks, out=target)

    def _tweaks(self, first_sector: int, count: int) -> Words:
        """For each sector the 32 tweaks of its blocks, as its words stand: low half, high half.

        The product with alpha to the j is a shift by j; the bits that leave at the top come back as their multiple of
        the reduction polynomial. For j below 32 that fits in the low half, in one step.
        """
        work = _workspace
        work.numbers[:count, 0] = numpy.arange(first_sector, first_sector + count, dtype=WORD)
        self._contexts.tweak.update_into(work.numbers[:count].data.cast("B"), work.first)
        first = numpy.frombuffer(work.first, WORD, count * 2).reshape(count, 2)
        spread, leaving, shifted = work.spread[:count], work.leaving[:count], work.shifted[:count]
        low, high, tweaks = work.low[:count], work.high[:count], work.tweaks[:count]
        exponents, leaving_shifts = EXPONENTS[:count], LEAVING_SHIFTS[:count]

        numpy.copyto(spread, first[:, 1:2])
        numpy.left_shift(spread, exponents, out=high)
        numpy.right_shift(spread, leaving_shifts, out=leaving)
        numpy.copyto(spread, first[:, 0:1])
        numpy.left_shift(spread, exponents, out=low)
        numpy.bitwise_xor(low, leaving, out=low)
        for shift in REDUCTION_SHIFTS:
            numpy.left_shift(leaving, shift, out=shifted)
            numpy.bitwise_xor(low, shifted, out=low)
        numpy.right_shift(spread, leaving_shifts, out=leaving)
        numpy.bitwise_or(high, leaving, out=tweaks[:, :, 1])
        tweaks[:, :, 0] = low
        return tweaks.reshape(count, SECTOR_WORDS)


def self_test() -> None:
    """Encrypt and decrypt what the standard has an answer for: a cipher that is broken must be found before it is used.

    It also makes the workspace of this thread, and lets OpenSSL load what it loads lazily.
    Raises `EncryptionError`.
    """
    cipher = XtsCipher(Secret(VECTOR_KEY))
    buffer = memoryview(bytearray(SECTOR_SIZE_BYTES))
    cipher.encrypt(VECTOR_SECTOR, memoryview(VECTOR_PLAIN), buffer)
    is_right = bytes(buffer[:16]) == VECTOR_CIPHER_START and bytes(buffer[-16:]) == VECTOR_CIPHER_END
    cipher.decrypt(VECTOR_SECTOR, buffer, buffer)
    if not is_right or bytes(buffer) != VECTOR_PLAIN:
        raise EncryptionError("the cipher does not give what IEEE 1619 says")


def _chunks(first_sector: int, source: memoryview, target: memoryview) -> Iterator[tuple[int, Words, Words]]:
    """Both buffers as rows of sectors, a workspace at a time, each with the number of its first sector."""
    sectors = source.nbytes // SECTOR_SIZE_BYTES
    from_words = numpy.frombuffer(source, WORD).reshape(sectors, SECTOR_WORDS)
    to_words = numpy.frombuffer(target, WORD).reshape(sectors, SECTOR_WORDS)
    for start in range(0, sectors, CHUNK_SECTORS):
        rows = slice(start, start + CHUNK_SECTORS)
        yield first_sector + start, from_words[rows], to_words[rows]


def _blank_rows(words: Words) -> NDArray[numpy.intp]:
    """The numbers of rows that are all zero. Few begin with a zero by chance, so few are looked at whole."""
    suspects = numpy.flatnonzero(words[:, 0] == 0)
    return suspects[numpy.bitwise_or.reduce(words[suspects], axis=1) == 0] if suspects.size else suspects
