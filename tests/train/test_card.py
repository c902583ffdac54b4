"""The card of what a recipe made: every command and what each stage cost, from the first run to the last."""

import json
import sys

import pytest
import torch

from helpers import TOKENS, make_limner
from limner.detokenizer.glyphs import GlyphConfig, GlyphEncoder
from limner.train import recipe as recipes
from limner.train.card import measured, parameter_summary, stage_costs
from limner.train.loop import LoopConfig
from limner.train.machine import MachineChoices

CHOICES = MachineChoices("a machine", "float32", False, 1)


def run(tmp_path, monkeypatch, name, base, *overrides, stages=("text",)):
    words = ["train", "tiny", f"output={tmp_path / name}", f"warm_start={base}", *overrides]
    monkeypatch.setattr(sys, "argv", ["limner", *words])
    quick = ["text.loop.steps=2", "text.loop.batch_size=2", "text.loop.num_workers=0", "text.loop.sample_every=0"]
    recipe = recipes.load_recipe("released", [*words[2:], "dtype=float32", "name=mine", *quick])
    return recipes.run_recipe(recipe, stages)


def test_a_card_tells_the_chain_of_warm_starts(tmp_path, monkeypatch):
    base = tmp_path / "base"
    make_limner().save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# first\n\nDrawn by hand.\n")
    one = run(tmp_path, monkeypatch, "one", base)
    card = (one / "README.md").read_text()
    (row,) = (line for line in card.splitlines() if line.startswith("| `text`"))
    assert "| 2 x 2 | 4 |" in row and f"| float32, {torch.get_num_threads()} |" in row
    assert f"    limner train tiny output={tmp_path / 'one'} warm_start={base}\n" in card
    assert card.count("Drawn by hand.") == 1 and "### first" in card and "license: mit" not in card
    two = run(tmp_path, monkeypatch, "two", one, "seed=2")
    card = (two / "README.md").read_text()
    assert card.index(f"output={tmp_path / 'one'}") < card.index(f"output={tmp_path / 'two'}")
    assert card.count("| `text`") == 2 and card.count("Drawn by hand.") == 1 and card.count("hours, ") == 2
    history = json.loads((two / "training.json").read_text())
    assert [entry["base"] for entry in history] == [str(base), str(one)] and history[1]["seed"] == 2


def test_the_costs_of_pieces_add_up(tmp_path):
    loop = LoopConfig(steps=10, batch_size=8, gradient_accumulation_steps=2)
    with pytest.raises(KeyboardInterrupt), measured(tmp_path, "joint", loop, CHOICES):
        (tmp_path / "joint/checkpoints/00000004").mkdir(parents=True)
        raise KeyboardInterrupt
    with measured(tmp_path, "joint", loop, CHOICES):
        (tmp_path / "joint/checkpoints/00000010").mkdir()
    with measured(tmp_path, "joint", loop, CHOICES):
        pass  # it is finished
    (row,) = stage_costs(tmp_path)
    assert (row["steps"], row["conversations"], row["machine"]) == (10, 160, "a machine")
    assert len((tmp_path / "costs.jsonl").read_text().splitlines()) == 2


def test_every_part_is_counted():
    model = make_limner(**TOKENS)
    model.detokenizer.add_glyph_encoder(GlyphEncoder.from_config(GlyphConfig(16, 2, 2, 32)))
    model.detokenizer.add_glyph_images(16, model.config.feature_tokens)
    said = parameter_summary(model)
    assert f"in all {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M" in said
    assert "visual tokenizer" in said and "glyphs" in said
    assert "visual tokenizer" not in parameter_summary(make_limner())
