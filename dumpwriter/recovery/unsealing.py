"""Opening a sealed dump with its private key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.cipher import DumpCipher, header_is_true, open_frame
from dumpwriter.dumpkeys import fingerprint, unwrap
from dumpwriter.recovery.opening import Opened

if TYPE_CHECKING:
    from dumpwriter.dumpkeys import PrivateKey
    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import Frame, Seal


class WithPrivateKey:
    """Opens the frames of one dump: those under the key of the first frame that opens, and no others.

    Whoever has the public key can seal frames of their own for it. Under another key they are not of this dump; and a
    frame that is not sealed is not of a sealed dump.
    """

    def __init__(self, private_key: PrivateKey) -> None:
        self._private_key = private_key
        self._own = fingerprint(private_key.public_key())
        self._wrapped = b""
        self._cipher: DumpCipher | None = None
        self._failure = ""

    def open(self, frame: Frame, slot: memoryview) -> Opened:
        if frame.seal is None:
            return self._refuse("the dump is not sealed: leave --dump-private-key out")
        if frame.seal.record.fingerprint != self._own:
            theirs = frame.seal.record.fingerprint.hex()
            return self._refuse(f"the dump is sealed for another key: SHA-256 {theirs}, and this is {self._own.hex()}")
        cipher = self._cipher_of(frame.seal)
        if cipher is None or not open_frame(cipher, frame, slot):
            return self._refuse("the dump is sealed for this key, but every frame of it was altered")
        self._cipher, self._wrapped = cipher, frame.seal.wrapped
        return Opened.OPEN

    def explains(self, header: DumpHeader) -> bool:
        return self._cipher is not None and header_is_true(self._cipher, header)

    def why_nothing(self) -> str:
        return "" if self._cipher else self._failure

    def _cipher_of(self, seal: Seal) -> DumpCipher | None:
        if self._cipher is not None:
            return self._cipher if seal.wrapped == self._wrapped else None
        key = unwrap(self._private_key, seal.wrapped)
        return DumpCipher(key) if key is not None else None

    def _refuse(self, failure: str) -> Opened:
        self._failure = failure
        return Opened.FALSE
