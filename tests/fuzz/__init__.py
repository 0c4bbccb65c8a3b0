"""Hostile dump files: small good ones, programs that edit them, and what must hold of the result whatever it is."""
