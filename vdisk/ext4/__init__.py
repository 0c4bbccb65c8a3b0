"""ext4 on a block device, through libext2fs."""
