"""Every error that ghostdump raises on purpose.

    GhostdumpError                what a user can cause or a disk can contain: one line, an exit code
    ├── UsageError                arguments that make no sense (exit code 2)
    ├── ImageError                the image file cannot be used
    │   ├── ImageInUseError       another process holds its lock
    │   ├── LockedImageError      it is encrypted, and there is no key or a wrong one
    │   └── NotAnImageError       it is not a ghostdump image, or no longer whole
    ├── FormatError               bytes read from a disk or a file do not parse
    │   └── PageMissingError      a page that a dump does not hold
    ├── DeviceError               the disk did not do what was asked (also an OSError, errno EIO)
    │   ├── WriteRefusedError     the write guard: a block outside the permitted extents
    │   └── ControllerError       the controller is not in a state to take commands
    ├── EncryptionError           the cipher failed: nothing may be written in its place
    ├── FilesystemError           the filesystem as a whole cannot be used
    ├── MountError                the mount cannot be made, found or taken down
    ├── ArmingError               a dump could not be promised, so none is
    ├── BootInterruptedError      the power button was pressed while the machine booted
    ├── KeyFileError              a key file is none, or not the one that is needed
    ├── IntegrityError            the memory of this process is not what it was
    ├── ConversionError           the dump cannot become the file that was asked for
    ├── CampaignError             cases of the laboratory could not be judged, or not be put together
    ├── ComparisonError           two dumps could not be compared (exit code 2, as diff has it)
    ├── RecoveryError             the dump cannot be taken out now; it stays where it is
    └── ResumeError               the hibernated machine cannot go on; the boot is a cold one
    PowerLost (BaseException)     the simulated power went; nothing may handle it and go on

What one file of a mounted filesystem answers (ENOENT, ENOSPC, …) is a plain OSError, as the kernel expects it.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class GhostdumpError(Exception):
    """Base of all declared errors. The message is one line that says what to do."""

    exit_code = 1


class UsageError(GhostdumpError):
    """Arguments that make no sense."""

    exit_code = 2


class ImageError(GhostdumpError):
    """The image file cannot be used."""


class ImageInUseError(ImageError):
    """Another process holds the lock of the image file."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is in use by another process")
        self.path = path


class LockedImageError(ImageError):
    """The image is encrypted, and there is no key to it, or a wrong one."""


class NotAnImageError(ImageError):
    """The file is not a ghostdump image, or is no longer whole."""


class FormatError(GhostdumpError):
    """Bytes from a disk or a file do not parse as what they claim to be."""


class PageMissingError(FormatError):
    """A page of memory is needed that the dump does not hold."""


class DeviceError(GhostdumpError, OSError):
    """The disk did not do what was asked."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EIO


class WriteRefusedError(DeviceError):
    """A write to a block outside the permitted extents was refused."""


class ControllerError(DeviceError):
    """The controller is not in a state to take commands."""


class EncryptionError(GhostdumpError):
    """The cipher failed. No DeviceError: what goes on without a sector must not go on without encryption."""


class FilesystemError(GhostdumpError):
    """The filesystem as a whole cannot be used."""


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Say which file it is that is no image, does not parse, or cannot be mounted."""
    try:
        yield
    except (NotAnImageError, LockedImageError, FormatError, FilesystemError) as error:
        if path in str(error):
            raise
        raise type(error)(f"{path}: {error}") from None


class MountError(GhostdumpError):
    """The mount cannot be made, found or taken down."""


class ArmingError(GhostdumpError):
    """The machine cannot promise a dump; the message says why."""


class BootInterruptedError(GhostdumpError):
    """The power button was pressed while the machine booted."""


class KeyFileError(GhostdumpError):
    """A file that should hold a key does not, or holds one that cannot be used here."""


class IntegrityError(GhostdumpError):
    """The memory of this process is not what it was: nothing that it would do can be trusted."""


class CampaignError(GhostdumpError):
    """Cases of the laboratory could not be judged, or what was found in them not be put together."""


class ComparisonError(GhostdumpError):
    """Two dumps could not be compared. That is not the 1 which says that they differ."""

    exit_code = 2


class RecoveryError(GhostdumpError):
    """The dump cannot be taken out now; it stays in the region."""


class ConversionError(GhostdumpError):
    """The dump cannot become the file that was asked for; what was there before is as it was."""


class ResumeError(GhostdumpError):
    """What the region holds of a hibernated machine is not its whole memory; the boot is a cold one."""


class PowerLost(BaseException):
    """The simulated power went. Not an Exception, so that no handler swallows it."""
