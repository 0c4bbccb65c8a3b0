"""From the region to a file: scan, carve, extract, report. It knows blocks and extents, and no filesystem."""
