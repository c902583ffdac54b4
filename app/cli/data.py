"""``limner data check`` and ``limner data filter``."""

from typing import Any

from ...train.datasets.rules import Rules
from .options import ModelChoice, Out, takes
from .training import training


def check(data: str, /, *, model: str = "nano") -> None:
    """Look through a data set: what is there, what is wrong, and its first examples as the model will see them.

    Args:
        data: what `limner finetune` takes
        model: whose tokens and shapes count: embedded name, folder or hub id
    """
    with training():
        checked_examples(ModelChoice(model, device="cpu"), data, shown=3)


def checked_examples(choice: ModelChoice, data: str, shown: int = 0) -> tuple[Any, Any]:
    """The model, and a data set's report, printed, with the first ``shown`` examples.

    Raises ValueError for a data set that cannot be trained on.
    """
    from ...train.datasets import check, notes, preview, readers

    model, seen = choice.load(), notes.Notes()
    report = check.check(readers.read(data, seen), model.encoder, model.mllm.max_position_embeddings, notes=seen)
    print(report.table())
    for number, example in enumerate(report.examples[:shown], 1):
        print(f"\n{number}. {preview.preview(example, model.encoder)}")
    report.raise_if_unusable()
    return model, report


@takes(Rules)
def filter_data(data: str, /, *, out: Out, **rules: Any) -> None:
    """Copy what passes the rules into a new data set.

    Args:
        data: what `limner finetune` takes
        out: folder of the filtered data set; its dropped.jsonl says why examples were dropped
    """
    with training():
        from ...train.datasets import filter

        counts = filter.filter_dataset(data, out, Rules(**rules))
    print(f"kept {counts['kept']}, dropped {counts['dropped']} ({out / 'dropped.jsonl'} says why)")
