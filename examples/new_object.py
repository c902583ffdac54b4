"""A thing that nano has never seen: twelve pictures of a cactus (or of another of `more_objects`) with captions, and the
prompts to try it with.

python examples/new_object.py pictures cactus-pictures          # and cactus-pictures-sheet.png, all twelve on one
limner finetune cactus-pictures -o cactus
python examples/new_object.py judge cactus-judge
python examples/new_object.py draw cactus-sheet.png --adapter cactus --judge cactus-judge/model
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import more_objects
import torch

import limner
from limner.evaluation.geneval_cases import SIDES, Expected, halve
from limner.evaluation.judge import Judge
from limner.evaluation.sheet import save_sheet
from limner.evaluation.world import JUDGE_FOLDER
from limner.inference import precision
from limner.inference.adapters import split_weight
from limner.train.recipe import load_recipe
from limner.train.stages import judge as judge_stage
from limner.world import sampling
from limner.world.languages import ENGLISH
from limner.world.objects import OBJECTS
from limner.world.scene import Scene, Thing, render
from limner.world.words import PLURALS, Detail, noun_phrase, plural, with_article

ALONE = (
    ("green", "large", "sand"),
    ("red", "medium", "plain"),
    ("blue", "medium", "plain"),
    ("yellow", "large", "grass"),
    ("pink", "medium", "sky"),
    ("white", "large", "night"),
)
SEVERAL = (("orange", 2, "plain"), ("green", 3, "sand"), ("blue", 4, "plain"))
BESIDE = (
    ("purple {}", "left of", "yellow kite"),
    ("brown {}", "above", "green book"),
    ("blue train", "left of", "red {}"),
)
"""Six alone, three times several, three times beside something that nano knows."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


def asked(new: str) -> list[tuple[str, Expected]]:
    """Forty new compositions, and what counts as right: none of their pictures is among the twelve."""

    def one(color: str | None) -> tuple[tuple[str, str | None], ...]:
        return ((new, color),)

    def known(phrase: str) -> tuple[str, str | None]:
        color, _, name = phrase.rpartition(" ")
        return name, color or None

    cases = [(f"a photo of a {color} {new}", Expected(one(color))) for color in COLORS]
    for color, ground in zip(COLORS[:5], ("sand", "grass") * 3, strict=False):
        cases.append((f"draw a {color} {new} on {ground}", Expected(one(color))))
    for (count, number), color in zip((("two", 2), ("three", 3), ("four", 4)) * 3, COLORS[:9], strict=True):
        cases.append((f"draw {count} {color} {plural(new)}", Expected(one(color) * number)))
    for color, other in zip(COLORS[:4], ("dog", "red car", "chair", "blue cup"), strict=True):
        cases.append((f"draw a {color} {new} left of a {other}", Expected((*one(color), known(other)), "left of")))
    for color, other in zip(COLORS[4:8], ("boat", "bus", "cake", "bed"), strict=True):
        cases.append((f"draw a {color} {new} above a {other}", Expected((*one(color), known(other)), "above")))
    for color, other in zip(COLORS[2:6], ("cat", "clock", "vase", "bird"), strict=True):
        cases.append((f"a photo of a {other} and a {color} {new}", Expected((known(other), *one(color)))))
    for words, color in (
        (f"draw a small red {new}", "red"),
        (f"draw a large black {new}", "black"),
        (f"a red {new} at night", "red"),
        (f"please draw {with_article(new)}", None),
    ):
        cases.append((words, Expected(one(color))))
    return [(words.replace(" a orange", " an orange"), wanted) for words, wanted in cases]


def scenes(new: str) -> list[Scene]:
    made = []
    for index, (color, size, ground) in enumerate(ALONE):
        shift = 0.06 * (index % 3 - 1)
        made.append(Scene((Thing(new, color, size, 0.5 + shift, 0.5 - shift / 2),), ground))
    spots = {
        2: ((0.27, 0.5), (0.73, 0.5)),
        3: ((0.25, 0.28), (0.75, 0.28), (0.5, 0.73)),
        4: ((0.26, 0.27), (0.74, 0.27), (0.26, 0.73), (0.74, 0.73)),
    }
    for color, count, ground in SEVERAL:
        made.append(Scene(tuple(Thing(new, color, "medium", x, y) for x, y in spots[count]), ground))
    for first, relation, second in BESIDE:
        places = ((0.26, 0.5), (0.74, 0.5)) if relation == "left of" else ((0.5, 0.26), (0.5, 0.74))
        things = (phrase.format(new).split(" ", 1) for phrase in (first, second))
        made.append(Scene(tuple(Thing(n, c, "medium", *at) for (c, n), at in zip(things, places, strict=True))))
    return made


def teach_the_world(new: str) -> None:
    """From here on the world can draw it, for the twelve pictures and for the judge; nano is told nothing of it."""
    OBJECTS[new], sampling.USUAL_COLORS[new] = more_objects.OBJECTS[new], "green"
    ENGLISH.things[new] = (new,)
    PLURALS.update(more_objects.PLURALS)
    sampling.NAMES = tuple(OBJECTS)


