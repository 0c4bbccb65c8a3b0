"""What the machine is doing, from its runtime file alone. Field names are used by other programs: keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.blobarea import BlobArea
from dumpwriter.formats.runtime import (
    CAUSE_TEXT,
    REASON_TEXT,
    REGION_RANKS,
    STANDBY_NAMES,
    MachineState,
    Register,
    StandbyRegister,
)
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
ARMED = (MachineState.ARMED, MachineState.DEGRADED)  # a crash would leave a dump
NO_WORD = "the standby ended before it could say what it wrote"
NO_STANDBY = "there was no standby yet that could have written one"
RUNNING = (*ARMED, MachineState.BOOTING, MachineState.DISARMED, MachineState.STOPPING)


def describe(runtime: RuntimeFile) -> dict[str, Any]:
    """State, processes and the facts of arming. A machine whose process is gone is never said to run."""
    state = present_state(runtime)
    document = runtime.document()
    blobs = BlobArea(runtime.descriptor).blobs()
    return document | {
        "state": state.name.lower(),
        "secondary": [{"name": blob.name, "size_bytes": blob.size_bytes} for blob in blobs],
        "pid": runtime[Register.MACHINE_PID],
        "standbys": _describe_standbys(runtime, document),
        "paging": describe_paging(runtime, document.get("paging")),
        "crash": _describe_crash(runtime) if state not in RUNNING and not runtime.hibernates else None,
        "hibernation": describe_hibernation(runtime) if runtime.hibernates else None,
    }


def present_state(runtime: RuntimeFile) -> MachineState:
    """The state in the file, corrected by which processes live."""
    state = runtime.state
    if machine_is_alive(runtime) and state in RUNNING:
        return _armed_state(runtime) if state in ARMED else state
    if state in RUNNING:
        # The process is gone and nobody wrote why: the standby is about to, or there is none.
        return MachineState.CRASHED if standby_is_alive(runtime) else MachineState.FAILED
    if state in (MachineState.CRASHED, MachineState.DUMPING) and not standby_is_alive(runtime):
        return MachineState.FAILED
    if state == MachineState.FAILED and standby_is_alive(runtime):
        return MachineState.CRASHED  # another standby is about to try
    if state == MachineState.HIBERNATING and not standby_is_alive(runtime):
        return MachineState.FAILED
    return state


def _armed_state(runtime: RuntimeFile) -> MachineState:
    """The machine may not have noticed yet that a standby is gone."""
    living = sum(runtime.standby(rank).is_alive for rank in REGION_RANKS)
    if not living:
        return MachineState.DISARMED
    return runtime.state if living == len(REGION_RANKS) else MachineState.DEGRADED


def machine_is_alive(runtime: RuntimeFile) -> bool:
    return is_alive(runtime[Register.MACHINE_PID], runtime[Register.MACHINE_START])


def standby_is_alive(runtime: RuntimeFile) -> bool:
    """Whether there is any, or a hibernator."""
    return any(standby.is_alive for standby in runtime.writers)


def living_standby(runtime: RuntimeFile) -> int:
    """The process that writes, or would write, the dump; 0 where there is none."""
    return next((standby[StandbyRegister.PID] for standby in runtime.writers if standby.is_alive), 0)


def _describe_standbys(runtime: RuntimeFile, document: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of each standby that there ever was; `pid` is null for one that is gone."""
    published = {standby["rank"]: standby for standby in document.get("standbys", [])}
    rows = []
    for rank, standby in enumerate(runtime.standbys):
        if standby[StandbyRegister.PID]:
            pid = standby[StandbyRegister.PID] if standby.is_alive else None
            rows.append({"rank": rank} | published.get(rank, {}) | {"pid": pid, "reason": standby.words})
    return rows


def describe_paging(runtime: RuntimeFile, facts: dict[str, Any] | None) -> dict[str, Any] | None:
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
        reason = reason or (NO_WORD if _had_standby(runtime) else NO_STANDBY)
    return {
        "verdict": runtime.verdict() or Verdict.NONE,
        "reason": reason,
        "bytes_written": runtime[Register.BYTES_WRITTEN],
        "pages_total": runtime[Register.PAGES_TOTAL],
        "pages_wanted": runtime[Register.PAGES_WANTED],
        "pages_present": runtime[Register.PAGES_WRITTEN],
        "frames_failed": runtime[Register.FRAMES_FAILED],
        "resident_growth_bytes": _growth_bytes(runtime),
        "standby": _writer(runtime),
        "seconds": runtime[Register.DUMP_NANOSECONDS] / 1e9,
    }


def _had_standby(runtime: RuntimeFile) -> bool:
    return any(standby[StandbyRegister.PID] for standby in runtime.standbys)


def describe_hibernation(runtime: RuntimeFile) -> dict[str, Any]:
    """The hibernator's account of what it wrote; it is no standby."""
    facts = describe_dump(runtime)
    return {name: facts[name] for name in facts if name not in ("standby", "resident_growth_bytes")}


def _writer(runtime: RuntimeFile) -> int | None:
    """The rank of the standby that wrote the dump, or began to."""
    rank = runtime[Register.WRITER] - 1
    return rank if rank in range(len(STANDBY_NAMES)) else None


def _growth_bytes(runtime: RuntimeFile) -> int:
    rank = _writer(runtime)
    if rank is None:
        return 0
    writer = runtime.standby(rank)
    return writer[StandbyRegister.RESIDENT_BYTES_DUMPED] - writer[StandbyRegister.RESIDENT_BYTES_ARMED]
