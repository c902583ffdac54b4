"""The README's pictures: `python benchmarks/pictures.py docs/images`. Seeds 0 to 15, none picked by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import limner
from limner.train.pictures import sheet

PROMPTS = (
    "a photo of a red apple", "draw a blue car on grass", "draw three yellow bananas", "a photo of a pink elephant",
    "draw a green clock at night", "a photo of a purple umbrella", "draw an orange cat on sand", "a photo of two red cups",
    "draw a black dog left of a yellow chair", "a photo of a brown teddy bear", "draw a white sheep on grass",
    "a photo of a blue kite in the sky", "draw a green bus", "a photo of four pink donuts",
    "a photo of a red train and a yellow kite", "draw a purple vase",
)  # fmt: skip
SAID = (
    "2 cats pls", "can you do a tv on top of a bed?", "yelow umbrella at the beach", "four donuts, all of them green",
    "i was hoping for a bird in the sky", "my son wants a purple elephant", "a bottle with a cup on its right",
    "bus at night, make it wide",
)  # fmt: skip
EDITS = ("draw a red car", "make it blue", "put it on grass", "replace it with a train", "now make it yellow")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    model = limner.load("nano", device="cpu")
    replies = model.draw(list(PROMPTS), seed=list(range(len(PROMPTS))), height=128, width=128)
    sheet([reply.images[0] for reply in replies], 8, folder / "drawings.png")
    replies = model.draw(list(SAID), seed=list(range(len(SAID))))
    for text, reply in zip(SAID, replies, strict=True):
        print(f"{text} -> {reply.text}")
    sheet([reply.images[0] for reply in replies], len(SAID), folder / "said.png")
    chat = model.chat(seed=1, height=128, width=128, max_images=1)
    said = [chat.say(text) for text in EDITS]
    for text, reply in zip(EDITS, said, strict=True):
        print(f"{text} -> {reply.text}")
    sheet([reply.images[0] for reply in said], len(said), folder / "edits.png")


if __name__ == "__main__":
    main()