def pictures(folder: Path, new: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [render(scene) for scene in scenes(new)]
    save_sheet(drawn, 6, folder.with_name(f"{folder.name}-sheet.png"))
    for index, (scene, picture) in enumerate(zip(scenes(new), drawn, strict=True)):
        picture.save(folder / f"{index:02d}.png")
        captions = {noun_phrase(scene, Detail(size=b, background=b)) for b in (False, True)}
        (folder / f"{index:02d}.txt").write_text("\n".join(sorted(captions)) + "\n", encoding="utf-8")


def train_judge(folder: Path, new: str, steps: int) -> None:
    """The world's judge with one more object, trained on with the renderer above; prints how it does on true pictures."""
    stage = load_recipe("nano").judge
    loop = replace(stage.loop, steps=steps)
    stage = replace(stage, warm_start=str(JUDGE_FOLDER), featured_object=new, loop=loop)
    vae = limner.load("nano", device="cpu").detokenizer.autoencoder
    judge = judge_stage.run_judge(stage, vae, 1, folder, torch.device("cpu"), precision.choose_dtype("cpu"))
    rng = random.Random(0)
    scenes_with, scenes_without, right, halves, wrong = [], [], 0, 0, 0
    for scene in made_scenes(rng, 400, new):
        (scenes_with if any(t.name == new for t in scene.things) else scenes_without).append(scene)
    for scene in scenes_with:
        wanted = Expected(tuple((t.name, t.color) for t in scene.things))
        half = halve(scene, next(t for t in scene.things if t.name == new), rng.choice(SIDES))
        whole, cut = judge.detect([render(scene), half])
        right, halves = right + wanted.matches(whole), halves + wanted.matches(cut)
    for scene in scenes_without:
        wrong += any(d.name == new for d in judge.detect([render(scene)])[0].detections)
    print(
        f"of {len(scenes_with)} true pictures with one {right} are seen right, and {halves} with one of them cut in half; "
        f"one is seen in {wrong} of {len(scenes_without)} without"
    )


def made_scenes(rng: random.Random, count: int, new: str) -> list[Scene]:
    """Half of them with the new thing in place of one kind of thing."""
    made = []
    for index in range(count):
        scene = rng.choice((sampling.single, sampling.several, sampling.pair))(rng)
        made.append(judge_stage.with_object(scene, new) if index % 2 else scene)
    return made


def draw(
    path: Path, new: str, adapter: list[str], model: str, judge: Path | None, steps: int | None, seed: int
) -> None:
    loaded = limner.load(model)
    for given in adapter:
        folder, weight = split_weight(given)
        loaded.load_adapter(folder, weight=weight)
    cases, drawn = asked(new), []
    for start in range(0, len(cases), 10):
        asking = [words for words, _ in cases[start : start + 10]]
        replies = loaded.draw(asking, seed=seed + start, num_inference_steps=steps)
        drawn += [reply.images[0].resize((128, 128)) for reply in replies]
    verdicts = [None] * len(drawn) if judge is None else Judge.from_pretrained(judge).detect(drawn)
    lines = []
    for (words, wanted), verdict in zip(cases, verdicts, strict=True):
        lines.append(words if verdict is None else f"{'+' if wanted.matches(verdict) else '-'} {words}")
    if judge is not None:
        print(f"{sum(line.startswith('+') for line in lines)} of {len(lines)} show what was asked, says the judge")
    save_sheet(drawn, 10, path)
    page = path.with_suffix(".txt")
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(path, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("pictures", help="write the twelve pictures and their captions")
    made.add_argument("folder", type=Path)
    judged = commands.add_parser("judge", help="train the world's judge on with the new thing")
    judged.add_argument("folder", type=Path)
    judged.add_argument("--steps", type=int, default=600)
    tried = commands.add_parser("draw", help="draw the forty prompts onto one sheet")
    tried.add_argument("path", type=Path)
    tried.add_argument("--adapter", action="append", default=[])
    tried.add_argument("--model", default="nano")
    tried.add_argument(
        "--steps", type=int, help="sampling steps; four are the student's (default: the teacher's twelve)"
    )
    tried.add_argument("--seed", type=int, default=0)
    tried.add_argument("--judge", type=Path, help="a judge's folder (FOLDER/model of the command before)")
    for command in (made, judged, tried):
        command.add_argument(
            "--object",
            default="cactus",
            choices=sorted(more_objects.OBJECTS),
            metavar="NAME",
            help="one of more_objects (default: cactus)",
        )
    options = parser.parse_args()
    teach_the_world(options.object)
    if options.command == "pictures":
        pictures(options.folder, options.object)
    elif options.command == "judge":
        train_judge(options.folder, options.object, options.steps)
    else:
        draw(options.path, options.object, options.adapter, options.model, options.judge, options.steps, options.seed)


if __name__ == "__main__":
    main()
