"""Sealed dumps for tests: keys, dumps on a memory disk, and what somebody can do who knows the format but no key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blake3
import crc32c
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dumpwriter.cipher import GcmSealer
from dumpwriter.crash.protection import NO_PARITY
from dumpwriter.dumpkeys import new_seal
from dumpwriter.frames import decode_header, payload_is_true
from tests.dumping import DumpBench
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from pathlib import Path

    from dumpwriter.dumpkeys import PrivateKey
    from dumpwriter.frames import Frame

PAGES = 200

PRIVATE_KEYS: dict[str, PrivateKey] = {
    "X25519": x25519.X25519PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65537, 2048),
}
SEALS = {name: new_seal(key.public_key()) for name, key in PRIVATE_KEYS.items()}


def sealed_bench(
    name: str = "X25519", pages: int = PAGES, *, pieces: int = 5, seed: int = 0, parity_percent: int = NO_PARITY
) -> DumpBench:
    """A disk with a sealed dump that was written to its end."""
    bench = DumpBench(pages, pieces, seed=seed, sealer=GcmSealer(SEALS[name]), parity_percent=parity_percent)
    bench.write()
    return bench


def read_slot(bench: DumpBench, number: int) -> bytearray:
    return bytearray(Mapped(bench.disk, bench.extents).read(4096 + number * 65 * 4096, 65 * 4096))


def write_slot(bench: DumpBench, number: int, content: bytes | bytearray) -> None:
    Mapped(bench.disk, bench.extents).write_from(4096 + number * 65 * 4096, bytes(content))


def slots(bench: DumpBench) -> list[bytearray]:
    """Each frame of the dump, as it lies in its slot."""
    return [read_slot(bench, frame.sequence) for frame in bench.job().plan.frames]


def believed(slot: bytearray, bench: DumpBench) -> Frame | None:
    """The frame in a slot, where its checksums and its digest hold."""
    view = memoryview(slot)
    frame = decode_header(view[:4096], bench.identity)
    return frame if frame is not None and payload_is_true(view, frame) else None


def redigest(slot: bytearray) -> None:
    """Make a frame's checksums and its digest anew, over whatever it holds now."""
    size = 4096 + min(int.from_bytes(slot[56:60], "little"), len(slot) - 4096)
    slot[60:64] = crc32c.crc32c(bytes(slot[4096:size])).to_bytes(4, "little")
    slot[72:104], slot[4092:4096] = bytes(32), bytes(4)
    slot[72:104] = blake3.blake3(bytes(slot[:size])).digest()
    slot[4092:4096] = crc32c.crc32c(bytes(slot[:4092])).to_bytes(4, "little")


def write_keys(directory: Path, name: str = "X25519", passphrase: bytes | None = None) -> tuple[Path, Path]:
    """The files of a key pair: public, private."""
    key = PRIVATE_KEYS[name]
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    public, private = directory / f"{name}-public.pem", directory / f"{name}-private.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    return public, private
