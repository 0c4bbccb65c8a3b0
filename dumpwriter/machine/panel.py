"""What a machine shows of itself: its state and facts in the runtime file, its log in memory and for whoever asks."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from dumpwriter.blobarea import OWN, OWN_SIZE_BYTES_MAX, BlobArea
from dumpwriter.formats.runtime import REASON_TEXT, MachineState, Register
from dumpwriter.machine import status
from dumpwriter.sizes import format_count
from vdisk.bootarea import BootStage
from vdisk.errors import BootInterruptedError, GhostdumpError
from vdisk.mount.control import ControlFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.memory.source import MemorySource
    from dumpwriter.recovery.blobs import FoundBlob
    from dumpwriter.runtime import RuntimeFile

LOG_LINES_MAX = 4096


class Panel:
    """The lights and the log. Nothing here keeps a machine from running, so nothing here fails it."""

    def __init__(self, runtime: RuntimeFile, **facts: Any) -> None:
        self.runtime = runtime
        self._facts: dict[str, Any] = {}
        self._lines: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self._source: MemorySource | None = None
        self._blobs = BlobArea(runtime.descriptor)
        self._saved: dict[str, bytes] = {}
        self._is_power_pressed = False
        self.publish(**facts)

    def publish(self, **facts: Any) -> None:
        """Add facts, or replace them."""
        self._facts |= facts
        self.runtime.publish(self._facts)

    def save(self) -> None:
        """Leave log and facts where the standby takes them from: after `kill -9` nobody does."""
        for name, content in zip(OWN, (_tail(self._log_content()), self._facts_content()), strict=True):
            if len(content) <= OWN_SIZE_BYTES_MAX and self._saved.get(name) != content:
                with contextlib.suppress(OSError):  # the host has no memory left; a dump without is a dump
                    self._blobs.keep_own(name, content)
                    self._saved[name] = content

    def take_over(self, blobs: Iterable[FoundBlob]) -> None:
        """Register what was registered before the machine hibernated, but for what is the machine's own."""
        for name, content in blobs:
            if name not in OWN:
                with contextlib.suppress(GhostdumpError):  # somebody may register already, and have taken the room
                    self._blobs.register(name, content)

    def last_words(self, text: str) -> None:
        """Of a machine that crashes. May interrupt anything."""
        self._lines.append(f"{time.strftime('%H:%M:%S')} {text}")
        self.save()

    def _log_content(self) -> bytes:
        return "".join(line + "\n" for line in self._lines).encode(errors="replace")

    def _facts_content(self) -> bytes:
        """Without what is as long as the region is torn."""
        facts = self._facts | {"paging": status.describe_paging(self.runtime, self._facts.get("paging"))}
        if facts.get("region"):
            region = dict(facts["region"])
            facts["region"] = region | {"extents": len(region["extents"])}
        return as_json(facts)

    def reach(self, stage: BootStage) -> None:
        self.runtime[Register.BOOT_STAGE] = stage

    def armed(self, state: MachineState, reason: str | None, **facts: Any) -> None:
        """What a crash would leave is promised, or only half, or no longer."""
        self.publish(**facts, reason=reason)
        self.runtime.state = state
        region = self._facts["region"]
        what = f"{region['size_bytes']} bytes in {format_count(len(region['extents']), 'extent')}"
        self.log(f"dump: {state.name.lower()}, {reason or what}")
        self.save()

    def disarmed(self, reason: str) -> None:
        self.runtime.state = MachineState.DISARMED
        self.publish(reason=reason)
        self.log(f"dump: disarmed: {reason}")

    def refuse_hibernation(self, reason: str) -> None:
        self.runtime.set_text(REASON_TEXT, reason)
        self.runtime[Register.HIBERNATION_REFUSALS] += 1
        self.log(f"hibernation: refused: {reason}")

    @property
    def why_no_dump(self) -> str:
        """Why a machine without a standby leaves no dump."""
        if self.runtime.boot_stage == BootStage.POWER_ON:
            return "no driver was up that could have written a dump"
        return f"the machine was not armed: {self._facts.get('reason') or 'it had not come so far'}"

    # The log

    def keep_log_in(self, source: MemorySource) -> None:
        """From here on the log stands in the machine's memory too, where a dump finds it."""
        self._source = source

    def log(self, text: str) -> None:
        self._lines.append(f"{time.strftime('%H:%M:%S')} {text}")
        if self._source is not None:
            self._source.log(text)

    def failed(self, handler: str, failure: Exception) -> None:
        """A request to the mount was answered with EIO."""
        self.log(f"mount: {handler}: {failure!r}")

    # Progress of the boot, and its end by the power button

    def press_power_button(self) -> None:
        """Safe in a signal handler."""
        self._is_power_pressed = True

    def show_step(self, done: int, total: int) -> None:
        """Raises `BootInterruptedError` once the power button was pressed."""
        if self._is_power_pressed:
            raise BootInterruptedError("interrupted; the dump stays in the region for the next mount")
        self.runtime[Register.STEP_DONE] = done
        self.runtime[Register.STEP_TOTAL] = total

    # What others see

    @property
    def facts(self) -> dict[str, Any]:
        return status.describe(self.runtime)

    def control_files(self) -> list[ControlFile]:
        """What can be read in the control directory."""
        return [
            ControlFile("status", read=lambda: as_json(self.facts)),
            ControlFile("drivers", read=lambda: as_json(self._facts["drivers"])),
            ControlFile("extents", read=lambda: as_json(self._facts.get("region", {}).get("extents", []))),
            ControlFile("log", read=self._log_content),
        ]


def _tail(log: bytes) -> bytes:
    """The last lines that there is room for."""
    return log if len(log) <= OWN_SIZE_BYTES_MAX else log[-OWN_SIZE_BYTES_MAX:].partition(b"\n")[2]


def as_json(facts: object) -> bytes:
    return json.dumps(facts, indent=2).encode() + b"\n"
