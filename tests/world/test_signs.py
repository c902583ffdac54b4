import random
from dataclasses import replace

import numpy as np

from limner.mllm.glyph_text import find_glyph_text, quoted_strings
from limner.world.objects import OBJECTS, SIGNS
from limner.world.scene import Scene, Thing, render
from limner.world.signs import COMMON, MAX_LETTERS, is_held_out_word, random_word, sign, sign_scene


def test_what_is_asked_for_is_what_is_drawn():
    """The word reaches the drawing by the rule that training and decoding share, whatever was typed around it."""
    rng = random.Random(0)
    written = kept_from_before = found_by_model = 0
    for _ in range(500):
        request, reply = sign(rng).messages
        said = " ".join(p["text"] for p in request["content"] if p["type"] == "text")
        (drawn,) = (p["image"] for p in reply["content"] if p["type"] == "image")
        shown = [p["image"] for p in request["content"] if p["type"] == "image"]
        plan = reply["content"][0]["text"]
        assert plan.endswith(":") and not plan.endswith("::")
        assert bool(quoted_strings(plan)) != bool(quoted_strings(said)) or not (
            quoted_strings(plan) or quoted_strings(said)
        ), "one of them spells it"
        words = drawn.things[0].words
        found = find_glyph_text(plan, said)
        if found:
            assert tuple(w.upper() for w in found) == (words,)
            written += 1
            found_by_model += bool(quoted_strings(plan))
        else:
            assert shown[0].things[0].words == words, "nothing quoted: what the picture shown says stays"
            kept_from_before += 1
    assert written > 300 and kept_from_before > 20 and found_by_model > 10


def test_words_fit_their_things_and_some_are_never_trained_on():
    rng = random.Random(1)
    made = [random_word(rng, 8) for _ in range(3000)]
    assert {len(w) for w in made} == set(range(1, 9)) and not any(map(is_held_out_word, made))
    assert all(is_held_out_word(random_word(rng, 8, held_out=True)) for _ in range(50))
    for _ in range(300):
        (thing,) = sign_scene(rng).things
        assert 1 <= len(thing.words) <= MAX_LETTERS[thing.name]
    assert len(set(COMMON)) == len(COMMON) and all(w == w.upper() and len(w) <= 8 for w in COMMON)


def test_every_sign_shows_its_words_inside_its_box():
    assert not set(SIGNS) & set(OBJECTS)
    for name in SIGNS:
        for color in ("blue", "yellow", "black", "white"):
            plain, said = (
                np.asarray(render(Scene((Thing(name, color, "large", 0.5, 0.5, words),))), int) for words in ("", "AW")
            )
            changed = np.abs(plain - said).max(-1) > 60
            columns = np.nonzero(changed)[1]
            assert changed.sum() > 40 and columns.min() > 64 - 57 and columns.max() < 64 + 57, (name, color)
            other = np.asarray(render(Scene((Thing(name, color, "large", 0.5, 0.5, "WA"),))), int)
            assert (np.abs(said - other).max(-1) > 60).sum() > 20


def test_letters_are_large_enough_to_be_read():
    """At least eight pixels for each, on whatever carries them, and the whole sign is in the picture."""
    rng = random.Random(2)
    for _ in range(300):
        scene = sign_scene(rng)
        (thing,) = scene.things
        bare = replace(scene, things=(replace(thing, words=""),))
        inked = (np.asarray(render(scene)) != np.asarray(render(bare))).any((0, 2)).nonzero()[0]
        least = 8 * min(scene.height, scene.width) / 128
        narrow = sum(letter in "1I" for letter in thing.words)
        assert inked[-1] + 1 - inked[0] >= least * (len(thing.words) - 0.7 * narrow), thing
        left, top, right, bottom = scene.box(thing)
        assert left > -1 and top > -1 and right < scene.width + 1 and bottom < scene.height + 1


def test_a_letters_place_follows_from_its_number():
    """Whichever letters stand beside it: its cell is as wide as theirs."""

    def shown(words: str) -> np.ndarray:
        return np.asarray(render(Scene((Thing("sign", "blue", "large", 0.5, 0.5, words),))), int)

    def middle(words: str, without: str) -> float:
        columns = (shown(words) != shown(without)).any((0, 2)).nonzero()[0]
        return (columns[0] + columns[-1]) / 2

    for letter in "IOW7":
        assert abs(middle(f"{letter}X", " X") - middle("XX", " X")) <= 1
        assert abs(middle(f"MM{letter}M", "MM M") - middle(f"II{letter}1", "II 1")) <= 1
