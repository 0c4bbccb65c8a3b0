"""Keys for sealed dumps: a public key at arming, the private key when the dump is opened.

The dump's own key, 256 random bits made at arming, is wrapped for the public key. For X25519: a key pair made for this
dump alone, the shared secret through HKDF-SHA256, AES key wrap (RFC 3394). For RSA: OAEP with SHA-256 (RFC 8017).
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dumpwriter.formats.region import SealAlgorithm
from dumpwriter.sealing import DumpSeal
from vdisk.errors import KeyFileError, UsageError
from vdisk.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_SIZE_BYTES = 32
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 4096
KEY_FILE_SIZE_BYTES_MAX = 1 << 20
PURPOSE = b"ghostdump: key of a sealed dump"
MAKE_A_KEY = (
    "make one with openssl genpkey -algorithm X25519 -out PRIVATE.pem, and openssl pkey -pubout for the public one"
)

PublicKey = X25519PublicKey | RSAPublicKey
PrivateKey = X25519PrivateKey | RSAPrivateKey


def load_public_key(path: str) -> PublicKey:
    """Raises `KeyFileError` where the file holds no public key that a dump can be sealed for.

    And `UsageError` where it cannot be read.
    """
    content = _read(path)
    if b"PRIVATE KEY-----" in content:
        raise KeyFileError(f"{path} holds a private key: keep it off this machine, and give the public one")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} holds no public key in PEM form: {MAKE_A_KEY}") from None
    if isinstance(key, RSAPublicKey | X25519PublicKey):
        _check(path, key)
        return key
    raise KeyFileError(f"{path} holds a key that is neither X25519 nor RSA: {MAKE_A_KEY}")


def load_private_key(path: str, ask_passphrase: Callable[[], bytes]) -> PrivateKey:
    """Raises `KeyFileError` where the file holds no private key for dumps, or its passphrase is another one.

    And `UsageError` where it cannot be read.
    """
    content = _read(path)
    if b"PUBLIC KEY-----" in content:
        raise KeyFileError(f"{path} holds a public key: what was sealed for it is opened by its private key")
    passphrase = ask_passphrase() if b"ENCRYPTED" in content else None
    try:
        key = load_pem_private_key(content, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if passphrase is not None:
            raise KeyFileError(f"{path}: the passphrase does not open this private key") from None
        raise KeyFileError(f"{path} holds no private key in PEM form") from None
    if isinstance(key, RSAPrivateKey | X25519PrivateKey):
        return key
    raise KeyFileError(f"{path} holds a private key that is neither X25519 nor RSA")


def fingerprint(key: PublicKey) -> bytes:
    """SHA-256 of the key as a DER SubjectPublicKeyInfo, as `openssl pkey -pubin -outform DER | sha256sum` prints it."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def new_seal(public_key: PublicKey) -> DumpSeal:
    """A key for one dump, and the same wrapped: what only the private key turns back."""
    key = Secret(os.urandom(KEY_SIZE_BYTES))
    if isinstance(public_key, RSAPublicKey):
        return DumpSeal(key, SealAlgorithm.RSA, fingerprint(public_key), public_key.encrypt(key, _padding()))
    ephemeral = X25519PrivateKey.generate()
    sender = ephemeral.public_key().public_bytes_raw()
    wrapping = _wrapping_key(ephemeral.exchange(public_key), sender, public_key)
    return DumpSeal(key, SealAlgorithm.X25519, fingerprint(public_key), sender + aes_key_wrap(wrapping, key))


def unwrap(private_key: PrivateKey, wrapped: bytes) -> Secret | None:
    """The key of a dump; None where it was not wrapped for this private key, or is damaged."""
    try:
        if isinstance(private_key, RSAPrivateKey):
            key = private_key.decrypt(wrapped, _padding())
        else:
            sender, content = wrapped[:KEY_SIZE_BYTES], wrapped[KEY_SIZE_BYTES:]
            shared = private_key.exchange(X25519PublicKey.from_public_bytes(sender))
            key = aes_key_unwrap(_wrapping_key(shared, sender, private_key.public_key()), content)
    except (ValueError, InvalidUnwrap):
        return None
    return Secret(key) if len(key) == KEY_SIZE_BYTES else None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read(KEY_FILE_SIZE_BYTES_MAX) or b""
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}") from None


def _check(path: str, key: PublicKey) -> None:
    if isinstance(key, RSAPublicKey) and not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        raise KeyFileError(f"{path} holds an RSA key of {key.key_size} bits: take one of 2048 to 4096 bits")
    try:
        new_seal(key)
    except ValueError:
        raise KeyFileError(f"{path} holds a key that nothing can be sealed for: {MAKE_A_KEY}") from None


def _padding() -> OAEP:
    return OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), PURPOSE)


def _wrapping_key(shared: bytes, sender: bytes, recipient: X25519PublicKey) -> bytes:
    """Bound to both ends, so that it is of use for nothing else."""
    info = PURPOSE + sender + recipient.public_bytes_raw()
    return HKDF(hashes.SHA256(), KEY_SIZE_BYTES, salt=None, info=info).derive(shared)
