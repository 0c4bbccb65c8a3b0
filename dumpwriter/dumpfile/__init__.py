"""Dump files as others and we wrote them, read back: one reader a format, each pure over a read function."""
