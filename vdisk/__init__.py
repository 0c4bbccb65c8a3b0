"""The virtual disk: block device, layers, drivers, ext4 and its mount. It knows nothing of dumps."""
