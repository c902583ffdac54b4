"""Whether an error says that memory ran out."""

from __future__ import annotations


def out_of_memory(error: BaseException) -> bool:
    """Of Python, of a GPU, or of torch on a CPU, whose allocator raises a plain RuntimeError. Does without importing torch."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in words or "not enough memory" in words or "can't allocate memory" in words)
    )
