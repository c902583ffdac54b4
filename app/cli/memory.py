"""Whether an error says that memory ran out."""

from __future__ import annotations

import errno

NO_MEMORY = "there is not enough memory for this"
WORDS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""Of a GPU, its libraries, and torch on a CPU, whose allocator raises a plain RuntimeError"""


def out_of_memory(error: BaseException) -> bool:
    """Of Python, of the system, of a GPU, or of torch on a CPU. Does without importing torch."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(own in words for own in WORDS))
