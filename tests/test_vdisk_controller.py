"""The controller: every order in every mode, whatever is wrong with the hardware, and the driver that takes it over."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.mounting import wait_until
from vdisk.controller import CACHE_SIZE_BYTES, Controller, Mode, Order
from vdisk.drivers import storahci
from vdisk.drivers.storahci import StorAhci
from vdisk.errors import ControllerError, DeviceError, PowerLost
from vdisk.extent import Run
from vdisk.memorydisk import MemoryDisk
from vdisk.registers import BAD_RUNS_MAX, Cache, Power, Register, create_registers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdisk.registers import Registers

DISK_SIZE_BYTES = 16 << 20
GARBAGE = 77
EVERY_MODE = [*Mode, GARBAGE]
REFUSED = None

# The whole of it once more, a row a mode: what each order leads to.
EXPECTED: dict[int, dict[Order, int | None]] = {
    mode: dict(zip(Order, row, strict=True))
    for mode, row in {
        #            RESET        IDENTIFY    CACHE_OFF   POWER_OFF  POWER_ON
        Mode.OFF: (Mode.OFF, REFUSED, REFUSED, Mode.OFF, Mode.RESET),
        Mode.RESET: (Mode.RESET, Mode.READY, REFUSED, Mode.OFF, REFUSED),
        Mode.READY: (Mode.RESET, Mode.READY, Mode.READY, Mode.OFF, REFUSED),
        Mode.BUSY: (Mode.RESET, REFUSED, REFUSED, Mode.OFF, REFUSED),
        Mode.LEGACY: (Mode.RESET, REFUSED, REFUSED, Mode.OFF, REFUSED),
        Mode.WEDGED: (Mode.WEDGED, REFUSED, REFUSED, Mode.OFF, REFUSED),
        Mode.DEAD: (Mode.DEAD, Mode.DEAD, Mode.DEAD, Mode.DEAD, Mode.DEAD),
        GARBAGE: (Mode.RESET, REFUSED, REFUSED, Mode.OFF, REFUSED),
    }.items()
}


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(DISK_SIZE_BYTES)


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = create_registers()
    yield made
    os.close(made)


@pytest.fixture
def controller(descriptor: int, disk: MemoryDisk) -> Controller:
    return Controller(descriptor, disk)


@pytest.fixture
def registers(controller: Controller) -> Registers:
    return controller.registers


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that pass at once."""
    for step in storahci.DEADLINE_SECONDS:
        monkeypatch.setitem(storahci.DEADLINE_SECONDS, step, 0.02)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("mode", EVERY_MODE)
def test_each_order_in_each_mode(controller: Controller, registers: Registers, mode: int, order: Order) -> None:
    registers[Register.MODE] = mode
    expected = EXPECTED[mode][order]
    if expected is REFUSED:
        with pytest.raises(ControllerError, match=order.name):
            controller.order(order)
        assert registers[Register.MODE] == mode
    else:
        controller.order(order)
        assert controller.mode == expected


@pytest.mark.parametrize("mode", [mode for mode in EVERY_MODE if mode not in (Mode.READY, Mode.BUSY)])
def test_no_command_but_when_ready(controller: Controller, registers: Registers, mode: int) -> None:
    registers[Register.MODE] = mode
    for command in (
        lambda: controller.read(0, bytearray(512)),
        lambda: controller.write(0, bytes(512)),
        lambda: controller.discard(0, 512),
        lambda: controller.flush(),
        lambda: controller.geometry,
    ):
        with pytest.raises(ControllerError):
            command()


@pytest.mark.parametrize("mode", [mode for mode in EVERY_MODE if mode != Mode.DEAD])
@pytest.mark.usefixtures("hurried")
def test_a_driver_takes_over_from_any_mode(controller: Controller, registers: Registers, mode: int) -> None:
    registers[Register.MODE] = mode
    driver = StorAhci(controller)
    assert (driver.size_bytes, driver.sector_size_bytes) == (DISK_SIZE_BYTES, 512)
    driver.write_from(512, b"a" * 512)
    assert driver.read(512, 512) == b"a" * 512


