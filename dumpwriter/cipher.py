"""Sealed dumps: frames under AES-256-GCM, in place, with one key that lives as long as one arming. Pure.

What is sealed is a frame's payload; its header block stays readable and is the associated data, so that no field of it
can be changed. Checksum and digest are made afterwards, over what goes to the disk: a sealed frame is checked without
the key. Only the wrapped key is written, into every frame: whatever frame survives can be opened.

A nonce is the frame's sequence and eight bytes that are drawn anew for every sealing. Two frames never share one, and
where the same frame is sealed again (a write that is tried again, a second standby that took over) the drawn part
differs: no agreement between standbys is needed, nor that memory reads the same twice.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from dumpwriter.formats.region import DUMP_HEADER, FRAME_HEADER, FRAME_SEAL, FrameSeal
from dumpwriter.frames import associated_data
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import EncryptionError

if TYPE_CHECKING:
    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import Frame
    from dumpwriter.sealing import DumpSeal
    from vdisk.secret import Secret

TAG_SIZE_BYTES = FRAME_SEAL.field("tag").size_bytes
NONCE_SIZE_BYTES = FRAME_SEAL.field("nonce").size_bytes
HEADER_SEQUENCE = 0xFFFF_FFFF  # no frame has it: a region has fewer slots


class GcmSealer:
    """A dump for the owner of one private key. Used by all threads at once."""

    def __init__(self, seal: DumpSeal) -> None:
        self._seal = seal
        self.record_size_bytes = FRAME_SEAL.size_bytes + len(seal.wrapped)
        self._cipher = DumpCipher(seal.key)
        self._rehearse()

    def seal_frame(self, block: memoryview, record_offset_bytes: int, payload: memoryview, sequence: int) -> None:
        seal, nonce = self._seal, new_nonce(sequence)
        record = FrameSeal(bytes(TAG_SIZE_BYTES), nonce, seal.algorithm, len(seal.wrapped), seal.fingerprint)
        end_bytes = record_offset_bytes + self.record_size_bytes
        block[record_offset_bytes:end_bytes] = FRAME_SEAL.pack(record) + seal.wrapped
        tag = self._cipher.seal(nonce, block, payload)
        FRAME_SEAL.pack_into(block, record_offset_bytes, record._replace(tag=tag))

    def seal_header(self, header: DumpHeader) -> DumpHeader:
        nonce = new_nonce(HEADER_SEQUENCE)
        named = header._replace(seal_fingerprint=self._seal.fingerprint, seal_nonce=nonce)
        tag = self._cipher.seal(nonce, header_associated_data(named), memoryview(bytearray()))
        return named._replace(seal_tag=tag)

    def _rehearse(self) -> None:
        """The cipher loads what it needs from files at its first use: before a dump, when files can be opened."""
        block = memoryview(bytearray(2 * BLOCK_SIZE_BYTES))
        self.seal_frame(block[:BLOCK_SIZE_BYTES], FRAME_HEADER.size_bytes, block[BLOCK_SIZE_BYTES:], HEADER_SEQUENCE)


class DumpCipher:
    """AES-256-GCM in place: the text is as long sealed as open, and no buffer is made for it."""

    def __init__(self, key: Secret) -> None:
        self._key = AES256(key)

    def seal(self, nonce: bytes, associated: bytes | memoryview, text: memoryview) -> bytes:
        """The tag of what stands in `text` afterwards. Raises `EncryptionError`."""
        try:
            encryptor = Cipher(self._key, GCM(nonce)).encryptor()
            encryptor.authenticate_additional_data(associated)
            done_bytes = encryptor.update_into(text, text)
            encryptor.finalize()
            tag: bytes = encryptor.tag
        except Exception as failure:  # whatever a cipher fails with, nothing goes out in the clear
            raise EncryptionError(f"the cipher failed, and nothing is written unsealed: {failure!r}") from None
        if done_bytes != text.nbytes:
            raise EncryptionError("the cipher stopped half-way, and nothing is written unsealed")
        return tag

    def open(self, nonce: bytes, associated: bytes | memoryview, text: memoryview, tag: bytes) -> bool:
        """False where it is not what was sealed; the text is then worth nothing."""
        decryptor = Cipher(self._key, GCM(nonce, tag)).decryptor()
        decryptor.authenticate_additional_data(associated)
        decryptor.update_into(text, text)
        try:
            decryptor.finalize()
        except InvalidTag:
            return False
        return True


def open_frame(cipher: DumpCipher, frame: Frame, slot: memoryview) -> bool:
    """Open a sealed frame in place; False where it is not, bit for bit, what was sealed under this key."""
    assert frame.seal is not None
    payload = slot[BLOCK_SIZE_BYTES : frame.size_bytes]
    record = frame.seal.record
    return cipher.open(record.nonce, associated_data(slot, frame), payload, record.tag)


def header_is_true(cipher: DumpCipher, header: DumpHeader) -> bool:
    """Whether the header was sealed under this key."""
    nothing = memoryview(bytearray())
    return cipher.open(header.seal_nonce, header_associated_data(header), nothing, header.seal_tag)


def new_nonce(sequence: int) -> bytes:
    return sequence.to_bytes(4, "little") + os.urandom(NONCE_SIZE_BYTES - 4)


def header_associated_data(header: DumpHeader) -> bytes:
    """The record as it is sealed: without what is known only afterwards."""
    return DUMP_HEADER.pack(header._replace(seal_tag=bytes(TAG_SIZE_BYTES), digest=bytes(32)))
