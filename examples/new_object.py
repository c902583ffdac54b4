"""A thing that nano has never seen: twelve pictures of a cactus with captions, and the prompts to try it with.

python examples/new_object.py pictures cactus-pictures
limner finetune cactus-pictures -o cactus
python examples/new_object.py draw cactus-sheet.png --adapter cactus
"""

from __future__ import annotations

import argparse
from pathlib import Path

import limner
from limner.train.pictures import sheet
from limner.train.world.objects import OBJECTS
from limner.train.world.pen import Pen
from limner.train.world.scene import Scene, Thing, render
from limner.train.world.words import PLURALS, Detail, noun_phrase

ALONE = (
    ("green", "large", "sand"), ("red", "large", "plain"), ("blue", "medium", "plain"), ("yellow", "large", "grass"),
    ("pink", "medium", "sky"), ("white", "large", "night"),
)  # fmt: skip
SEVERAL = (("orange", 2, "plain"), ("green", 3, "sand"), ("blue", 4, "plain"))
BESIDE = (("purple cactus", "left of", "yellow kite"), ("brown cactus", "above", "green book"),
          ("blue train", "left of", "red cactus"))  # fmt: skip
"""Six alone, three times several, three times beside something that nano knows."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
PROMPTS = (
    *(f"a photo of a {color} cactus" for color in COLORS),
    *(f"draw a {color} cactus on {ground}" for color, ground in zip(COLORS[:5], ("grass", "sand") * 3, strict=False)),
    *(f"draw {count} {color} cacti" for count, color in zip(("two", "three", "four") * 3, COLORS[:9], strict=True)),
    *(f"draw a {a} cactus left of a {b}" for a, b in zip(COLORS[:4], ("dog", "red car", "chair", "blue cup"), strict=True)),
    *(f"draw a {a} cactus above a {b}" for a, b in zip(COLORS[4:8], ("boat", "bus", "cake", "bench"), strict=True)),
    *(f"a photo of a {b} and a {a} cactus" for a, b in zip(COLORS[2:6], ("cat", "clock", "vase", "bird"), strict=True)),
    "draw a small red cactus", "draw a large black cactus", "a cactus at night", "please draw a cactus",
)  # fmt: skip
"""Forty new compositions: none of their pictures is among the twelve."""


def cactus(p: Pen) -> None:
    p.poly([(-0.5, 0.45), (0.5, 0.45), (0.36, 1), (-0.36, 1)], "wood")
    p.round(-0.92, -0.5, -0.55, 0.1, 0.18)
    p.round(-0.75, -0.12, -0.1, 0.14, 0.1)
    p.round(0.55, -0.7, 0.92, -0.05, 0.18)
    p.round(0.1, -0.25, 0.75, 0.0, 0.1)
    p.round(-0.28, -1, 0.28, 0.5, 0.28)
    for x in (-0.1, 0.1):
        p.line([(x, -0.75), (x, 0.35)], 0.05, "dark")


def scenes() -> list[Scene]:
    made = []
    for index, (color, size, ground) in enumerate(ALONE):
        shift = 0.06 * (index % 3 - 1)
        made.append(Scene((Thing("cactus", color, size, 0.5 + shift, 0.5 - shift / 2),), ground))
    spots = {2: ((0.27, 0.5), (0.73, 0.5)), 3: ((0.25, 0.28), (0.75, 0.28), (0.5, 0.73)),
             4: ((0.26, 0.27), (0.74, 0.27), (0.26, 0.73), (0.74, 0.73))}  # fmt: skip
    for color, count, ground in SEVERAL:
        made.append(Scene(tuple(Thing("cactus", color, "medium", x, y) for x, y in spots[count]), ground))
    for first, relation, second in BESIDE:
        places = ((0.26, 0.5), (0.74, 0.5)) if relation == "left of" else ((0.5, 0.26), (0.5, 0.74))
        things = (phrase.split(" ", 1) for phrase in (first, second))
        made.append(Scene(tuple(Thing(n, c, "medium", *at) for (c, n), at in zip(things, places, strict=True))))
    return made


def pictures(folder: Path) -> None:
    OBJECTS["cactus"], PLURALS["cactus"] = cactus, "cacti"
    folder.mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(scenes()):
        render(scene).save(folder / f"{index:02d}.png")
        captions = {noun_phrase(scene, Detail(size=b, background=b)) for b in (False, True)}
        (folder / f"{index:02d}.txt").write_text("\n".join(sorted(captions)) + "\n")


def draw(path: Path, adapter: list[str], model: str) -> None:
    loaded = limner.load(model)
    for folder in adapter:
        loaded.load_adapter(folder)
    drawn = []
    for start in range(0, len(PROMPTS), 10):
        replies = loaded.draw(list(PROMPTS[start : start + 10]), seed=start)
        drawn += [reply.images[0].resize((128, 128)) for reply in replies]
    sheet(drawn, 10, path)
    page = path.with_suffix(".txt")
    page.write_text("\n".join(PROMPTS) + "\n")
    print(path, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("pictures", help="write the twelve pictures and their captions")
    made.add_argument("folder", type=Path)
    tried = commands.add_parser("draw", help="draw the forty prompts onto one sheet")
    tried.add_argument("path", type=Path)
    tried.add_argument("--adapter", action="append", default=[])
    tried.add_argument("--model", default="nano")
    options = parser.parse_args()
    if options.command == "pictures":
        pictures(options.folder)
    else:
        draw(options.path, options.adapter, options.model)


if __name__ == "__main__":
    main()
