"""Key files: what can be used, and one clear line about what cannot."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from dumpwriter.dumpkeys import fingerprint, load_private_key, load_public_key, new_seal, unwrap
from tests.sealed import PRIVATE_KEYS, write_keys
from vdisk.errors import KeyFileError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

BY_ALGORITHM = pytest.mark.parametrize("name", PRIVATE_KEYS)


def nobody_is_asked() -> bytes:
    raise AssertionError("a passphrase was asked for")


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


def pair(directory: Path, name: str, *options: str) -> tuple[str, str]:
    """The files of a key pair that openssl made: public, private."""
    private = openssl("genpkey", *options)
    files = directory / f"{name}-public.pem", directory / f"{name}.pem"
    files[0].write_bytes(openssl("pkey", "-pubout", given=private))
    files[1].write_bytes(private)
    return str(files[0]), str(files[1])


@BY_ALGORITHM
def test_what_is_sealed_for_the_public_file_is_opened_by_the_private_one(tmp_path: Path, name: str) -> None:
    public, private = (str(path) for path in write_keys(tmp_path, name))
    seal = new_seal(load_public_key(public))
    assert unwrap(load_private_key(private, nobody_is_asked), seal.wrapped) == seal.key
    assert seal.fingerprint == fingerprint(PRIVATE_KEYS[name].public_key())
    assert new_seal(load_public_key(public)).key != seal.key


@pytest.mark.parametrize(
    "options", [("-algorithm", "X25519"), ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072")]
)
def test_keys_that_openssl_makes_will_do(tmp_path: Path, options: tuple[str, ...]) -> None:
    public, private = pair(tmp_path, "made", *options)
    seal = new_seal(load_public_key(public))
    assert unwrap(load_private_key(private, nobody_is_asked), seal.wrapped) == seal.key
    printed = openssl("dgst", "-sha256", "-r", given=openssl("pkey", "-pubin", "-in", public, "-outform", "DER"))
    assert printed.decode().split()[0] == seal.fingerprint.hex()


@BY_ALGORITHM
def test_a_passphrase_is_asked_for_where_there_is_one(tmp_path: Path, name: str) -> None:
    _, private = write_keys(tmp_path, name, passphrase=b"open sesame")
    assert load_private_key(str(private), lambda: b"open sesame")
    for wrong in (b"", b"open says me"):
        with pytest.raises(KeyFileError, match="passphrase does not open"):
            load_private_key(str(private), lambda wrong=wrong: wrong)  # type: ignore[misc]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and other files that one may name by mistake."""
    directory = tmp_path_factory.mktemp("keys")
    write_keys(directory)
    pair(directory, "small", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")
    pair(directory, "signing", "-algorithm", "ED25519")
    (directory / "notes.txt").write_text("my key is under the mat\n")
    (directory / "empty.pem").touch()
    (directory / "cut.pem").write_bytes((directory / "X25519-public.pem").read_bytes()[:60])
    (directory / "garbage.pem").write_text("-----BEGIN PUBLIC KEY-----\nnot one\n-----END PUBLIC KEY-----\n")
    # A point of small order: the shared secret would be zero, whatever the other end is.
    zero = bytes.fromhex("302a300506032b656e032100") + bytes(32)
    (directory / "zero.pem").write_bytes(openssl("pkey", "-pubin", "-inform", "DER", given=zero))
    return directory


NO_PUBLIC_KEYS = {
    "X25519-private.pem": "holds a private key",
    "small-public.pem": "1024 bits",
    "signing-public.pem": "neither X25519 nor RSA",
    "notes.txt": "holds no public key",
    "empty.pem": "holds no public key",
    "cut.pem": "holds no public key",
    "garbage.pem": "holds no public key",
    "zero.pem": "nothing can be sealed for",
    "missing.pem": "No such file",
    ".": "cannot read the key",
}
NO_PRIVATE_KEYS = {
    "X25519-public.pem": "holds a public key",
    "signing.pem": "neither X25519 nor RSA",
    "notes.txt": "holds no private key",
    "empty.pem": "holds no private key",
    "missing.pem": "No such file",
    ".": "cannot read the key",
}


UNREADABLE = ("missing.pem", ".")  # as any file that is named on the command line


@pytest.mark.parametrize("file", NO_PUBLIC_KEYS)
def test_what_is_no_public_key_is_refused(files: Path, file: str) -> None:
    with pytest.raises(UsageError if file in UNREADABLE else KeyFileError, match=NO_PUBLIC_KEYS[file]) as refusal:
        load_public_key(str(files / file))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("file", NO_PRIVATE_KEYS)
def test_what_is_no_private_key_is_refused(files: Path, file: str) -> None:
    with pytest.raises(UsageError if file in UNREADABLE else KeyFileError, match=NO_PRIVATE_KEYS[file]) as refusal:
        load_private_key(str(files / file), nobody_is_asked)
    assert "\n" not in str(refusal.value)
