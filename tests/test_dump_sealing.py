"""Sealed frames: opened by the private key alone, and not at all once a bit of them was changed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import blake3
import crc32c
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa, x25519

from dumpwriter.cipher import DumpCipher, GcmSealer, header_is_true, open_frame
from dumpwriter.dumpkeys import KEY_SIZE_BYTES, fingerprint, new_seal, unwrap
from dumpwriter.frames import decode_dump_header, decode_header, payload_is_true
from tests.dumping import DumpBench
from vdisk.errors import EncryptionError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from dumpwriter.dumpkeys import PrivateKey
    from dumpwriter.frames import Frame

PAGES = 200


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


PRIVATE_KEYS: dict[str, PrivateKey] = {"X25519": x25519.X25519PrivateKey.generate(), "RSA": rsa_key()}
STRANGERS: dict[str, PrivateKey] = {"X25519": x25519.X25519PrivateKey.generate(), "RSA": rsa_key()}
SEALS = {name: new_seal(key.public_key()) for name, key in PRIVATE_KEYS.items()}
BY_ALGORITHM = pytest.mark.parametrize("name", PRIVATE_KEYS)


def sealed_bench(name: str = "X25519", pages: int = PAGES) -> DumpBench:
    bench = DumpBench(pages, sealer=GcmSealer(SEALS[name]))
    bench.write()
    return bench


def slots(bench: DumpBench) -> list[bytearray]:
    """Each frame of the dump, as it lies in its slot."""
    region = Mapped(bench.disk, bench.extents)
    return [bytearray(region.read(plan.region_offset_bytes, 65 * 4096)) for plan in bench.job().plan.frames]


def believed(slot: bytearray, bench: DumpBench) -> Frame | None:
    view = memoryview(slot)
    frame = decode_header(view[:4096], bench.identity)
    return frame if frame is not None and payload_is_true(view, frame) else None


@BY_ALGORITHM
def test_the_private_key_opens_every_frame(name: str) -> None:
    sealed, plain = sealed_bench(name), DumpBench(PAGES)
    plain.write()
    for slot, expected in zip(slots(sealed), slots(plain), strict=True):
        frame = believed(slot, sealed)
        assert frame is not None and frame.seal is not None
        assert frame.seal.record.fingerprint == fingerprint(PRIVATE_KEYS[name].public_key())
        size = frame.size_bytes
        assert size == 4096 or slot[4096:size] != expected[4096:size]
        key = unwrap(PRIVATE_KEYS[name], frame.seal.wrapped)
        assert key is not None
        assert open_frame(DumpCipher(key), frame, memoryview(slot))
        assert slot[4096:size] == expected[4096:size]


@BY_ALGORITHM
def test_nothing_of_memory_or_metadata_is_on_the_disk(name: str) -> None:
    bench = sealed_bench(name)
    content = bytes(bench.disk.content)
    assert bench.metadata[:64] not in content
    assert bytes(SEALS[name].key) not in content
    for number in range(PAGES):
        assert bench.page(number)[:32] == bytes(32) or bench.page(number)[:32] not in content


@BY_ALGORITHM
def test_another_key_and_a_damaged_wrapping_open_nothing(name: str) -> None:
    wrapped = SEALS[name].wrapped
    assert unwrap(PRIVATE_KEYS[name], wrapped) == SEALS[name].key
    for other in (STRANGERS[name], *(key for kind, key in PRIVATE_KEYS.items() if kind != name)):
        assert unwrap(other, wrapped) is None
    for position in range(len(wrapped)):
        damaged = bytearray(wrapped)
        damaged[position] ^= 1 << position % 7
        assert unwrap(PRIVATE_KEYS[name], bytes(damaged)) is None
    for length in range(len(wrapped)):
        assert unwrap(PRIVATE_KEYS[name], wrapped[:length]) is None


def resealed(slot: bytearray, frame: Frame) -> None:
    """What somebody does who changed a frame and knows the format, but not the key: checksums and digest anew."""
    size = frame.size_bytes
    slot[60:64] = crc32c.crc32c(bytes(slot[4096:size])).to_bytes(4, "little")
    slot[72:104], slot[4092:4096] = bytes(32), bytes(4)
    slot[72:104] = blake3.blake3(bytes(slot[:size])).digest()
    slot[4092:4096] = crc32c.crc32c(bytes(slot[:4092])).to_bytes(4, "little")


@pytest.mark.parametrize("seed", range(40))
def test_a_frame_that_was_changed_by_somebody_who_knows_the_format_does_not_open(seed: int) -> None:
    source, bench = random.Random(seed), sealed_bench()
    cipher = DumpCipher(SEALS["X25519"].key)
    for slot in slots(bench):
        frame = believed(slot, bench)
        assert frame is not None
        position = source.choice([source.randrange(8, frame.size_bytes), source.randrange(8, 500)])
        if position in range(60, 64) or position in range(72, 104) or position >= frame.size_bytes:
            continue  # checksum and digest: made anew below
        if position in range(4092, 4096):
            continue
        slot[position] ^= 1 << source.randrange(8)
        resealed(slot, frame)
        found = believed(slot, bench)
        assert found is None or found.seal is None or not open_frame(cipher, found, memoryview(slot)), position


def test_no_nonce_comes_twice() -> None:
    sealer, nonces = GcmSealer(SEALS["X25519"]), []
    for _ in range(5):  # two standbys and more, each from its beginning
        bench = DumpBench(PAGES, sealer=sealer)
        bench.write()
        nonces += [frame.seal.record.nonce for slot in slots(bench) if (frame := believed(slot, bench)) and frame.seal]
        region = Mapped(bench.disk, bench.extents)
        for offset in (0, bench.extents.size_bytes - 4096):
            (place,) = bench.extents.runs(offset, 4096)
            header = decode_dump_header(region.read(offset, 512), bench.identity, place.physical_bytes)
            assert header is not None
            nonces.append(header.seal_nonce)
    assert len(nonces) == len(set(nonces)) == 5 * (len(bench.job().plan.frames) + 2)
    for sequence, slot in enumerate(slots(bench)):
        frame = believed(slot, bench)
        assert frame is not None and frame.seal is not None
        assert int.from_bytes(frame.seal.record.nonce[:4], "little") == sequence


def test_a_header_is_believed_only_as_it_was_sealed() -> None:
    bench = sealed_bench()
    (place,) = bench.extents.runs(0, 4096)
    header = decode_dump_header(Mapped(bench.disk, bench.extents).read(0, 512), bench.identity, place.physical_bytes)
    assert header is not None
    cipher = DumpCipher(SEALS["X25519"].key)
    assert header_is_true(cipher, header)
    for name, value in header._asdict().items():
        other: Any = bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else value ^ 1
        if name != "digest":
            assert not header_is_true(cipher, header._replace(**{name: other})), name
    assert not header_is_true(DumpCipher(SEALS["RSA"].key), header)


def test_a_key_is_never_shown() -> None:
    key = SEALS["X25519"].key
    assert len(key) == KEY_SIZE_BYTES
    shown = repr(SEALS["X25519"]) + f"{key}" + str(key)
    assert key.hex() not in shown and repr(bytes(key)) not in shown


def test_a_cipher_that_fails_raises_and_nothing_else() -> None:
    cipher = DumpCipher(SEALS["X25519"].key)
    with pytest.raises(EncryptionError, match="nothing is written unsealed"):
        cipher.seal(b"short", b"", memoryview(bytes(16)))
