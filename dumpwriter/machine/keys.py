"""What a machine encrypts with: the key of its volume, and the public key that its dumps are sealed for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dumpwriter.dumpkeys import PublicKey
    from dumpwriter.sealing import DumpSeal
    from vdisk.secret import Secret


class Keys:
    """`fingerprint` is that of the public key, in hex; None where dumps are not sealed."""

    def __init__(self, volume: Secret, dump_key_path: str | None) -> None:
        """Raises `KeyFileError` and `UsageError` where the file gives no public key that a dump can be sealed for."""
        self.volume = volume
        self.fingerprint: str | None = None
        self._public_key: PublicKey | None = None
        if dump_key_path is not None:
            self._load(dump_key_path)

    def _load(self, path: str) -> None:
        from dumpwriter.dumpkeys import fingerprint, load_public_key  # slow to import: a boot without it does not wait

        self._public_key = load_public_key(path)
        self.fingerprint = fingerprint(self._public_key).hex()

    def new_seal(self) -> DumpSeal | None:
        """A key for one dump, wrapped for the public key."""
        if self._public_key is None:
            return None
        from dumpwriter.dumpkeys import new_seal

        return new_seal(self._public_key)
