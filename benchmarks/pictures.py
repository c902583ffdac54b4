"""Draws docs/images: `python benchmarks/pictures.py docs/images [MODEL]`. Seeds 0, 1, 2, …, none picked by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

import limner
from limner.evaluation.sheet import save_sheet
from limner.inference.model import Limner
from limner.world.pen import CONTROLS
from limner.world.scene import Scene, Thing, render

PROMPTS = (
    "a photo of a red apple",
    "draw a blue car on grass",
    "draw three yellow bananas",
    "a photo of a pink elephant",
    "draw a green clock at night",
    "a photo of a purple umbrella",
    "draw a zebra in a room",
    "a photo of two red cups",
    "draw a black dog left of a yellow chair",
    "a photo of a brown teddy bear",
    "draw a white horse on grass",
    "a photo of a blue kite in the sky",
    "draw an orange motorcycle on sand",
    "a photo of four pink donuts",
    "a photo of a red train and a yellow surfboard",
    "draw a purple couch in pastel",
)
SAID = (
    "2 cats pls",
    "can you do a tv on top of a bed?",
    "yelow umbrella at the beach",
    "four donuts, all of them green",
    "my son wants a purple elephant in chalk",
    "draw what comes after two apples",
    "画一只蓝色的猫",
    "잔디 위에 있는 빨간 자동차 그려 줘",
)
NEW_THINGS = (
    "a blue fish and a yellow house",
    "draw a rabbit under a purple tree",
    "a sun above a red boat",
    "three ducks in the sky",
    "two white shoes at night",
    "a brown hat right of a black dog",
    "draw a green star left of a pink heart",
    "can u draw me a flower, like a red one",
)
SERIES = "three pictures: a red cat, a blue car and a yellow house"
SIGNS = (
    'a red sign that says "OPEN"',
    'a yellow banner with the word "HELLO" on grass',
    'a blue t-shirt that reads "ZOO"',
    'draw a sign: "B2"',
    'a green banner saying "WELCOME"',
    'a white sign with "CAFE" on it',
    'a purple t-shirt with "42" on it',
    "a black sign that says STOP",
)
STORY = "tell me a story about a brown dog in four pictures"
EDITS = ("draw a red car", "make it blue", "put it on grass", "replace it with a train", "now make it yellow")


def given() -> list[tuple[list[Image.Image], str]]:
    """Pictures shown and what is to be made of them."""
    cat, car = Thing("cat", "orange", "large", 0.5, 0.5), Thing("car", "blue", "large", 0.5, 0.5)
    pair = Scene((Thing("dog", "brown", "medium", 0.26, 0.5), Thing("chair", "red", "medium", 0.74, 0.5)), "grass")
    horse = Scene((Thing("horse", "brown", "large", 0.5, 0.5),))
    edges, silhouette, sketch, depth = (replace(horse, style=style) for style in CONTROLS)
    covered = replace(pair, hole=(0.5, 0.24, 0.98, 0.76))
    two = [render(Scene((cat,))), render(Scene((car,)))]
    return [
        (two, "put the cat of the first picture and the car of the second on grass"),
        ([render(edges)], "colour this in: a brown horse"),
        ([render(silhouette)], "use this shape for a black horse"),
        ([render(sketch)], "follow this sketch: a white horse"),
        ([render(depth)], "draw a pink horse from this"),
        ([render(covered)], "fill the grey part with a red chair"),
    ]


def drawn(model: Limner, asked: Sequence[object], path: Path) -> None:
    replies = model.draw(list(asked), seed=list(range(len(asked))))
    for text, reply in zip(asked, replies, strict=True):
        print(f"{text if isinstance(text, str) else text[0]['content'][-1]['text']} -> {reply.text}")
    save_sheet([reply.images[0] for reply in replies], 8, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the pictures of the documents.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/images"))
    parser.add_argument("model", nargs="?", default="nano")
    options = parser.parse_args()
    folder, model = options.folder, limner.load(options.model, device="cpu")
    for name, asked in (("drawings", PROMPTS), ("said", SAID), ("new", NEW_THINGS), ("signs", SIGNS)):
        drawn(model, asked, folder / f"{name}.png")
    if model.student_steps:  # the teacher's above, the student's below
        ways = (model.defaults.num_inference_steps, model.student_steps)
        rows = [model.draw(list(PROMPTS[:8]), seed=list(range(8)), num_inference_steps=steps) for steps in ways]
        save_sheet([reply.images[0] for row in rows for reply in row], 8, folder / "student.png")
    pictures = []
    for seed, (shown, words) in enumerate(given()):
        content = [*({"type": "image", "image": image} for image in shown), {"type": "text", "text": words}]
        reply = model.draw([{"role": "user", "content": content}], seed=seed)
        print(f"{words} -> {reply.text}")
        pictures += [*shown, reply.images[0]]
    save_sheet(pictures, len(pictures), folder / "given.png")
    for name, asked in (("story", STORY), ("series", SERIES)):
        told = model.generate(asked, seed=3)
        print(told.text)
        save_sheet(told.images, max(1, len(told.images)), folder / f"{name}.png")
    chat = model.chat(seed=1, height=128, width=128, max_images=1)
    said = [chat.say(text) for text in EDITS]
    for text, reply in zip(EDITS, said, strict=True):
        print(f"{text} -> {reply.text}")
    save_sheet([reply.images[0] for reply in said], len(said), folder / "edits.png")


if __name__ == "__main__":
    main()