@pytest.mark.parametrize(
    ("mode", "latency_ns", "step"), [(Mode.DEAD, 0, "power cycle"), (Mode.READY, 10**9, "power cycle")]
)
@pytest.mark.usefixtures("hurried")
def test_what_cannot_be_woken_ends_in_the_step_at_which_it_failed(
    controller: Controller, registers: Registers, mode: Mode, latency_ns: int, step: str
) -> None:
    registers[Register.MODE] = mode
    registers[Register.LATENCY_NS] = latency_ns
    with pytest.raises(ControllerError, match=f"^controller: {step}: not ready after 0.02 s$"):
        StorAhci(controller)


def test_commands_wait_for_one_that_does_not_end_until_a_reset_ends_it(
    controller: Controller, registers: Registers, descriptor: int, disk: MemoryDisk
) -> None:
    StorAhci(controller)
    registers[Register.MODE] = Mode.BUSY
    done = threading.Event()

    def read() -> None:
        controller.read(0, bytearray(512))
        done.set()

    waiting = threading.Thread(target=read)
    waiting.start()
    assert not done.wait(0.05)
    StorAhci(Controller(descriptor, disk))  # another process
    waiting.join(timeout=5)
    assert done.is_set()


def test_a_slow_controller_takes_its_time_for_each_command(controller: Controller, registers: Registers) -> None:
    driver = StorAhci(controller)
    registers[Register.LATENCY_NS] = 20_000_000
    started = time.monotonic()
    driver.write_from(0, b"a" * 512)
    assert driver.read(0, 512) == b"a" * 512
    assert time.monotonic() - started >= 0.04


def test_the_driver_waits_for_a_slow_command_in_flight(
    controller: Controller, registers: Registers, descriptor: int, disk: MemoryDisk
) -> None:
    StorAhci(controller)
    registers[Register.LATENCY_NS] = 50_000_000
    command = threading.Thread(target=controller.write, args=(0, b"a" * 512))
    command.start()
    wait_until(lambda: controller.mode == Mode.BUSY, "the command is in flight")
    StorAhci(Controller(descriptor, disk))
    command.join()
    assert disk.content[:512] == b"a" * 512


@pytest.mark.parametrize("order", [Order.RESET, Order.POWER_OFF])
def test_a_cache_that_lies_loses_what_was_flushed(
    controller: Controller, registers: Registers, disk: MemoryDisk, order: Order
) -> None:
    driver = StorAhci(controller)
    registers[Register.CACHE] = Cache.PRESENT | Cache.ON
    driver.write_through(0, b"a" * 512)
    driver.write_from(256 * 512, b"b" * 1024)
    assert driver.read(0, 512) == b"a" * 512
    assert driver.read(257 * 512, 1024) == b"b" * 512 + bytes(512)
    assert not any(disk.content)
    controller.order(order)
    StorAhci(controller)
    assert not any(disk.content)


def test_what_does_not_fit_in_the_cache_reaches_the_medium_in_order(
    controller: Controller, registers: Registers, disk: MemoryDisk
) -> None:
    driver = StorAhci(controller)
    registers[Register.CACHE] = Cache.PRESENT | Cache.ON
    for content in (b"a", b"b"):
        driver.write_from(0, content * 512)
    for offset_bytes in range(0, CACHE_SIZE_BYTES + 4096, 4096):
        driver.write_from(4096 + offset_bytes, b"x" * 4096)
    assert disk.content[:512] == b"b" * 512
    assert disk.content[4096 : 2 * 4096] == b"x" * 4096
    assert driver.read(4096 + CACHE_SIZE_BYTES, 4096) == b"x" * 4096


def test_the_driver_switches_a_cache_off(controller: Controller, registers: Registers, disk: MemoryDisk) -> None:
    registers[Register.CACHE] = Cache.PRESENT | Cache.ON
    StorAhci(controller).write_from(0, b"a" * 512)
    assert disk.content[:512] == b"a" * 512
    assert registers[Register.CACHE] == Cache.PRESENT


