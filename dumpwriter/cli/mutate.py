"""lab mutate: faults planted in the product one at a time, each in a process of its own, and what finds them."""

from __future__ import annotations

import contextlib
import json
import math
import selectors
import signal
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.campaign.jobs import INTERRUPTS
from dumpwriter.cli import FAILED_EXIT_CODE, INTERRUPTED_EXIT_CODE
from dumpwriter.cli.findings import versions
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import print_json
from dumpwriter.commandline import command_line
from dumpwriter.lab.planted import CONTROL, FAULTS
from dumpwriter.lab.planting import PlantedFault
from vdisk.errors import GhostdumpError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterable, Iterator, Sequence

OUT_OF_TIME = "the time was over before all experiments were through"


class Hunt(NamedTuple):
    """What became of one fault. No experiment where it survived; CPU seconds until it was found, or in all."""

    fault: PlantedFault
    experiment: str
    what: str
    cpu_seconds: float

    @property
    def is_as_it_should_be(self) -> bool:
        """The control must survive, and nothing else may."""
        return self.what == "" if self.fault is CONTROL else bool(self.experiment)


def run(arguments: argparse.Namespace) -> int:
    """Without names all faults, and the control. Ctrl-C ends it with what was found until then."""
    faults = _chosen(arguments.name)
    if arguments.list:
        _list(faults, as_json=arguments.json)
        return 0
    results: list[Hunt] = []
    hunting = hunts(faults, arguments.seconds, arguments.jobs)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(hunting), progress_bar("mutate") as show:
        for result in hunting:
            results.append(result)
            show(len(results), len(faults))
            if not arguments.json and not arguments.markdown:
                print(_line(result), flush=True)
    results.sort(key=lambda result: faults.index(result.fault))
    if arguments.json:
        print_json(_document(results, arguments.seconds))
    else:
        print(_as_markdown(results, arguments.seconds) if arguments.markdown else _score(results))
    if len(results) < len(faults):
        return INTERRUPTED_EXIT_CODE
    return 0 if all(result.is_as_it_should_be for result in results) else FAILED_EXIT_CODE


def _chosen(names: Sequence[str]) -> list[PlantedFault]:
    known = FAULTS | {CONTROL.name: CONTROL}
    for name in names:
        if name not in known:
            raise UsageError(f"{name!r} is no planted fault: {command_line('lab', 'mutate', '--list')} names them")
    return [known[name] for name in dict.fromkeys(names)] or [CONTROL, *FAULTS.values()]


def hunts(faults: Iterable[PlantedFault], seconds: int, jobs: int) -> Generator[Hunt]:
    """Each fault in a process of its own, so many side by side, as they end. Who stops asking ends them."""
    waiting, running = deque(faults), dict[subprocess.Popen[str], PlantedFault]()
    with selectors.DefaultSelector() as ended:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    fault = waiting.popleft()
                    with _undisturbed():
                        process = _start(fault, seconds)
                        running[process] = fault
                    ended.register(process.stdout or 0, selectors.EVENT_READ, process)
                for key, _ in ended.select():
                    ended.unregister(key.fileobj)
                    yield _result(running[key.data], key.data, seconds)
                    del running[key.data]
        finally:
            for process in running:
                process.kill()
                process.communicate()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """An interrupt waits for the end of this: no process is begun of which nobody knows.

    To block the signals would not do, for a thread of some library may take them in our stead.
    """
    came: list[int] = []
    handlers = {order: signal.signal(order, lambda number, _: came.append(number)) for order in INTERRUPTS}
    try:
        yield
    finally:
        for order, handler in handlers.items():
            signal.signal(order, handler)
    if came:
        raise KeyboardInterrupt


def _start(fault: PlantedFault, seconds: int) -> subprocess.Popen[str]:
    """-P: not from the working directory. A session of its own: what interrupts us is for us."""
    command = [sys.executable, "-P", "-m", "dumpwriter.cli.hunted", fault.name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _result(fault: PlantedFault, process: subprocess.Popen[str], seconds: int) -> Hunt:
    told, complaint = process.communicate()
    if process.returncode == -signal.SIGXCPU:
        return Hunt(fault, "", OUT_OF_TIME, seconds)
    if process.returncode:
        why = complaint.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise GhostdumpError(f"the hunt for {fault.name} failed: {why[0]}")
    facts = json.loads(told)
    find = facts["find"] or {"experiment": "", "what": ""}
    return Hunt(fault, find["experiment"], find["what"], facts["cpu_seconds"])


def _list(faults: Sequence[PlantedFault], *, as_json: bool) -> None:
    if as_json:
        print_json({"faults": [_facts(fault) for fault in faults]})
        return
    for fault in faults:
        print(f"{fault.name:<38} {fault.module:<34} {fault.breaks}")


def _facts(fault: PlantedFault) -> dict[str, Any]:
    return {"name": fault.name, "module": fault.module, "breaks": fault.breaks}


def _line(result: Hunt) -> str:
    if result.experiment:
        return f"{result.fault.name:<38} {result.cpu_seconds:>6.2f} s  {result.experiment}: {result.what}"
    return f"{result.fault.name:<38} {result.cpu_seconds:>6.2f} s  {_survivor(result)}"


def _survivor(result: Hunt) -> str:
    verdict = "nothing found" if result.fault is CONTROL else "SURVIVED"
    return f"{verdict}: {result.what}" if result.what else verdict


def _counts(results: Sequence[Hunt]) -> tuple[int, int, float]:
    """Faults, those that were found, and these in percent."""
    planted = [result for result in results if result.fault is not CONTROL]
    found = sum(bool(result.experiment) for result in planted)
    return len(planted), found, round(100 * found / len(planted), 2) if planted else 0.0


def _score(results: Sequence[Hunt]) -> str:
    planted, found, percent = _counts(results)
    if not planted:
        return "no planted fault was hunted to its end"
    slowest = max((result.cpu_seconds for result in results if result.experiment), default=0)
    return f"{found} of {planted} planted faults found: {percent} %; the slowest after {slowest:.1f} CPU seconds"


def _document(results: Sequence[Hunt], seconds: int) -> dict[str, Any]:
    planted, found, percent = _counts(results)
    return {
        "planted": planted,
        "found": found,
        "score_percent": percent,
        "seconds": seconds,
        "faults": [
            _facts(result.fault)
            | {
                "experiment": result.experiment or None,
                "what": result.what,
                "cpu_seconds": result.cpu_seconds,
                "replay": command_line("lab", "mutate", result.fault.name),
            }
            for result in results
        ],
        "holds": all(result.is_as_it_should_be for result in results),
        "versions": versions(),
    }


def _as_markdown(results: Sequence[Hunt], seconds: int) -> str:
    planted, found, percent = _counts(results)
    lines = [
        "# Planted faults",
        "",
        "Who tests the tester: each of these faults was planted in the product alone, in a process of its own, and",
        f"hunted by the laboratory's experiments for up to {seconds} CPU seconds. A run with nothing planted finds",
        "nothing. `make mutants` writes this page, `ghostdump lab mutate NAME` plants one fault again.",
        "",
        f"**{found} of {planted} found: {percent} %.**",
        "",
        "| Fault | In | What it breaks | Found by | CPU seconds, up to |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        if result.fault is not CONTROL:
            name, module, breaks = result.fault.name, result.fault.module, result.fault.breaks
            seconds_up = max(1, math.ceil(result.cpu_seconds))
            lines.append(f"| `{name}` | `{module}` | {breaks} | {result.experiment or '**survived**'} | {seconds_up} |")
    return "\n".join(lines)
