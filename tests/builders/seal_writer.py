"""Seals dumps for an X25519 key as docs/FORMAT.md says, with nothing random: the same words make the same bytes."""

from __future__ import annotations

import hashlib
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

PURPOSE = b"ghostdump: key of a sealed dump"
X25519 = 1
TAG_SIZE = 16
SEAL_SIZE = 64 + 72


def private_key(words: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(_secret(words, "private"))


def private_pem(words: str) -> bytes:
    return private_key(words).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class DumpSeal:
    """The key of one dump, and what every frame says of it. A seal like this protects nothing."""

    def __init__(self, words: str) -> None:
        recipient = private_key(words).public_key()
        ephemeral = X25519PrivateKey.from_private_bytes(_secret(words, "ephemeral"))
        public = ephemeral.public_key().public_bytes_raw()
        info = PURPOSE + public + recipient.public_bytes_raw()
        wrapping = HKDF(SHA256(), 32, None, info).derive(ephemeral.exchange(recipient))
        self._key = _secret(words, "dump")
        self._wrapped = public + aes_key_wrap(wrapping, self._key)
        spki = recipient.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = hashlib.sha256(spki).digest()

    def record(self, nonce: bytes, tag: bytes = bytes(TAG_SIZE)) -> bytes:
        """FrameSeal and the wrapped key."""
        seal = struct.pack("<16s12sHH32s", tag, nonce, X25519, len(self._wrapped), self.fingerprint)
        return seal + self._wrapped

    def encrypt(self, nonce: bytes, text: bytes, associated: bytes) -> tuple[bytes, bytes]:
        """Ciphertext and tag."""
        sealed = AESGCM(self._key).encrypt(nonce, text, associated)
        return sealed[:-TAG_SIZE], sealed[-TAG_SIZE:]


def nonce_of(sequence: int) -> bytes:
    """Of a frame; a dump header's is that of the sequence 0xFFFFFFFF."""
    return struct.pack("<IQ", sequence, sequence)


def _secret(words: str, use: str) -> bytes:
    return hashlib.sha256(f"{use} key of {words}".encode()).digest()
