"""Dump formats that other tools read; each pure, without I/O of its own."""
