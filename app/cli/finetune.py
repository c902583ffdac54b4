"""``limner finetune``."""

from typing import Annotated

from cyclopts import Parameter

from .options import NANO, ModelChoice, Out, Settings, Whole
from .paths import quoted
from .training import training


def finetune(
    data: str,
    /,
    *,
    choice: ModelChoice = NANO,
    out: Out,
    max_steps: Annotated[Whole | None, Parameter(alias="--steps")] = None,
    settings: Settings = (),
    dry_run: bool = False,
) -> None:
    """Teach a model something new with LoRA; interrupted runs go on.

    Args:
        data: pictures with captions, conversations, tar shards, a hub data set id
        out: folder of the adapter
        max_steps: training steps (default: 375)
        settings: such as rank=8 joint.loop.batch_size=8; repeatable
        dry_run: check the data, take two steps, write nothing
    """
    # at once: importing torch takes seconds
    print(f"finetune  {choice.model} on {data}, into {out}", flush=True)
    with training():
        from ...train import finetune

        steps = [] if max_steps is None else [f"joint.loop.steps={max_steps}"]
        config = finetune.load_config([*settings, *steps])
        folder = finetune.finetune(choice.load(), data, out, config, dry_run)
    if not dry_run:
        print(f"{folder}: limner chat --adapter {quoted(folder)}")
