import random

import numpy as np

from limner.world.composing import compose, control, fill, masked_thing, shaped
from limner.world.held_out import is_held_out
from limner.world.pen import CONTROLS
from limner.world.scene import MASKED, render
from limner.world.words import facts, read_caption


def test_what_is_on_two_pictures_comes_together():
    rng = random.Random(0)
    for _ in range(200):
        request, reply = compose(rng).messages
        shown = [p["image"] for p in request["content"] if p["type"] == "image"]
        plan, (made) = reply["content"][0]["text"], reply["content"][1]["image"]
        assert [s.things[0].name for s in shown] == [t.name for t in made.things]
        assert [s.things[0].color for s in shown] == [t.color for t in made.things]
        assert read_caption(plan.rstrip(":").split(": ")[1]) == facts(made)
        assert not any(is_held_out(s) for s in (*shown, made))


def test_a_control_picture_shows_where_and_what_and_no_colour():
    rng = random.Random(1)
    for _ in range(100):
        request, reply = control(rng).messages
        (shape,) = (p["image"] for p in request["content"] if p["type"] == "image")
        scene = reply["content"][1]["image"]
        assert shape.things == scene.things and shape.style in CONTROLS and scene.style == "flat"
        pixels = np.asarray(render(shape))
        assert np.ptp(pixels, axis=-1).max() == 0, "grey"
        assert 0.005 < (pixels[..., 0] > 90).mean() < 0.5


def test_a_masked_part_is_grey_and_hides_what_is_asked_for():
    rng = random.Random(2)
    for _ in range(100):
        request, reply = fill(rng).messages
        covered, scene = request["content"][0]["image"], reply["content"][1]["image"]
        assert scene.hole is None and covered.things == scene.things
        before, after = np.asarray(render(covered)), np.asarray(render(scene))
        changed = (before != after).any(-1)
        assert (before[changed] == MASKED).mean() > 0.9, "only the box"
        left, top, right, bottom = (round(v) for v in scene.box(masked_thing(covered)))
        inside = before[max(0, top) : bottom, max(0, left) : right]
        assert (inside == MASKED).all(-1).mean() > 0.9
        assert read_caption(reply["content"][0]["text"].rstrip(":").split(": ")[1]) == facts(scene)


def test_only_the_shape_is_taken_of_a_picture_that_gives_the_shape():
    rng = random.Random(3)
    shapes = set()
    for _ in range(60):
        request, reply = shaped(rng).messages
        (given,) = (p["image"] for p in request["content"] if p["type"] == "image")
        scene = reply["content"][1]["image"]
        assert (given.height, given.width) == (scene.height, scene.width)
        shapes.add((scene.height, scene.width))
    assert shapes == {(128, 128), (96, 160), (160, 96)}
