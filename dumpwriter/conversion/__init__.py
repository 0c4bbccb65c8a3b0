"""From one dump file to another: which pages, in which format, to which place."""
