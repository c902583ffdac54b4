"""``limner precompute``."""

from .data import checked_examples
from .options import LOADING, Loading, Out
from .training import training


def precompute(data: str, /, *, loading: Loading = LOADING, out: Out) -> None:
    """Run the frozen encoders over a data set, for training to read; interrupted runs go on.

    Args:
        data: what `limner finetune` takes
        out: folder of the tensors
    """
    with training():
        from ...train.frozen_encoders import check_precomputed, precompute
        from ...train.resume import check_outside

        check_outside(out, data)
        check_precomputed(out)
        model, report = checked_examples(loading, data)
        count = precompute(model, report.examples, out)
    print(f"{out}: {count} tensors; train with STAGE.precomputed={out}")
