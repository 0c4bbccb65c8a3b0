"""Damaged metadata gives declared errors: never another exception, never a crash or an endless loop in the library."""

from __future__ import annotations

import subprocess
import sys

IMAGES = 250


def test_damaged_images_give_declared_errors() -> None:
    command = [sys.executable, "-m", "tests.ext4_damage", "0", str(IMAGES)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > IMAGES // 2, "most images have to be usable enough to look further"
