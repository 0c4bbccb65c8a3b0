"""Checks of sealed dumps: opened by their key alone, silent without it, and never mixed with what is not of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dumpwriter.cipher import GcmSealer
from dumpwriter.dumpkeys import new_seal
from dumpwriter.formats.region import DUMP_HEADER, FRAME_SEAL, HEADER_MAGIC, HEADER_SIZE_BYTES, SLOT_SIZE_BYTES
from dumpwriter.frames import decode_header, encode_dump_header, slot_offset_bytes
from dumpwriter.lab.checks.forgery import with_digest
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Specimen, Subject, disk_of, pages_in, written
from dumpwriter.lab.checks.strangers import slot_of
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.unsealing import WithPrivateKey
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.layers.mapped import Mapped
from vdisk.layers.trace import Event, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.sealing import DumpSeal

OWN, OTHER = (X25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
PLAIN = Subject("sealed", dict.fromkeys(range(213), 4), frozenset(range(150, 170)), slots=10)
FRAME = 1


def opened_by_the_key() -> None:
    specimen = _sealed(new_seal(OWN.public_key()))
    findings, pages = specimen.read(specimen.disk.content, WithPrivateKey(OWN))
    must(findings.verdict == Verdict.COMPLETE and not specimen.wrong_pages(pages), "the key does not open the dump")
    must(set(pages) == set(PLAIN.ranks) and findings.header is not None, "with the key, something is missing")
    for page in (0, 100, 199):
        must(PLAIN.page(page)[:64] not in specimen.disk.content, "a page of a sealed dump lies in the clear")
    closed, none = specimen.read(specimen.disk.content, WithoutKey())
    must(closed.is_closed and not none, "pages come out of a sealed dump without its key")
    must((closed.verdict, closed.pages_present) == (Verdict.COMPLETE, len(PLAIN.ranks)), "a closed dump is misjudged")
    stranger = WithPrivateKey(OTHER)
    findings, none = specimen.read(specimen.disk.content, stranger)
    must(not none and findings.verdict == Verdict.NONE and stranger.why_nothing(), "another key opens the dump")


def closed_dumps_that_lack_a_frame() -> None:
    """Without the key it is known how much is there, and never called whole, though it lack but one page."""
    specimen = _sealed(new_seal(OWN.public_key()))
    must(any(len(pages_in(frame.runs)) == 1 for frame in specimen.job().plan.frames), "no frame has a page alone")
    for frame in specimen.job().plan.frames[1:-1]:
        findings, _ = specimen.read(_with_slot(specimen, frame.sequence, bytes(SLOT_SIZE_BYTES)), WithoutKey())
        must(findings.verdict == Verdict.PARTIAL, f"without frame {frame.sequence} a closed dump is {findings.verdict}")
    disk = bytearray(specimen.disk.content)
    for frame in (specimen.job().plan.frames[0], specimen.job().plan.frames[-1]):
        disk[:] = _with_slot(specimen, frame.sequence, bytes(SLOT_SIZE_BYTES), disk)
    findings, _ = specimen.read(disk, WithoutKey())
    must(findings.verdict == Verdict.PARTIAL, "a closed dump is called whole without metadata")


def sealed_frames_that_were_altered() -> None:
    """All over the header block and the payload, check sums and digest made to fit: nothing of it opens."""
    specimen = _sealed(new_seal(OWN.public_key()))
    slot = slot_of(specimen, FRAME)
    frame = decode_header(memoryview(slot)[:BLOCK_SIZE_BYTES], specimen.identity)
    must(frame is not None and frame.seal is not None, "a sealed frame has no seal")
    seal_bytes = frame.seal_offset_bytes if frame is not None else 0
    record = [seal_bytes + field.offset_bytes for field in FRAME_SEAL.fields if field.name != "wrapped_size_bytes"]
    wrapped = [seal_bytes + FRAME_SEAL.size_bytes + at for at in (0, 31, 32, 71)]
    header = list(range(48, 56))  # how many pages there are
    blank = [seal_bytes + FRAME_SEAL.size_bytes + 72, 2000, BLOCK_SIZE_BYTES - 5]
    for place in (*record, *wrapped, *header, *blank, BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES + 70_000):
        altered = bytearray(slot)
        altered[place] ^= 1
        _must_lack(specimen, FRAME, with_digest(bytes(altered)), f"a sealed frame, altered at {place}")


def frames_of_other_seals() -> None:
    """Those that somebody else sealed for the same public key, and plain ones: of this dump they are not."""
    specimen = _sealed(new_seal(OWN.public_key()))
    for what, other in (("another seal", _sealed(new_seal(OWN.public_key()))), ("no seal", written(PLAIN))):
        _must_lack(specimen, FRAME, slot_of(other, FRAME), f"a frame with {what}")
    closed, _ = specimen.read(_with_slot(specimen, FRAME, slot_of(written(PLAIN), FRAME)), WithoutKey())
    lost = pages_in(specimen.job().plan.frames[FRAME].runs)
    must(not lost & pages_in(closed.present), "without the key a plain frame counts as one of a sealed dump")
    must(closed.frames_damaged == 1, "without the key a plain frame in a sealed dump is no damage")
    findings, none = written(PLAIN).read(written(PLAIN).disk.content, WithPrivateKey(OWN))
    must(not none and findings.verdict == Verdict.NONE, "a plain dump is opened with a key")


def false_frames_before_the_true_ones() -> None:
    """Sealed by somebody else for the same public key, or under this seal, and then altered: the true ones open."""
    specimen = _sealed(new_seal(OWN.public_key()))
    for other in (specimen, _sealed(new_seal(OWN.public_key())), _sealed(new_seal(OTHER.public_key()))):
        altered = bytearray(slot_of(other, 0))
        altered[BLOCK_SIZE_BYTES] ^= 1
        findings, pages = specimen.read(_with_slot(specimen, 0, with_digest(bytes(altered))), WithPrivateKey(OWN))
        must(findings.verdict == Verdict.COMPLETE, f"behind a false first frame a dump is {findings.verdict}")
        must(
            findings.frames_damaged == 1 and findings.header is not None, "a false first frame is no damage, or all is"
        )
        must(not specimen.wrong_pages(pages), "behind a false first frame there are wrong pages")


def nonces() -> None:
    """None twice under one key, of all that is written, also where the same dump is written again."""
    seal, events = new_seal(OWN.public_key()), list[Event]()
    for _ in range(3):
        Specimen(PLAIN._replace(sealer=GcmSealer(seal))).write(lambda disk: Trace(disk, events.append))
    nonces = [nonce for event in events for nonce in _nonces_in(event.content)]
    frames = len(_sealed(seal).job().plan.frames)
    must(len(nonces) == 3 * (frames + 4), f"{len(nonces)} times something is sealed")
    must(len(set(nonces)) == len(nonces), "a nonce comes twice")


def _nonces_in(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), BLOCK_SIZE_BYTES):
        block = memoryview(content)[start : start + BLOCK_SIZE_BYTES]
        frame = decode_header(block, None)
        if frame is not None:
            must(frame.seal is not None, "a frame of a sealed dump is not sealed")
            yield frame.seal.record.nonce if frame.seal is not None else b""
        elif content[start:].startswith(HEADER_MAGIC):
            yield DUMP_HEADER.unpack_from(block).seal_nonce


def headers_that_were_altered() -> None:
    """With its own digest made anew, a header explains nothing to who has the key."""
    specimen = _sealed(new_seal(OWN.public_key()))
    for name in ("pages_wanted", "frames_failed", "ending", "crash_time_ns", "bugcheck_code"):
        disk = bytearray(specimen.disk.content)
        for offset in (0, specimen.extents.size_bytes - BLOCK_SIZE_BYTES):
            (place, _), *_ = specimen.extents.runs(offset, BLOCK_SIZE_BYTES)
            header = DUMP_HEADER.unpack_from(disk, place)
            header = header._replace(**{name: getattr(header, name) ^ 1})
            disk[place : place + HEADER_SIZE_BYTES] = encode_dump_header(header)[:HEADER_SIZE_BYTES]
        findings, _ = specimen.read(disk, WithPrivateKey(OWN))
        must(findings.verdict == Verdict.COMPLETE and findings.header is None, f"a header with another {name} explains")


def _sealed(seal: DumpSeal) -> Specimen:
    return written(PLAIN._replace(sealer=GcmSealer(seal)))


def _must_lack(specimen: Specimen, sequence: int, slot: bytes, what: str) -> None:
    _, pages = specimen.read(_with_slot(specimen, sequence, slot), WithPrivateKey(OWN))
    must(not specimen.wrong_pages(pages), f"{what}: wrong pages")
    expected = set(PLAIN.ranks) - pages_in(specimen.job().plan.frames[sequence].runs)
    must(set(pages) == expected, f"{what}: believed, or believed too little")


def _with_slot(specimen: Specimen, sequence: int, slot: bytes, disk: bytes | bytearray = b"") -> bytes:
    made = disk_of(disk or specimen.disk.content)
    Mapped(made, specimen.extents).write_from(slot_offset_bytes(sequence), slot)
    return bytes(made.content)
