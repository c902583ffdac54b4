"""Recipes from files: the shipped ones, one's own, and the groups that an override chooses from."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from limner.app.cli import main as cli
from limner.detokenizer.autoencoder import kl_autoencoder
from limner.train import recipe_files
from limner.train.recipe import build_model, load_recipe
from limner.train.recipe_options import Recipe
from limner.train.resume import flatten
from limner.train.stages.tokenizer import TokenizerStage, run_tokenizer
from limner.train.stages.vision import new_eye

VALUES = json.loads((Path(__file__).parent.parent / "data/recipes.json").read_text())
"""What each shipped recipe had beyond the defaults when it was one file"""


def changed(recipe):
    """What a recipe has beyond the defaults, as JSON has it."""
    plain, values = (dict(flatten(json.loads(json.dumps(asdict(r))))) for r in (Recipe(), recipe))
    return {key: value for key, value in values.items() if value != plain[key]}


def refused(capsys, *words):
    """What `limner train` says of a mistake: one line."""
    status = cli.main(["train", *words])
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.fixture
def trained(monkeypatch):
    """Recipes that `limner train` was about to run."""
    recipes = []
    monkeypatch.setattr("limner.train.recipe.run_recipe", lambda recipe, stages: recipes.append(recipe))
    return recipes


@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_shipped_recipes_are_what_they_were(name):
    assert {path.stem for path in (recipe_files.CONFIGS / "recipe").glob("*.yaml")} == set(VALUES)
    assert changed(load_recipe(name)) == VALUES[name]


def test_a_file_of_ones_own_on_top_of_a_shipped_one(tmp_path, monkeypatch, trained):
    folder = tmp_path / "my, 'own'"
    (folder / "backbone").mkdir(parents=True)
    (folder / "backbone/large.yaml").write_text("{hidden_size: 1024, num_hidden_layers: 12}\n")
    file = folder / "recipe.yaml"
    file.write_text(
        "defaults: [recipe/tiny, _self_]\nname: mine\njoint: {loop: {steps: 7, warmup_steps: 2}, sample_prompts: [a cat]}\n"
    )
    assert cli.main(["train", str(file), "joint.loop.batch_size=3", "--set", "joint.loop.steps=9"]) == 0
    monkeypatch.chdir(folder)
    assert cli.main(["train", "recipe.yaml", "backbone=small", "data=folders", "sft.data=[talks]"]) == 0
    assert cli.main(["train", "./recipe.yaml", "backbone=large", "backbone.num_hidden_layers=3"]) == 0
    mine, grouped, own = trained
    of_file = {"name": "mine", "joint.loop.steps": 9, "joint.loop.warmup_steps": 2, "joint.loop.batch_size": 3}
    assert changed(mine) == VALUES["tiny"] | of_file | {"joint.sample_prompts": ["a cat"]}
    assert (grouped.backbone.hidden_size, grouped.backbone.num_hidden_layers) == (512, 8)
    assert grouped.joint.data == ("pictures:0.5", "documents:0.3", "edits:0.2") and grouped.sft.data == ("talks",)
    assert (own.backbone.hidden_size, own.backbone.num_hidden_layers) == (1024, 3)


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [/recipe/tiny, _self_]\nseed: 3\n",
        "defaults:\n  - recipe: tiny\n  - _self_\nseed: 3\n",
        "defaults:\n  - recipe: tiny\n  - override /backbone: tiny\n  - _self_\nseed: 3\n",
    ],
)
def test_the_ways_that_hydra_has_to_name_another_file(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    assert changed(load_recipe(str(tmp_path / "a.yaml"))) == VALUES["tiny"] | {"seed": 3}


def test_a_file_that_names_no_other_is_on_top_of_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("{seed: 3, joint: {loop: {warmup: 2}}}\n")
    assert changed(load_recipe(str(tmp_path / "a.yaml"))) == {"seed": 3, "joint.loop.warmup_steps": 2}
    assert load_recipe(str(tmp_path / "a.yaml"), ["+backbone=small"]).backbone.hidden_size == 512


def test_values_of_a_group_and_groups_of_ones_own(tmp_path):
    (tmp_path / "joint").mkdir()
    for name, steps in (("short", 3), ("long", 77)):
        (tmp_path / f"joint/{name}.yaml").write_text(f"loop: {{steps: {steps}}}\n")
    (tmp_path / "a.yaml").write_text("defaults: [joint: short, _self_]\nseed: 3\n")
    file = str(tmp_path / "a.yaml")
    assert changed(load_recipe(file, ["backbone={hidden_size: 128}"])) == {
        "seed": 3,
        "joint.loop.steps": 3,
        "backbone.hidden_size": 128,
    }
    assert changed(load_recipe(file, ["joint=long"])) == {"seed": 3, "joint.loop.steps": 77}


@pytest.mark.slow
def test_groups_of_the_shipped_recipes():
    nano = load_recipe("nano")
    small = load_recipe("nano", ["backbone=small", "data=world"])
    assert small.backbone.hidden_size == 512 and small.language.data == ("world",) != nano.language.data
    assert small.mmdit == nano.mmdit and small.language.loop == nano.language.loop
    assert load_recipe("nano", ["backbone={hidden_size: 128}"]).backbone.hidden_size == 128
    for name in ("backbone", "data"):
        for path in (recipe_files.CONFIGS / name).glob("*.yaml"):
            load_recipe("nano", [f"{name}={path.stem}"])


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("joint: {loop: {stepz: 7}}", [], r"a\.yaml: unknown key 'stepz' in joint\.loop; there are batch_size, "),
        ("joint: {loop: {stepz: 7}}", ["seed=3"], r"a\.yaml: unknown key 'stepz' in joint\.loop"),
        ("seed: many", [], r"a\.yaml: seed must be of type int, not 'many'"),
        ("seed: 1", ["joint.loop.stepz=7"], r"limner: joint\.loop\.stepz=7: unknown key 'stepz' in joint\.loop"),
        ("seed: {", [], r"a\.yaml: while parsing a flow node .*a\.yaml., line 2, column 1"),
        ("defaults: [recipe/huge, _self_]", [], r"a\.yaml: In 'a': Could not load 'recipe/huge'\.$"),
        ("seed: ${nothing}", [], r"a\.yaml: Interpolation key 'nothing' not found \(seed\)"),
        ("seed: 1", ["backbone=small"], "backbone=small: Could not override 'backbone'.*use .backbone=small"),
        ("defaults: [recipe/tiny, _self_]", ["backbone=huge"], r"Could not find 'backbone/huge' .*: nano small tiny"),
        ("joint: {loop: {keep: 1, save_total_limit: 2}}", [], r"a\.yaml: keep is the former name of save_total_limit"),
        ("- 1", [], r"a\.yaml: primary config 'a' must be a DictConfig"),
    ],
)
def test_mistakes_name_the_file_or_the_override_and_the_key(capsys, tmp_path, text, overrides, said):
    (tmp_path / "a.yaml").write_text(text + "\n")
    message = refused(capsys, str(tmp_path / "a.yaml"), *overrides)
    assert re.search(said, message.strip()), message


def test_files_that_are_not_there_are_refused(capsys, tmp_path):
    (tmp_path / "a.yml").write_text("seed: 1\n")
    assert "no such file: my/recipe.yaml" in refused(capsys, "my/recipe.yaml")
    shipped = "nano, nano_queries, nano_tokens, released, tiny"
    assert f"no recipe 'mine'; there are {shipped}, or the path of" in refused(capsys, "mine")
    assert "Hydra reads files whose names end in .yaml" in refused(capsys, str(tmp_path / "a.yml"))


def test_a_backbone_of_another_size_fits_the_rest_of_nano(tmp_path):
    recipe = load_recipe("nano", ["backbone=small"])
    words = run_tokenizer(TokenizerStage(vocab_size=400, num_lines=50), 1, tmp_path)
    model = build_model(recipe, words, new_eye(recipe.stream, recipe.vision), kl_autoencoder((64, 128), 8, 4))
    backbone = sum(p.numel() for n, p in model.mllm.llm.named_parameters() if "embed" not in n)
    assert model.mllm.width == 512 and 24e6 < backbone < 26e6, "as its file says"
