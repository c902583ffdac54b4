"""Options are never changed by who receives them: they are frozen, and a run notes what it chose in a copy."""

from dataclasses import asdict, fields, is_dataclass, replace

import pytest

from helpers import make_limner
from limner.train import recipe as recipes
from limner.train.distill import DistillConfig
from limner.train.finetune import FinetuneConfig, fill_defaults, finetune, load_config
from limner.train.recipe import Recipe, extend_model, load_recipe


def options(config):
    """A configuration and all those within it that belong to training."""
    yield config
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and type(value).__module__.startswith("limner.train"):
            yield from options(value)


@pytest.mark.parametrize("made", [FinetuneConfig(), DistillConfig(), Recipe()], ids=lambda made: type(made).__name__)
def test_options_are_frozen(made):
    found = list(options(made))
    assert len(found) > 1
    for config in found:
        with pytest.raises(AttributeError, match="cannot assign"):
            setattr(config, fields(config)[0].name, None)


def test_fine_tuning_fills_in_a_copy(data, tmp_path):
    quick = ["joint.loop.steps=1", "joint.loop.batch_size=1", "joint.loop.num_workers=0", "rank=2", "samples=0"]
    config = load_config(quick)
    before = asdict(config)
    finetune(make_limner(), data, tmp_path / "out", config, dry_run=True)
    assert asdict(config) == before and not config.joint.loop.learning_rate and not config.streams
    filled = fill_defaults(config, make_limner())
    assert filled.joint.loop.learning_rate > 0 and filled.streams == ("image", "context")
    given = replace(
        config, streams=("image",), joint=replace(config.joint, loop=replace(config.joint.loop, learning_rate=1))
    )
    assert fill_defaults(given, make_limner()) == given


def test_a_dry_run_is_two_steps_of_a_copy(monkeypatch):
    seen = []
    monkeypatch.setattr(recipes, "run_recipe", lambda recipe, stages: seen.append(recipe))
    recipe = load_recipe("nano")
    before = asdict(recipe)
    recipes.dry_run(recipe)
    assert asdict(recipe) == before and seen[0].output != recipe.output
    loops = [getattr(seen[0], name).loop for name in recipes.STAGES if name != "tokenizer"]
    assert {(loop.steps, loop.save_every, loop.warmup_steps) for loop in loops} == {(2, 2, 1)}
    assert all(loop.sample_every == 2 for loop in loops[:-1]) and loops[-1].sample_every == 0, "a student has its own"
    assert seen[0].joint.data == recipe.joint.data and seen[0].joint.loop.batch_size == recipe.joint.loop.batch_size


def test_a_model_that_gains_references_has_a_configuration_of_its_own():
    model = make_limner(max_references=1)
    mmdit = model.detokenizer.mmdit
    mmdit.config = replace(mmdit.config, max_references=1)
    mmdit.reference_embed.data = mmdit.reference_embed.data[:1].clone()
    before, theirs = model.config, mmdit.config
    extend_model(model, load_recipe("nano"))
    assert before.max_references == 1 == theirs.max_references
    assert {c.max_references for c in (model.config, model.mllm.config, model.encoder.config, mmdit.config)} == {2}
