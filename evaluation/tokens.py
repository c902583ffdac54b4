"""``limner eval tokens``: what pictures cost and are worth by how many visual tokens or queries they have.

Pictures of the world are put through the visual tokenizer and drawn again from a prefix of their codes, and from the vision
tower's own features, which no codes can surpass. Requests are drawn by every number of tokens or queries, and with the number
left to the model. The judge looks at all of them.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..inference.inputs import Messages
from ..inference.isolation import isolated
from ..inference.model import Limner
from ..inference.output import write_text
from ..inference.reply import Reply
from ..mllm.picture_tokens import tokens_of
from ..mllm.views import normalise
from ..mllm.vision_tower import pool_features
from ..mllm.visual_tokens.losses import codebook_use
from ..mllm.visual_tokens.tokenizer import VisualTokenizer, needed_lengths
from ..world.language import Detail
from ..world.scene import Scene, render
from ..world.scenes import arranged_scene
from .geneval_cases import Expected, make_cases, mixed_cases
from .judge import Judge
from .plot import Line, line_plot
from .saved_replies import load_replies
from .tasks import ASKING, BATCH_SIZE, Grades, Task, drawing, first_images, image_prompt, judge_pictures
from .world import check_limit, evaluate_tasks, task_folder

DEFAULT_COUNT = 100
"""Drawings of each kind, if no limit is given"""
MEASURED = 5
"""Times as many pictures whose features alone are compared, without a drawing"""
SAMPLES = 8
"""Drawings of each request of which it is measured how much they differ"""
CLOSENESS = (0.8, 0.85, 0.9, 0.95)
"""Cosines of decoded features for which it is measured how many tokens they take"""
MANY = 6
"""Things in a picture of many"""


def evaluate(
    model: Limner,
    output: Path,
    limit: int = 0,
    steps: int | None = None,
    part: tuple[int, int] = (0, 1),
    only: Sequence[str] = (),
    image_temperature: float | None = None,
) -> dict[str, Any] | None:
    """All kinds of drawings, 100 of each or ``limit``, visual tokens sampled at this temperature or the model's; files, errors
    and the other arguments are those of `world.evaluate`. Beside them
    ``figures.json`` has what is measured of features, with what the drawings cost, and ``tokens.svg`` shows both by the number of
    tokens. A model that draws by queries alone has what there is of these."""
    count = check_limit(limit) or DEFAULT_COUNT
    tasks = all_tasks(model, count, steps, image_temperature)
    settings = {"examples": count, "image_temperature": image_temperature}
    results = evaluate_tasks(model, output, tasks, settings, "by the number of tokens", steps, part, only)
    if results is None:
        return None
    figures = drawing_figures(model, results["scores"], output)
    if model.mllm.visual_tokenizer is not None:
        figures = reconstruction_figures(model, MEASURED * count) | {"needed": needed_figures(model, count)} | figures
    write_text(output / "figures.json", json.dumps(figures, indent=1) + "\n")
    write_text(output / "tokens.svg", figures_plot(model.name, figures))
    print(figures_table(figures), end="")
    return results | figures


def all_tasks(
    model: Limner, count: int, steps: int | None, image_temperature: float | None = None
) -> dict[str, Callable[[], Task]]:
    """Those that the model has, made when called."""
    made: dict[str, Callable[[], Task]] = {}
    draw = partial(drawing(steps), image_temperature=image_temperature)
    if model.mllm.visual_tokenizer is not None:
        for length in (None, *reversed(model.config.visual_lengths)):
            made[f"reconstruct/{length or 'features'}"] = partial(reconstructing_task, length, count, steps)
    for mode in model.config.image_modes:
        lengths = model.config.lengths_of(mode)
        for length in reversed(lengths or (model.config.num_queries,)):
            made[f"draw/{mode}/{length}"] = partial(drawing_task, mode, length, count, draw)
        made[f"diverse/{mode}"] = partial(diverse_task, mode, max(1, count // 4), draw)
        for things in (1, MANY) if lengths else ():
            made[f"chosen/{mode}/{things}"] = partial(things_task, mode, things, None, count, draw)
            made[f"all/{mode}/{things}"] = partial(things_task, mode, things, lengths[-1], count, draw)
    return made


def reconstructing_task(length: int | None, count: int, steps: int | None) -> Task:
    """Pictures of GenEval's categories, drawn again from so many of their codes or, for None, from the vision tower's own
    features: right if all objects and colours are."""
    scenes = [case.scene for case in mixed_cases(count)]
    expected = [Expected.of(scene) for scene in scenes]

    def generate(model: Limner, prompts: Sequence[Messages], seed: Sequence[int]) -> list[Reply]:
        images = [shown_picture(prompt) for prompt in prompts]
        features = picture_features(model, images)
        given = pooled(model, features) if length is None else decode_prefix(model, features, length)
        return [Reply([image], "stop") for image in draw_features(model, given, images, seed, steps)]

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        true = judge_pictures(judge, expected, [render(scene) for scene in scenes])
        return judge_pictures(judge, expected, first_images(replies)), {"judge_accuracy": sum(true) / count}

    prompts = [image_prompt(render(scene), "") for scene in scenes]
    return Task(f"reconstruct/{length or 'features'}", prompts, generate, grade)


def shown_picture(prompt: Messages) -> Image.Image:
    """That of a prompt of one message, which begins with it."""
    assert not isinstance(prompt, str)
    picture: Image.Image = prompt[0]["content"][0]["image"]
    return picture


def drawing_task(mode: str, length: int, count: int, draw: Callable[..., Any]) -> Task:
    """Requests of GenEval's categories, drawn by so many tokens or queries."""
    chosen = mixed_cases(count)

    def grade(_: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        return judge_pictures(judge, [case.expected for case in chosen], first_images(replies)), {}

    generate = partial(draw, image_mode=mode, image_tokens=length)
    return Task(f"draw/{mode}/{length}", [case.prompt for case in chosen], generate, grade)


def diverse_task(mode: str, count: int, draw: Callable[..., Any]) -> Task:
    """`SAMPLES` drawings of each of ``count`` requests for one thing. Beside the share that is right stands how much those of a
    request differ, the mean of 1 - cosine of the vision tower's features over all pairs."""
    chosen = [case for case in make_cases("single_object", False, count) for _ in range(SAMPLES)]

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        images = first_images(replies)
        groups = [images[start : start + SAMPLES] for start in range(0, len(images), SAMPLES)]
        differ = [mean_difference(pooled(model, picture_features(model, group))) for group in groups]
        right = judge_pictures(judge, [case.expected for case in chosen], images)
        return right, {"diversity": sum(differ) / len(differ)}

    prompts = [case.prompt for case in chosen]
    return Task(f"diverse/{mode}", prompts, partial(draw, image_mode=mode), grade)


def things_task(mode: str, things: int, length: int | None, count: int, draw: Callable[..., Any]) -> Task:
    """Requests for so many things, drawn by as many tokens or queries as the model chooses, or by ``length``. Beside the share
    that is right stands the mean number."""
    scenes = scenes_of(things, count)

    def grade(model: Limner, judge: Judge, replies: Sequence[Reply]) -> Grades:
        images = first_images(replies)
        said = [tokens_of(image, model.config) for image in images]
        lengths = [tokens.length for tokens in said if tokens is not None]
        assert len(lengths) == len(images), "a drawn picture says how many tokens it has"
        right = judge_pictures(judge, [Expected.of(scene) for scene in scenes], images)
        return right, {"tokens": sum(lengths) / len(lengths)}

    prompts = [f"draw {ASKING.phrase(scene, Detail())}" for scene in scenes]
    generate = partial(draw, image_mode=mode, image_tokens=length)
    return Task(f"{'chosen' if length is None else 'all'}/{mode}/{things}", prompts, generate, grade)


def scenes_of(things: int, count: int) -> list[Scene]:
    """Scenes of so many things, one or `MANY`, in square pictures; the same ones at every call."""
    assert things in (1, MANY), "the others are not arranged in rows"
    if things == 1:
        return [case.scene for case in make_cases("single_object", False, count)]
    rng = random.Random(f"tokens/{things}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = arranged_scene(rng, ASKING.names)
        scenes += [scene] if len(scene.things) == things else []
    return scenes


@isolated
def picture_features(model: Limner, images: Sequence[Image.Image]) -> Tensor:
    """The vision tower's features (pictures, patches, width) of whole pictures."""
    mllm, made = model.mllm, []
    for start in range(0, len(images), BATCH_SIZE):
        chunk = [normalise(image.convert("RGB"), model.config) for image in images[start : start + BATCH_SIZE]]
        made.append(mllm.vision_tower(torch.stack(chunk).to(mllm.device)))
    return torch.cat(made)


def pooled(model: Limner, features: Tensor) -> Tensor:
    """The tower's features as image features (pictures, feature_tokens, width)."""
    return pool_features(features, model.config.feature_tokens, model.config.feature_pool)


@isolated
def decode_prefix(model: Limner, features: Tensor, length: int) -> Tensor:
    """What the first ``length`` codes of pictures decode to (pictures, feature_tokens, width), of the tower's features."""
    tokenizer: VisualTokenizer = model.mllm.visual_tokenizer
    return tokenizer.decode(tokenizer.encode(features)[:, :length])


@isolated
def draw_features(
    model: Limner, features: Tensor, images: Sequence[Image.Image], seeds: Sequence[int], steps: int | None
) -> list[Image.Image]:
    """Pictures drawn from image features (pictures, feature_tokens, width) alone, each of the size of its own of ``images``,
    which have one size."""
    detokenizer = model.detokenizer
    assert detokenizer.adapter is not None, "a model of visual tokens has a conditioning adapter"
    given = features.to(next(detokenizer.adapter.parameters()))
    prompt = mask = None
    if width := detokenizer.adapter.config.prompt_width:
        prompt = given.new_zeros(len(given), 1, width)
        mask = torch.zeros(prompt.shape[:2], dtype=torch.bool, device=given.device)
    condition = detokenizer.condition(given, prompt, mask, [()] * len(given))
    options = model.defaults.updated({"num_inference_steps": steps})
    (size,) = {(image.height, image.width) for image in images}
    pixels = detokenizer.draw(condition, *size, seeds=[(seed, 0) for seed in seeds], options=options)
    return [Image.fromarray(picture) for picture in pixels.cpu().numpy()]


def mean_difference(features: Tensor) -> float:
    """1 - cosine of image features (pictures, feature_tokens, width), each with the same one of another picture, averaged over
    them and over all pairs of pictures."""
    unit = F.normalize(features.float(), dim=-1)
    cosines = torch.einsum("itw,jtw->ij", unit, unit) / unit.shape[1]
    pictures = len(unit)
    return 1 - float((cosines.sum() - cosines.trace()) / (pictures * (pictures - 1)))


def reconstruction_figures(model: Limner, pictures: int) -> dict[str, Any]:
    """Of so many pictures: the share of the codebook that their codes use, the mean cosine of the features that each prefix
    decodes to with the tower's, and by how much it rises from each number of tokens to the next."""
    tokenizer: VisualTokenizer = model.mllm.visual_tokenizer
    scenes = [case.scene for case in mixed_cases(pictures)]
    codes, cosines = [], []
    for start in range(0, pictures, BATCH_SIZE):
        features = picture_features(model, [render(scene) for scene in scenes[start : start + BATCH_SIZE]])
        target = pooled(model, features).float()
        decoded = [decode_prefix(model, features, length).float() for length in model.config.visual_lengths]
        cosines.append(torch.stack([F.cosine_similarity(own, target, dim=-1).mean(1) for own in decoded], dim=1))
        codes.append(isolated(tokenizer.encode)(features))
    by_length = torch.cat(cosines).double()
    lengths = model.config.visual_lengths
    rises = [
        {"from": few, "to": many, **mean_interval(by_length[:, i + 1] - by_length[:, i])}
        for i, (few, many) in enumerate(itertools.pairwise(lengths))
    ]
    return {
        "pictures": pictures,
        "codebook_used": float(codebook_use(torch.cat(codes), tokenizer.config.num_codes)),
        "cosine": dict(zip(map(str, lengths), by_length.mean(0).tolist(), strict=True)),
        "rises": rises,
    }


def needed_figures(model: Limner, pictures: int) -> dict[str, dict[str, float]]:
    """By the closeness that is wanted (`CLOSENESS`), the mean number of tokens that so many pictures of one thing and of `MANY`
    need: what ``token_closeness`` of training makes of them."""
    tokenizer, lengths = model.mllm.visual_tokenizer, model.config.visual_lengths
    figures: dict[str, dict[str, float]] = {str(closeness): {} for closeness in CLOSENESS}
    for things in (1, MANY):
        features = picture_features(model, [render(scene) for scene in scenes_of(things, pictures)])
        codes, target = isolated(tokenizer.encode)(features), pooled(model, features)
        for closeness in CLOSENESS:
            needed = isolated(needed_lengths)(tokenizer, codes, target, lengths, closeness)
            figures[str(closeness)][str(things)] = float(needed.double().mean())
    return figures


def mean_interval(differences: Tensor) -> dict[str, float]:
    """The mean of paired differences (pictures,) and its 95 % interval, by the normal approximation."""
    mean, half = float(differences.mean()), 1.96 * float(differences.std()) / math.sqrt(len(differences))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def drawing_figures(model: Limner, scores: Sequence[dict[str, Any]], output: Path) -> dict[str, Any]:
    """By kind (``draw/tokens``) and number, the share that is right, of how many, seconds a picture, and what else was measured;
    reconstructions also as a part of what the tower's own features give."""
    figures: dict[str, Any] = {}
    for row in scores:
        kind, _, number = row["name"].rpartition("/")
        if kind == "diverse":
            kind, number = row["name"], str(SAMPLES)
        seconds = [line["seconds"] for line in load_replies(output / task_folder(row["name"]))]
        values = {"right": row["rate"], "low": row["low"], "high": row["high"], "n": row["n"]}
        values |= {key: row[key] for key in ("tokens", "diversity") if key in row}
        figures.setdefault(kind, {})[number] = values | {"seconds": sum(seconds) / len(seconds)}
    most = figures.get("reconstruct", {}).get("features", {}).get("right")
    for values in figures.get("reconstruct", {}).values():
        values["of_features"] = values["right"] / most if most else None
    return {"model": model.name, **figures}


def figures_plot(name: str, figures: dict[str, Any]) -> str:
    """Shares and cosines by the number of tokens, and below them the seconds that a drawing takes."""
    quality, cost = [], []
    if "cosine" in figures:
        quality.append(Line("features: cosine", {int(k): v for k, v in figures["cosine"].items()}))
    for kind in ("reconstruct", "draw/tokens", "draw/queries"):
        by_number = {int(k): v for k, v in figures.get(kind, {}).items() if k.isdecimal()}
        if by_number:
            quality.append(Line(f"{kind}: right", {k: v["right"] for k, v in by_number.items()}))
        if by_number and kind != "reconstruct":
            cost.append(Line(kind, {k: v["seconds"] for k, v in by_number.items()}))
    return line_plot(f"{name}, by the number of tokens", {"quality": quality, "seconds a picture": cost})


def figures_table(figures: dict[str, Any]) -> str:
    """The figures of features, and differences between them, in lines."""
    lines = []
    if "cosine" in figures:
        lines.append(f"codebook used {figures['codebook_used']:.3f}, by {figures['pictures']} pictures")
        lines += [f"cosine at {number:>3} tokens {value:.4f}" for number, value in figures["cosine"].items()]
        lines += [
            f"from {rise['from']:>3} to {rise['to']:>3} tokens {rise['mean']:+.4f} ({rise['low']:+.4f} to {rise['high']:+.4f})"
            for rise in figures["rises"]
        ]
        lines += [
            f"needed for a cosine of {closeness}: "
            + ", ".join(f"{value:.1f} tokens by {things} things" for things, value in needed.items())
            for closeness, needed in figures["needed"].items()
        ]
    lines += [
        f"reconstructed from {number:>8} {values['right']:.3f}, of what features give {values['of_features']:.3f}"
        for number, values in figures.get("reconstruct", {}).items()
        if values["of_features"] is not None
    ]
    return "".join(f"{line}\n" for line in lines)
