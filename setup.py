"""Only the C extension stands here: setuptools takes cffi modules from setup.py and nowhere else."""

from setuptools import setup

setup(cffi_modules=["vdisk/ext4/_build.py:ffi"])
