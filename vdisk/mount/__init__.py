"""The mount: the filesystem shown to Linux through FUSE."""
