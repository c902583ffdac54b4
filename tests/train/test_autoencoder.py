import random

from limner.train.stages import autoencoder
from limner.world.objects import OBJECTS, SIGNS
from limner.world.pen import STYLES
from limner.world.scene import BACKGROUNDS


def test_the_autoencoder_learns_from_whatever_the_world_draws():
    rng = random.Random(0)
    scenes = [autoencoder.random_scene(rng) for _ in range(1000)]
    assert {s.style for s in scenes} == set(STYLES) and {s.background for s in scenes} == set(BACKGROUNDS)
    assert {t.name for s in scenes for t in s.things} >= set(SIGNS) | set(OBJECTS)
    assert {len(t.words) for s in scenes for t in s.things if t.words} == set(range(1, 9))
