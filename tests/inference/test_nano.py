"""The embedded model: loads, decides, draws, describes; and the judge that is shipped beside it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import limner
from limner.evaluation.geneval_cases import CATEGORIES, make_cases
from limner.evaluation.judge import Judge
from limner.evaluation.tasks import judge_accuracy
from limner.evaluation.world import JUDGE_FOLDER
from limner.world import messages, sampling
from limner.world.scene import Scene, Thing, render
from limner.world.words import facts, read_caption


@pytest.fixture(scope="module")
def nano():
    return limner.load("nano", device="cpu")


def test_it_draws_when_asked_and_only_then(nano):
    asked = nano.generate(
        ["draw a red apple", "a photo of two blue cars", "please draw a cat on grass"], num_inference_steps=2
    )
    assert [len(reply.images) for reply in asked] == [1, 1, 1]
    silent = nano.generate(["hello", "what can you do?", "thanks"])
    assert [len(reply.images) for reply in silent] == [0, 0, 0] and all(reply.text for reply in silent)


def test_it_picks_the_shape_from_the_words(nano):
    wide, tall = nano.generate(
        ["draw a red car, a wide picture", "draw a red car, a tall picture"], images="force", num_inference_steps=2
    )
    assert wide.images[0].size == (160, 96) and tall.images[0].size == (96, 160)


def test_it_refuses_what_it_does_not_know(nano):
    reply = nano.generate("draw a dragon")
    assert not reply.images and "can't draw a dragon" in reply.text


def test_it_says_the_colour_and_background_of_a_plain_picture(nano):
    image = render(Scene((Thing("apple", "red", "large", 0.5, 0.5),), "grass"))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What is in this picture?"}]
    text = nano.generate([{"role": "user", "content": content}]).text
    assert "red" in text and "grass" in text


def test_it_tells_what_stands_where_and_how_often(nano):
    """Chance is a half for the side and a third for the count: before its tokens knew their places it got 12 of 24."""
    rng = random.Random("where")
    scenes = [
        sampling.allowed_scene(lambda make=make: make(rng, names=sampling.GENEVAL_NAMES))
        for make in (sampling.pair, sampling.several) * 12
    ]
    asked = [
        [{"role": "user", "content": [messages.image(render(scene)), messages.text("What is in this picture?")]}]
        for scene in scenes
    ]
    told = [read_caption(reply.text) for reply in nano.generate(asked, images="never")]
    assert sum(said == facts(scene) for said, scene in zip(told, scenes, strict=True)) >= 18


@pytest.mark.slow
def test_what_it_costs():
    """The figures of docs/evaluation.md: seconds and memory of a process of its own."""
    script = Path(__file__).parent.parent.parent / "benchmarks" / "nano.py"
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    load, picture, teacher, reply, peak = (float(v) for v in re.findall(r"(\d+\.\d+) (?:s|GB)", out))
    assert load <= 5 and picture <= 2 and reply <= 4 and peak <= 2, out
    assert picture < teacher / 2, out


def test_the_judge_knows_true_renders_from_near_misses():
    judge = Judge.from_pretrained(JUDGE_FOLDER)
    measured = [judge_accuracy(judge, make_cases(category, False, 15)) for category in CATEGORIES]
    assert sum(m["judge_accuracy"] for m in measured) / len(measured) >= 0.97
    assert sum(m["false_accepts"] for m in measured) / len(measured) <= 0.05
