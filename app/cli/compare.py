"""``limner compare``."""

from pathlib import Path


def compare(before: Path, after: Path, /) -> None:
    """Compare two evaluations of the same questions, question by question.

    Args:
        before: a folder of limner eval world
        after: another one, of other weights, an adapter or other steps
    """
    from ...evaluation.compare import compare

    compare(before, after)
