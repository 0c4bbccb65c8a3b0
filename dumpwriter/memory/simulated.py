"""The default machine: memory laid out as a small Linux kernel, which readers of vmcores recognise.

Its log ring holds the true log of the mount. Everything that a reader needs is in place before the machine runs, so a
machine that is killed without a bugcheck leaves a readable memory too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.export.notes import Note, pack_notes, prstatus_note, vmcoreinfo_note
from dumpwriter.memory import contents, kernel, printk, structures
from dumpwriter.memory.physical import PAGE_SIZE_BYTES, PhysicalMemory
from dumpwriter.memory.source import ClassRun, PageClass
from dumpwriter.memory.usermemory import UserMemory, start_processes
from dumpwriter.memory.vmcoreinfo import vmcoreinfo
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_PLANTED = (PageClass.KERNEL_DATA, PageClass.CACHE)
_KERNEL_CODE, _KERNEL_STACK = 0x10, 0x18
_INTERRUPTS_OFF, _INTERRUPTS_ON = 0x046, 0x246
_STACK_RESERVE_BYTES = 0x200
_TRAP_INSTRUCTION = b"\x0f\x0b"  # ud2
_IDLE_INSTRUCTIONS = b"\xfb\xf4\xc3"  # sti; hlt; ret
_CALL_BYTES = 5
_WORD_MASK = 0xFFFF_FFFF_FFFF_FFFF
RING = printk.RingPlace(
    variables=kernel.PRINTK_VARIABLES,
    buffer=kernel.PRINTK_BUFFER,
    buffer_address=kernel.text_address(kernel.PRINTK_BUFFER),
    size_bytes=kernel.PRINTK_BUFFER_BYTES,
)


class Clock(NamedTuple):
    """Where the machine's times come from. Both are read, never set."""

    uptime_ns: Callable[[], int]
    wall_seconds: Callable[[], int]

    @classmethod
    def system(cls, uptime_ns: int = 0) -> Clock:
        """Nanoseconds since this call, and those that the machine was up before; and the host's time of day."""
        boot_ns = time.monotonic_ns() - uptime_ns
        return cls(lambda: time.monotonic_ns() - boot_ns, lambda: int(time.time()))


