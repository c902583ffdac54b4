"""``limner distill``."""

from .options import NANO, ModelChoice, Out, Settings
from .paths import quoted
from .training import training


def distill(*, choice: ModelChoice = NANO, out: Out, settings: Settings = ()) -> None:
    """Train a student that draws in a few steps; interrupted runs go on.

    Args:
        out: folder of the adapter
        settings: such as steps=2 loop.steps=1000; repeatable
    """
    with training():
        from ...train import distill
        from ...train.recipe import load_recipe

        config = distill.load_config(settings)
        model = choice.load()
        prompts = load_recipe("nano").joint.sample_prompts[:8] if model.config.replay == "world" else ()
        folder = distill.distill(model, out, config, prompts)
    print(f"{folder}: limner chat --adapter {quoted(folder)}")
