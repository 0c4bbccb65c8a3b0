"""A reader of sealed dumps, written from docs/FORMAT.md alone, as `region_reader` is."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

BLOCK = 4096
PURPOSE = b"ghostdump: key of a sealed dump"


class SealReader:
    """What the frames of one sealed dump carry: those that open under the key of the first one that opens."""

    def __init__(self, private_key: X25519PrivateKey | RSAPrivateKey) -> None:
        self._private_key = private_key
        self._key: bytes | None = None

    def payload_of(self, slot: bytes) -> bytes | None:
        key = self._unwrap(slot) if _u32(slot, 68) else None
        if key is None or self._key not in (None, key):
            return None
        payload = _open(key, slot)
        self._key = self._key if payload is None else key
        return payload

    def pages_of_file(self, content: bytes) -> dict[int, bytes]:
        """The pages in a dump.sealed, read from its beginning to its end."""
        pages, position = {}, 0
        while position < len(content):
            piece = content[position : position + 65 * BLOCK]
            payload = self.payload_of(piece) if piece[:8] == b"GHOSTFR\0" else None
            position += BLOCK
            if payload is None:
                continue
            position += len(payload)
            for index, page in enumerate(_page_numbers(piece)):
                pages[page] = payload[index * BLOCK : (index + 1) * BLOCK] or bytes(BLOCK)
        return pages

    def _unwrap(self, slot: bytes) -> bytes | None:
        start = _seal_offset(slot)
        wrapped = slot[start + 64 : start + 64 + _u16(slot, start + 30)]
        try:
            if isinstance(self._private_key, RSAPrivateKey):
                return self._private_key.decrypt(wrapped, OAEP(MGF1(SHA256()), SHA256(), PURPOSE))
            shared = self._private_key.exchange(X25519PublicKey.from_public_bytes(wrapped[:32]))
            info = PURPOSE + wrapped[:32] + self._private_key.public_key().public_bytes_raw()
            return aes_key_unwrap(HKDF(SHA256(), 32, None, info).derive(shared), wrapped[32:])
        except (ValueError, InvalidUnwrap):
            return None


def _open(key: bytes, slot: bytes) -> bytes | None:
    start = _seal_offset(slot)
    tag, nonce = slot[start : start + 16], slot[start + 16 : start + 28]
    associated = bytearray(slot[:BLOCK])
    for first, end in ((60, 64), (72, 104), (start, start + 16), (BLOCK - 4, BLOCK)):
        associated[first:end] = bytes(end - first)
    try:
        return AESGCM(key).decrypt(nonce, slot[BLOCK : BLOCK + _u32(slot, 56)] + tag, bytes(associated))
    except InvalidTag:
        return None


def _page_numbers(slot: bytes) -> list[int]:
    start = 104 + 16 * _u16(slot, 64)
    numbers: list[int] = []
    for index in range(_u16(slot, 66)):
        first = int.from_bytes(slot[start + 16 * index : start + 16 * index + 8], "little")
        count = int.from_bytes(slot[start + 16 * index + 8 : start + 16 * index + 16], "little")
        numbers += range(first, first + count)
    return numbers


def _seal_offset(slot: bytes) -> int:
    """Behind header, places and runs."""
    return 104 + 16 * _u16(slot, 64) + 16 * _u16(slot, 66)


def _u16(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 2], "little")


def _u32(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 4], "little")
