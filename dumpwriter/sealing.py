"""What is done to a dump before it goes out: nothing, or sealing. Declared here; `dumpwriter.cipher` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dumpwriter.formats.region import DumpHeader, SealAlgorithm
    from vdisk.secret import Secret


class DumpSeal(NamedTuple):
    """What frames are sealed with: the key, and the same key wrapped for the public key with that fingerprint."""

    key: Secret
    algorithm: SealAlgorithm
    fingerprint: bytes
    wrapped: bytes


class Sealer(Protocol):
    """What becomes of frames and headers between being filled and being digested."""

    record_size_bytes: int  # room that it takes in a header block, behind the runs

    def seal_frame(self, block: memoryview, record_offset_bytes: int, payload: memoryview, sequence: int) -> None:
        """Seal the payload in place. Raises `EncryptionError`; the payload must then not be written."""

    def seal_header(self, header: DumpHeader) -> DumpHeader:
        """The header as it is to be digested. Raises `EncryptionError`."""


class Unsealed:
    """A dump that anybody can read."""

    record_size_bytes = 0

    def seal_frame(self, block: memoryview, record_offset_bytes: int, payload: memoryview, sequence: int) -> None:
        pass

    def seal_header(self, header: DumpHeader) -> DumpHeader:
        return header


UNSEALED = Unsealed()
