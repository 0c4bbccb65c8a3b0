"""What the machine is doing, from its runtime file alone. Field names are used by other programs: keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.formats.runtime import CAUSE_TEXT, REASON_TEXT, MachineState, Register
from dumpwriter.runtime import is_alive
from dumpwriter.verdict import Verdict

if TYPE_CHECKING:
    from dumpwriter.runtime import RuntimeFile

PAGING_REGISTERS = {
    "pages_resident": Register.PAGES_RESIDENT,
    "pages_out": Register.PAGES_OUT,
    "page_outs": Register.PAGE_OUTS,
    "page_ins": Register.PAGE_INS,
    "checks": Register.PAGE_CHECKS,
    "failures": Register.PAGE_FAILURES,
}
RUNNING = (MachineState.BOOTING, MachineState.ARMED, MachineState.DISARMED, MachineState.STOPPING)


def describe(runtime: RuntimeFile) -> dict[str, Any]:
    """State, processes and the facts of arming. A machine whose process is gone is never said to run."""
    state = present_state(runtime)
    document = runtime.document()
    standby = document.get("standby") or {}
    return document | {
        "state": state.name.lower(),
        "pid": runtime[Register.MACHINE_PID],
        "standby": standby | {"pid": runtime[Register.STANDBY_PID] if standby_is_alive(runtime) else None},
        "paging": _describe_paging(runtime, document.get("paging")),
        "crash": _describe_crash(runtime) if state not in RUNNING else None,
    }


def present_state(runtime: RuntimeFile) -> MachineState:
    """The state in the file, corrected by which processes live."""
    state = runtime.state
    if machine_is_alive(runtime) and state in RUNNING:
        if state == MachineState.ARMED and not standby_is_alive(runtime):
            return MachineState.DISARMED  # the machine has not noticed yet that its standby is gone
        return state
    if state in RUNNING:
        # The process is gone and nobody wrote why: the standby is about to, or there is none.
        return MachineState.CRASHED if standby_is_alive(runtime) else MachineState.FAILED
    if state in (MachineState.CRASHED, MachineState.DUMPING) and not standby_is_alive(runtime):
        return MachineState.FAILED
    return state


def machine_is_alive(runtime: RuntimeFile) -> bool:
    return is_alive(runtime[Register.MACHINE_PID], runtime[Register.MACHINE_START])


def standby_is_alive(runtime: RuntimeFile) -> bool:
    return is_alive(runtime[Register.STANDBY_PID], runtime[Register.STANDBY_START])


def _describe_paging(runtime: RuntimeFile, facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """None where the region is no page file."""
    if facts is None:
        return None
    return facts | {name: runtime[register] for name, register in PAGING_REGISTERS.items()}


def _describe_crash(runtime: RuntimeFile) -> dict[str, Any]:
    return {
        "code": runtime[Register.BUGCHECK_CODE],
        "text": runtime.text(CAUSE_TEXT),
        **describe_dump(runtime),
    }


def describe_dump(runtime: RuntimeFile) -> dict[str, Any]:
    """The standby's own account of the dump: what recovery will find is for recovery to say."""
    reason = runtime.text(REASON_TEXT)
    if not runtime[Register.VERDICT]:
        reason = reason or "the standby ended before it could say what it wrote"
    return {
        "verdict": runtime.verdict() or Verdict.NONE,
        "reason": reason,
        "bytes_written": runtime[Register.BYTES_WRITTEN],
        "pages_total": runtime[Register.PAGES_TOTAL],
        "pages_present": runtime[Register.PAGES_WRITTEN],
        "frames_failed": runtime[Register.FRAMES_FAILED],
        "resident_growth_bytes": runtime[Register.RESIDENT_BYTES_DUMPED] - runtime[Register.RESIDENT_BYTES_ARMED],
        "seconds": runtime[Register.DUMP_NANOSECONDS] / 1e9,
    }
