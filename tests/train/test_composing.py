import random

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from helpers import make_limner
from limner.inference.model import Limner
from limner.train.deepen import deepened
from limner.train.recipe import grow, load_recipe
from limner.train.world.composing import compose, control, fill, hidden, shaped
from limner.train.world.held_out import is_held_out
from limner.train.world.pen import CONTROLS
from limner.train.world.scene import MASKED, render
from limner.train.world.words import facts, read_caption


def test_what_is_on_two_pictures_comes_together():
    rng = random.Random(0)
    for _ in range(200):
        asked, told = compose(rng).messages
        shown = [p["image"] for p in asked["content"] if p["type"] == "image"]
        plan, (made) = told["content"][0]["text"], told["content"][1]["image"]
        assert [s.things[0].name for s in shown] == [t.name for t in made.things]
        assert [s.things[0].color for s in shown] == [t.color for t in made.things]
        assert read_caption(plan.rstrip(":").split(": ")[1]) == facts(made)
        assert not any(is_held_out(s) for s in (*shown, made))


def test_a_warm_start_grows_and_draws_as_before(tmp_path):
    def drawn(model):
        said = {"images": "force", "max_images": 1, "max_new_tokens": 2, "num_inference_steps": 1}
        return model.generate("a cat", **said).images[0].tobytes()

    model = make_limner(prompt_tokens=6, max_references=1)
    model.detokenizer.mmdit.config.max_references = 1
    model.detokenizer.mmdit.reference_embed.data = model.detokenizer.mmdit.reference_embed.data[:1].clone()
    before = drawn(model)
    recipe = load_recipe("nano", ["glyphs.width=16"])
    grow(model, recipe)
    assert drawn(model) == before and model.detokenizer.glyphs.width == 16
    assert len(model.mllm.llm.get_decoder().layers) == 4 == model.mllm.llm.config.num_hidden_layers
    assert model.config.max_references == 2 == len(model.detokenizer.mmdit.reference_embed)
    model.save_pretrained(tmp_path / "m")
    again = Limner.from_pretrained(tmp_path / "m")
    assert (again.defaults.max_images, again.defaults.max_new_tokens) == (6, 192), "the longer of both"
    grow(again, recipe)
    assert drawn(again) == before


@pytest.mark.parametrize("backbone", ["qwen3", "llama", "gemma3_text", "mistral"])
def test_a_deeper_backbone_says_the_same_and_can_learn(backbone):
    llm = make_limner(backbone=backbone).mllm.llm
    ids = torch.arange(12)[None]
    deeper = deepened(llm, 5)
    assert torch.equal(deeper(ids).logits, llm(ids).logits) and not deeper.training
    deeper(ids, labels=ids).loss.backward()
    new = deeper.get_decoder().layers[-1]
    assert new.self_attn.o_proj.weight.grad.abs().max() > 0 and new.self_attn.layer_idx == 4
    said = [model.generate(ids, max_new_tokens=6, do_sample=False) for model in (llm, deeper)]
    assert torch.equal(*said), "with a cache, too"


def test_layers_of_another_kind_are_not_copied():
    llm = GPTNeoXForCausalLM(
        GPTNeoXConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    with pytest.raises(ValueError, match="gpt_neox layers do not write through"):
        deepened(llm, 2)


def test_a_control_picture_shows_where_and_what_and_no_colour():
    rng = random.Random(1)
    for _ in range(100):
        asked, told = control(rng).messages
        (shape,) = (p["image"] for p in asked["content"] if p["type"] == "image")
        scene = told["content"][1]["image"]
        assert shape.things == scene.things and shape.style in CONTROLS and scene.style == "flat"
        pixels = np.asarray(render(shape))
        assert np.ptp(pixels, axis=-1).max() == 0, "grey"
        assert 0.005 < (pixels[..., 0] > 90).mean() < 0.5


def test_a_masked_part_is_grey_and_hides_what_is_asked_for():
    rng = random.Random(2)
    for _ in range(100):
        asked, told = fill(rng).messages
        covered, scene = asked["content"][0]["image"], told["content"][1]["image"]
        assert scene.hole is None and covered.things == scene.things
        before, after = np.asarray(render(covered)), np.asarray(render(scene))
        changed = (before != after).any(-1)
        assert (before[changed] == MASKED).mean() > 0.9, "only the box"
        left, top, right, bottom = (round(v) for v in scene.box(hidden(covered)))
        inside = before[max(0, top) : bottom, max(0, left) : right]
        assert (inside == MASKED).all(-1).mean() > 0.9
        assert read_caption(told["content"][0]["text"].rstrip(":").split(": ")[1]) == facts(scene)


def test_only_the_shape_is_taken_of_a_picture_that_gives_the_shape():
    rng = random.Random(3)
    shapes = set()
    for _ in range(60):
        asked, told = shaped(rng).messages
        (given,) = (p["image"] for p in asked["content"] if p["type"] == "image")
        scene = told["content"][1]["image"]
        assert (given.height, given.width) == (scene.height, scene.width)
        shapes.add((scene.height, scene.width))
    assert shapes == {(128, 128), (96, 160), (160, 96)}
