"""What the standard library does not offer of the kernel and the C library (glibc and musl alike)."""

from __future__ import annotations

import ctypes
import os

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
FALLOC_FL_PUNCH_HOLE = 2

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_LIBC.prctl.restype = ctypes.c_int
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_LIBC.fallocate.restype = ctypes.c_int


def become_subreaper() -> None:
    """Make this process the parent of every orphan among its descendants (prctl(2))."""
    if _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give back the disk space of a part of a file; its size stays. Raises OSError where it is not supported."""
    if _LIBC.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def trim_heap() -> None:
    """Give memory that is not used back to the kernel (malloc_trim(3), glibc only; elsewhere nothing happens)."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
