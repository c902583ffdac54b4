"""A picture is drawn in parts, and is what it would be if it were drawn whole."""

import random
from dataclasses import replace

import pytest
from PIL import Image, ImageChops, ImageDraw

from limner.world import scene as scenes
from limner.world.objects import OBJECTS, SIGNS
from limner.world.objects.shapes import drawing, oval, poly
from limner.world.pen import COLORS, CONTROLS, STYLES
from limner.world.scene import BACKGROUNDS, SIZES, Scene, Thing, ground, render


def drawn_whole(scene, scale=1.0):
    """On one canvas of twice the size, which is then reduced."""
    height, width = (2 * round(side * scale) for side in (scene.height, scene.width))
    upper, lower = (ground(ink, scene.style) for ink in BACKGROUNDS[scene.background])
    image = Image.new("RGB", (width, height), upper)
    canvas = ImageDraw.Draw(image)
    if lower != upper:
        canvas.rectangle((0, 0.6 * height, width, height), lower)
    scenes._draw(scene, canvas, 2 * scale, range(len(scene.things)))
    if scene.hole is not None:
        left, top, right, bottom = scene.hole
        canvas.rectangle((left * width, top * height, right * width, bottom * height), scenes.MASKED)
    return image.reduce(2)


def random_scene(rng):
    """Anything anywhere, over one another and across the edges."""
    things, spread = [], rng.choice((0.3, 0.6))
    for name in rng.choices((*OBJECTS, *SIGNS), k=rng.choice((1, 1, 2, 3, 5))):
        words = "".join(rng.choices("ABCDEFGH", k=rng.randint(1, 8))) if name in SIGNS else ""
        x, y = (0.5 + rng.uniform(-spread, spread) for _ in "xy")
        things.append(Thing(name, rng.choice(tuple(COLORS)), rng.choice(tuple(SIZES)), x, y, words))
    height, width = rng.choice(((128, 128), (96, 160), (160, 96), (61, 97)))
    hole = (0.2, 0.31, 0.63, 0.7) if rng.random() < 0.15 else None
    style = rng.choice((*STYLES, *CONTROLS))
    return Scene(tuple(things), rng.choice(tuple(BACKGROUNDS)), height, width, style, hole)


def test_pictures_are_those_that_are_drawn_whole():
    rng = random.Random(3)
    for number in range(400):
        scene, scale = random_scene(rng), rng.choice((1, 1, 1, 0.5, 2))
        assert render(scene, scale).tobytes() == drawn_whole(scene, scale).tobytes(), (number, scene)


@pytest.mark.parametrize("style", [*STYLES, *CONTROLS])
def test_so_is_every_object(style):
    for name in (*OBJECTS, *SIGNS):
        for size in SIZES:
            scene = Scene((Thing(name, "red", size, 0.47, 0.52, "QM" if name in SIGNS else ""),), "room", style=style)
            assert render(scene).tobytes() == drawn_whole(scene).tobytes(), (name, size)


def test_a_thing_that_was_added_may_leave_its_box(monkeypatch):
    wide = drawing(poly([(-2.5, -0.2), (2.5, -0.2), (2.5, 0.2), (-2.5, 0.2)]), oval(-0.2, -2, 0.2, -1.5))
    monkeypatch.setitem(OBJECTS, "cat", wide)
    scene = Scene((Thing("cat", "red", "small", 0.5, 0.6), Thing("dog", "blue", "small", 0.8, 0.6)))
    assert render(scene).tobytes() == drawn_whole(scene).tobytes()
    alone = replace(scene, things=scene.things[:1])
    left, top, right, bottom = ImageChops.difference(render(alone), render(replace(alone, things=()))).getbbox()
    assert right - left > 4 * 0.15 * 128 and bottom - top > 2 * 0.15 * 128
