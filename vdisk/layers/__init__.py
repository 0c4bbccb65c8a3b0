"""Layers over a block device; each does one thing and passes the rest on."""
