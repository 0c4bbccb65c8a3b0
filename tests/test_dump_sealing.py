"""Sealed frames: opened by the private key alone, and not at all once a bit of them was changed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa, x25519

from dumpwriter.cipher import DumpCipher, GcmSealer, header_is_true, open_frame
from dumpwriter.crash import dump
from dumpwriter.dumpkeys import KEY_SIZE_BYTES, fingerprint, unwrap
from dumpwriter.formats.region import DumpState
from dumpwriter.frames import decode_dump_header
from tests.dumping import DumpBench
from tests.sealed import PAGES, PRIVATE_KEYS, SEALS, believed, redigest, sealed_bench, slots
from vdisk.errors import EncryptionError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from dumpwriter.dumpkeys import PrivateKey

STRANGERS: dict[str, PrivateKey] = {
    "X25519": x25519.X25519PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65537, 2048),
}
BY_ALGORITHM = pytest.mark.parametrize("name", PRIVATE_KEYS)


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


@pytest.mark.parametrize("seed", range(40))
def test_a_frame_that_was_changed_by_somebody_who_knows_the_format_does_not_open(seed: int) -> None:
    source, bench = random.Random(seed), sealed_bench()
    cipher = DumpCipher(SEALS["X25519"].key)
    made_anew = {*range(60, 64), *range(72, 104), *range(4092, 4096)}
    for slot in slots(bench):
        frame = believed(slot, bench)
        assert frame is not None
        position = source.choice([source.randrange(frame.size_bytes), source.randrange(500)])
        if position in made_anew:
            continue
        slot[position] ^= 1 << source.randrange(8)
        redigest(slot)
        found = believed(slot, bench)
        assert found is None or found.seal is None or not open_frame(cipher, found, memoryview(slot)), position


def test_every_byte_of_a_header_block_is_bound() -> None:
    bench, cipher = sealed_bench(pages=5), DumpCipher(SEALS["X25519"].key)
    slot = slots(bench)[1]
    opened = 0
    for position in range(4096):
        changed = bytearray(slot)
        changed[position] ^= 0x10
        redigest(changed)
        found = believed(changed, bench)
        if found is not None and found.seal is not None and open_frame(cipher, found, memoryview(changed)):
            opened += 1
            assert position in (*range(60, 64), *range(72, 104), *range(4092, 4096))  # made anew, so it is as it was
    assert opened == 4 + 32 + 4


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


class FailsAt(GcmSealer):
    """A cipher that breaks at one frame."""

    def __init__(self, sequence: int) -> None:
        self._broken_at = sequence
        super().__init__(SEALS["X25519"])

    def seal_frame(self, block: memoryview, record_offset_bytes: int, payload: memoryview, sequence: int) -> None:
        if sequence == self._broken_at:
            raise EncryptionError("the cipher broke")
        super().seal_frame(block, record_offset_bytes, payload, sequence)


def test_a_cipher_that_fails_stops_the_dump_and_nothing_goes_out_unsealed() -> None:
    bench = DumpBench(700, pieces=1, sealer=FailsAt(10))
    progress = bench.write()
    assert progress.is_stopped and not progress.is_committed
    assert progress.failure == "the cipher broke"
    content = bytes(bench.disk.content)
    assert not any(bench.page(number)[:32] in content for number in range(700) if number % 5 != 4)
    for offset in dump.header_offsets_bytes(bench.extents.size_bytes):
        (place,) = bench.extents.runs(offset, 4096)
        header = decode_dump_header(content[place.physical_bytes :][:512], bench.identity, place.physical_bytes)
        assert header is not None and header.state == DumpState.WRITING
