"""Memory of the process: freed blocks are kept for the next step instead of going back to the system."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let the C library reuse large freed blocks; does nothing where it is not glibc.

    By default glibc maps every large tensor anew and unmaps it when freed, so each step pays for the page
    faults of all its activations and gradients: a sixth of the time of teaching a small model on CPU. The
    price is that the process stays as large as it once was."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
