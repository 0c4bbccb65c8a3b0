"""What a machine shows of itself: its state and facts in the runtime file, its log in memory and for whoever asks."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from dumpwriter.formats.runtime import REASON_TEXT, MachineState, Register
from dumpwriter.machine import status
from dumpwriter.sizes import format_count
from vdisk.errors import BootInterruptedError
from vdisk.mount.control import ControlFile

if TYPE_CHECKING:
    from dumpwriter.memory.source import MemorySource
    from dumpwriter.runtime import RuntimeFile
    from vdisk.bootarea import BootStage

LOG_LINES_MAX = 4096


class Panel:
    """The lights and the log. Nothing here keeps a machine from running, so nothing here fails it."""

    def __init__(self, runtime: RuntimeFile, **facts: Any) -> None:
        self.runtime = runtime
        self._facts: dict[str, Any] = {}
        self._lines: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self._source: MemorySource | None = None
        self._is_power_pressed = False
        self.publish(**facts)

    def publish(self, **facts: Any) -> None:
        """Add facts, or replace them."""
        self._facts |= facts
        self.runtime.publish(self._facts)

    def reach(self, stage: BootStage) -> None:
        self.runtime[Register.BOOT_STAGE] = stage

    def armed(self, state: MachineState, reason: str | None, **facts: Any) -> None:
        """What a crash would leave is promised, or only half, or no longer."""
        self.publish(**facts, reason=reason)
        self.runtime.state = state
        region = self._facts["region"]
        what = f"{region['size_bytes']} bytes in {format_count(len(region['extents']), 'extent')}"
        self.log(f"dump: {state.name.lower()}, {reason or what}")

    def disarmed(self, reason: str) -> None:
        self.runtime.state = MachineState.DISARMED
        self.publish(reason=reason)
        self.log(f"dump: disarmed: {reason}")

    def refuse_hibernation(self, reason: str) -> None:
        self.runtime.set_text(REASON_TEXT, reason)
        self.runtime[Register.HIBERNATION_REFUSALS] += 1
        self.log(f"hibernation: refused: {reason}")

    # The log

    def keep_log_in(self, source: MemorySource) -> None:
        """From here on the log stands in the machine's memory too, where a dump finds it."""
        self._source = source

    def log(self, text: str) -> None:
        self._lines.append(f"{time.strftime('%H:%M:%S')} {text}")
        if self._source is not None:
            self._source.log(text)

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
            ControlFile("log", read=lambda: "".join(line + "\n" for line in self._lines).encode()),
        ]


def as_json(facts: object) -> bytes:
    return json.dumps(facts, indent=2).encode() + b"\n"
