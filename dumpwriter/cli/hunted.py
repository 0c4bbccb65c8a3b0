"""A process with one planted fault, which is hunted in it: started by `lab mutate`, and told the fault and the time.

Nothing of the product may be imported before the fault is planted. What was found goes to standard output, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from dumpwriter.lab.planted import CONTROL, FAULTS
from dumpwriter.lab.planting import plant


def main(name: str, seconds: str) -> None:
    """Ends with SIGXCPU where the time is over."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    plant(CONTROL if name == CONTROL.name else FAULTS[name])
    from dumpwriter.lab.hunting import EXPERIMENTS, hunt

    find = hunt(EXPERIMENTS)
    print(json.dumps({"find": find and find._asdict(), "cpu_seconds": round(time.process_time(), 2)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
