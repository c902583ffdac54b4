"""Options by the names that they had in earlier versions."""

import json
from dataclasses import asdict

import pytest

from limner.train import recipe
from limner.train.config_parsing import RENAMED, current_keys
from limner.train.distill import load_config as distill_config
from limner.train.finetune import config_from_options, load_config
from limner.train.recipe_options import Recipe
from limner.train.resume import check_same_run, run_settings


def keys(values):
    for key, value in values.items():
        yield key
        yield from keys(value) if isinstance(value, dict) else ()


def test_every_new_name_is_an_option_and_no_old_one_is():
    options = asdict(Recipe())
    del options["generation"]  # they never had other names, and one is called as another's former name
    known = {*keys(options), *keys(asdict(load_config()))}
    assert set(RENAMED.values()) <= known and not RENAMED.keys() & known


def test_recipes_and_overrides_are_read_by_their_old_names(tmp_path):
    old = [
        "language.word_dropout=0.3",
        "joint.loop.max_grad_norm=2.0",
        "judge={bent: 0.1}",
        "tokenizer.vocab_size=500",
        "vision.loop.save_total_limit=4",
    ]
    new = [
        "language.word_dropout=0.3",
        "joint.loop.max_grad_norm=2.0",
        "judge.warp_rate=0.1",
        "tokenizer.vocab_size=500",
        "vision.loop.save_total_limit=4",
    ]
    made = recipe.load_recipe("tiny", old)
    assert (
        made == recipe.load_recipe("tiny", new)
        and made.language.word_dropout == 0.3
        and made.vision.loop.save_total_limit == 4
    )
    (tmp_path / "old.yaml").write_text("language: {slips: 0.2, loop: {warmup: 7}}\ndecoder: {crop: 32}\n")
    mine = recipe.load_recipe(str(tmp_path / "old.yaml"))
    assert (mine.language.word_dropout, mine.language.loop.warmup_steps, mine.decoder.crop_size) == (0.2, 7, 32)


def test_an_option_of_generation_may_be_called_as_another_was(tmp_path):
    assert recipe.load_recipe("tiny", ["generation.keep=exact"]).generation.keep == "exact"
    (tmp_path / "own.yaml").write_text("generation: {keep: exact}\nvision: {loop: {keep: 3}}\n")
    mine = recipe.load_recipe(str(tmp_path / "own.yaml"))
    assert (mine.generation.keep, mine.vision.loop.save_total_limit) == ("exact", 3)


def test_finetuning_and_distillation_too():
    made = load_config(["plan_share=0.5", "joint.loop.num_workers=0", "joint.loop.decay_ratio=0.1"])
    assert (made.plan_share, made.joint.loop.num_workers, made.joint.loop.decay_ratio) == (0.5, 0, 0.1)
    assert config_from_options({"planned": 0.5, "extra": ["boi"]}).modules_to_save == ("boi",)
    assert load_config(["extra=[queries,boi]"]).modules_to_save == ("queries", "boi")
    assert distill_config(["loop.gradient_accumulation_steps=2"]).loop.gradient_accumulation_steps == 2


def test_both_names_of_one_option_are_refused():
    with pytest.raises(ValueError, match="keep is the former name of save_total_limit; give one of them"):
        current_keys({"loop": {"keep": 1, "save_total_limit": 2}})


def test_a_run_that_was_stopped_before_the_renaming_goes_on(tmp_path):
    old_names = {new: old for old, new in RENAMED.items()}

    def as_before(values):
        return {old_names.get(k, k): as_before(v) for k, v in values.items()} if isinstance(values, dict) else values

    settings = {"stage": run_settings(recipe.load_recipe("tiny").language), "seed": 1, "base": "abc"}
    (tmp_path / "settings.json").write_text(json.dumps(as_before(settings)))
    assert "slips" in (tmp_path / "settings.json").read_text()
    check_same_run(tmp_path, settings)
    with pytest.raises(ValueError, match=r"stage\.word_dropout was 0\.0, now 0\.2"):
        check_same_run(tmp_path, settings | {"stage": settings["stage"] | {"word_dropout": 0.2}})
