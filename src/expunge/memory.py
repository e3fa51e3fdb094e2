"""Memory of the process: freed blocks are kept for the next step instead of going back to the system."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


SMALL = 500_000_000  # parameters


def keep_freed_memory(parameters: int) -> None:
    """Let the C library reuse large freed blocks; does nothing where it is not glibc, or for a large model.

    By default glibc maps every large tensor anew and unmaps it when freed, so each step pays for the page
    faults of all its activations and gradients: a sixth of the time of teaching a small model on CPU. The
    price is that the process stays as large as it once was, and that blocks of many sizes add up: on the lower
    blocks of an 8B model 3 GB, for faults that do not matter beside such products. ``parameters``: of the model."""
    if parameters <= SMALL and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
