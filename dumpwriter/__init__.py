"""Dumps: arming, clones, the writer, recovery, export formats and the command line."""