def test_a_flush_is_proven_where_the_cache_cannot_be_switched_off(
    controller: Controller, registers: Registers, disk: MemoryDisk
) -> None:
    registers[Register.CACHE] = Cache.PRESENT | Cache.FIXED
    driver = StorAhci(controller)
    driver.write_from(0, b"a" * 512)
    driver.write_from(4096, b"b" * 512)
    with pytest.raises(DeviceError, match="lost 2 of 2 writes that it had acknowledged, the first at 0"):
        driver.flush()
    driver.flush()
    registers[Register.CACHE] = Cache.FIXED  # a cache that cannot be switched off, and does not lie
    driver.write_through(0, b"c" * 512)
    assert disk.content[:512] == b"c" * 512


@pytest.mark.parametrize("offset", range(0, 8 * 512, 512))
@pytest.mark.parametrize("length", [512, 1024, 2048])
def test_what_touches_a_bad_sector_fails_and_nothing_else(
    controller: Controller, registers: Registers, disk: MemoryDisk, offset: int, length: int
) -> None:
    driver = StorAhci(controller)
    bad = {2, 5, 6}
    registers.set_bad_runs([Run(2 * 512, 512), Run(5 * 512, 1024)])
    touched = [sector for sector in range(offset // 512, (offset + length) // 512) if sector in bad]
    if not touched:
        driver.write_from(offset, b"a" * length)
        assert driver.read(offset, length) == b"a" * length
        return
    for request in (
        lambda: driver.write_from(offset, b"a" * length),
        lambda: driver.read(offset, length),
        lambda: driver.discard(offset, length),
    ):
        with pytest.raises(DeviceError, match=f"medium error at sector {touched[0]}"):
            request()
    assert disk.content.count(b"a") == touched[0] * 512 - offset


def test_the_table_of_bad_sectors_is_bounded(registers: Registers) -> None:
    runs = [Run(number * 4096, 512) for number in range(BAD_RUNS_MAX)]
    registers.set_bad_runs(runs)
    registers[Register.BAD_RUNS] = 1 << 63
    assert registers.bad_runs() == runs


@pytest.mark.parametrize("budget", [0, 511, 512, 1500, 4096, 4608, 5000])
def test_the_power_goes_after_so_many_bytes_and_tears_the_write(
    controller: Controller, registers: Registers, disk: MemoryDisk, descriptor: int, budget: int
) -> None:
    driver = StorAhci(controller)
    registers[Register.POWER_LEFT_BYTES] = budget
    registers[Register.POWER] = Power.ENDING

    def write_on() -> None:
        for number in range(10):
            driver.write_from(number * 4096, b"a" * 4096)

    with pytest.raises(PowerLost):
        write_on()
    assert disk.content.count(b"a") == budget // 512 * 512
    for beyond in (driver.flush, lambda: driver.read(0, 512), lambda: StorAhci(Controller(descriptor, disk))):
        with pytest.raises(PowerLost):
            beyond()


@pytest.mark.parametrize("length", [512, 1024, 4096])
def test_a_trap_springs_half_way_through_the_write_that_it_is_set_for(
    descriptor: int, disk: MemoryDisk, length: int
) -> None:
    sprung: list[bytes] = []
    controller = Controller(descriptor, disk, on_trap=lambda: sprung.append(bytes(disk.content[: 3 * length])))
    driver = StorAhci(controller)
    controller.registers[Register.TRAP_WRITES] = 2
    for number in range(3):
        driver.write_from(number * length, b"a" * length)
        driver.read(0, 512)
    half = length // 1024 * 512
    assert sprung == [b"a" * (length + half) + bytes(2 * length - half)]


def test_a_trap_is_for_those_who_handle_it(controller: Controller, registers: Registers) -> None:
    driver = StorAhci(controller)
    registers[Register.TRAP_WRITES] = 1
    driver.write_from(0, b"a" * 512)
    assert registers[Register.TRAP_WRITES] == 1
