"""Planted faults of recovery: which slots are read, which frames are believed, and where their pages go."""

from __future__ import annotations

SCAN = "dumpwriter.recovery.scan"

FAULTS = ()