class SimulatedMemory:
    """A simulated machine's memory of `size_bytes`, a number of pages between 16 MiB and 512 GiB.

    Deterministic but for what the clock says. Raises UsageError where the size or the number of CPUs is out of range.
    """

    kind = "simulated"

    def __init__(
        self, size_bytes: int, *, cpu_count: int = 2, node_name: str = "ghostdump", clock: Clock | None = None
    ) -> None:
        _check(size_bytes, cpu_count)
        self._own(PhysicalMemory.create([(0, size_bytes)]), cpu_count, clock or Clock.system())
        try:
            self._plant_kernel(kernel.KernelMap(size_bytes), node_name)
            self._plant_pages()
            start_processes(self.memory, kernel.KernelMap(size_bytes))
            self._write_notes([_idle_registers(cpu) for cpu in range(cpu_count)])
        except BaseException:
            self.close()
            raise

    def _own(self, memory: PhysicalMemory, cpu_count: int, clock: Clock) -> None:
        self.memory = memory
        self._cpu_count = cpu_count
        self._clock = clock
        self._classes = kernel.KernelMap(memory.size_bytes).class_runs()

    def close(self) -> None:
        self.memory.close()

    @property
    def user_memory(self) -> UserMemory:
        return UserMemory(self.memory, kernel.KernelMap(self.memory.size_bytes))

    def page_classes(self) -> list[ClassRun]:
        return list(self._classes)

    def log(self, text: str) -> None:
        """Add each line of the text to the kernel's log ring."""
        self._log(printk.LEVEL_INFO, text)

    def bugcheck(self, code: int, parameters: tuple[int, int, int, int], reason: str) -> None:
        """Log the crash and leave the registers of the CPUs in the notes, the crash on CPU 0."""
        code &= _WORD_MASK
        values = ", ".join(f"{value & _WORD_MASK:#018x}" for value in parameters)
        reason = " ".join(reason.split())
        self._log(printk.LEVEL_EMERGENCY, f"BUG: bugcheck {code:#010x} ({values}): {reason}")
        self._log(printk.LEVEL_EMERGENCY, f"Kernel panic - not syncing: bugcheck {code:#010x}: {reason}")
        others = [_idle_registers(cpu) for cpu in range(1, self._cpu_count)]
        self._write_notes([_bugcheck_registers(code, parameters), *others])

    def _log(self, level: int, text: str) -> None:
        uptime_ns = self._clock.uptime_ns()
        for line in text.splitlines():
            self._ring.append(level, uptime_ns, line.encode(errors="replace"))

    def _write_notes(self, cpus: list[dict[str, int]]) -> None:
        """The length never changes, so notes that are cut by a kill are still notes."""
        notes: list[Note] = [prstatus_note(cpu, registers) for cpu, registers in enumerate(cpus)]
        notes.append(vmcoreinfo_note(vmcoreinfo(self._clock.wall_seconds())))
        self.memory.write_notes(pack_notes(notes))

    def _plant_kernel(self, layout: kernel.KernelMap, node_name: str) -> None:
        write = self.memory.write
        version = f"#1 SMP {layout.memory_bytes // kernel.MIB} MiB of simulated memory"
        write(kernel.UTS_NAMESPACE, structures.uts_namespace(node_name, version))
        write(kernel.MEM_MAP_POINTER, kernel.direct_address(layout.page_descriptors).to_bytes(8, "little"))
        write(kernel.PAGE_TABLES, structures.page_tables(layout))
        for cpu in range(self._cpu_count):
            return_address = kernel.text_address(kernel.IDLE_ENTRY)
            write(_stack_pointer(cpu), return_address.to_bytes(8, "little"))
        self._ring = printk.PrintkRing(self.memory, RING)
        for run in self._classes:
            for first_page, descriptors in structures.page_descriptors(run):
                write(layout.page_descriptors + first_page * kernel.PAGE_DESCRIPTOR.size_bytes, descriptors)

    def _plant_pages(self) -> None:
        for run in self._classes:
            if run.page_class in _PLANTED:
                for first_page, content in contents.pages(run):
                    self.memory.write(first_page * PAGE_SIZE_BYTES, content)
        self.memory.write(kernel.BUGCHECK_ENTRY, _TRAP_INSTRUCTION)
        self.memory.write(kernel.IDLE_ENTRY, _IDLE_INSTRUCTIONS)


def _check(size_bytes: int, cpu_count: int) -> None:
    if not kernel.MEMORY_MINIMUM_BYTES <= size_bytes <= kernel.MEMORY_MAXIMUM_BYTES:
        raise UsageError(f"memory of {size_bytes} bytes: give a size from 16 MiB to 512 GiB")
    if size_bytes % PAGE_SIZE_BYTES:
        raise UsageError(f"memory of {size_bytes} bytes: give a multiple of {PAGE_SIZE_BYTES}")
    if not 1 <= cpu_count <= kernel.CPUS_MAXIMUM:
        raise UsageError(f"{cpu_count} CPUs: give a number from 1 to {kernel.CPUS_MAXIMUM}")


def _stack_pointer(cpu: int) -> int:
    """The physical address of what a CPU's stack pointer points at."""
    return kernel.STACKS + (cpu + 1) * kernel.STACK_BYTES - _STACK_RESERVE_BYTES


def _idle_registers(cpu: int) -> dict[str, int]:
    return {
        "rip": kernel.text_address(kernel.IDLE_ENTRY) + len(_IDLE_INSTRUCTIONS) - 1,
        "rsp": kernel.direct_address(_stack_pointer(cpu)),
        "rflags": _INTERRUPTS_ON,
        "cs": _KERNEL_CODE,
        "ss": _KERNEL_STACK,
    }


def _bugcheck_registers(code: int, parameters: tuple[int, int, int, int]) -> dict[str, int]:
    """As if CPU 0 had called `bugcheck(code, parameters...)`."""
    arguments = dict(zip(("rdi", "rsi", "rdx", "rcx", "r8"), (code, *parameters), strict=True))
    entry = {"rip": kernel.text_address(kernel.BUGCHECK_ENTRY), "rflags": _INTERRUPTS_OFF}
    return {**_idle_registers(0), **arguments, **entry}
