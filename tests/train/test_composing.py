import random

import numpy as np

from helpers import make_limner
from limner.inference.model import Limner
from limner.train.recipe import grow, load_recipe
from limner.train.world.composing import compose, control
from limner.train.world.held_out import is_held_out
from limner.train.world.scene import render
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
    assert model.config.max_references == 2 == len(model.detokenizer.mmdit.reference_embed)
    model.save_pretrained(tmp_path / "m")
    again = Limner.from_pretrained(tmp_path / "m")
    grow(again, recipe)
    assert drawn(again) == before


def test_a_control_picture_shows_where_and_what_and_no_colour():
    rng = random.Random(1)
    for _ in range(100):
        asked, told = control(rng).messages
        (shape,) = (p["image"] for p in asked["content"] if p["type"] == "image")
        scene = told["content"][1]["image"]
        assert shape.things == scene.things and shape.style in ("edges", "silhouette") and scene.style == "flat"
        pixels = np.asarray(render(shape))
        assert np.ptp(pixels, axis=-1).max() == 0, "grey"
        assert 0.005 < (pixels[..., 0] > 128).mean() < 0.5
