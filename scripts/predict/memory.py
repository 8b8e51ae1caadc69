"""Memory that a process keeps for its next arrays instead of giving it back after each."""

import ctypes

# parameters of glibc's mallopt(3), by the numbers of malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 2**30  # bytes of an array that still comes from kept memory; a volume's larger ones go back to the system


def keep_freed_memory() -> bool:
    """Have the C library make arrays of what was freed before, for the rest of the process.

    Else glibc asks the system for every array of more than 32 MB, and the system has to empty its pages first; with
    a network's activations that took a quarter of the time of a forward pass. Other C libraries, and those of old that
    know no such threshold, are left as they are.

    Returns:
        Whether it does so now.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    never = -1
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, never))
