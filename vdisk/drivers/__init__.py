"""The drivers between the filesystem and the controller."""
