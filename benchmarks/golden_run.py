"""380 requests of all kinds with their seeds: does another version of Limner answer them with the same words and pictures?

    git worktree add /tmp/before/limner COMMIT
    PYTHONPATH=/tmp/before python benchmarks/golden_run.py /tmp/before.json
    python benchmarks/golden_run.py /tmp/after.json
    python benchmarks/golden_run.py /tmp/before.json /tmp/after.json

In fp32 on one thread, on one machine. Only names that users write are used, so that versions far apart can be asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import limner

ROOT = Path(limner.__file__).parent
QUESTIONS = Path(__file__).resolve().parent.parent / "world"
"""The same for every version"""
Answers = Iterator[tuple[str, Callable[[], Any]]]


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (QUESTIONS / name).read_text(encoding="utf-8").splitlines()]


def seen(path: Path, *words: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": str(path)}, *({"type": "text", "text": w} for w in words)]
    return [{"role": "user", "content": content}]


def adapters(folder: Path) -> tuple[Path, Path]:
    """One for the MM-DiT, of the student's weights at a tenth, and one for the backbone, of noise."""
    student = ROOT / "weights/nano/student"
    card = json.loads((student / "limner_adapter.json").read_text(encoding="utf-8"))
    config = json.loads((student / "mmdit/adapter_config.json").read_text(encoding="utf-8"))
    state = load_file(student / "mmdit/adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    backbone, llm = load_file(ROOT / "weights/nano/llm/model.safetensors"), {}
    for layer in range(4):
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            weight = backbone[f"model.layers.{layer}.{name}.weight"]
            for side, shape in (("A", (4, weight.shape[1])), ("B", (weight.shape[0], 4))):
                key = f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight"
                llm[key] = (0.05 * torch.randn(shape, generator=generator)).to(torch.bfloat16)
    made = []
    for part, weights, options in (
        ("mmdit", {k: v * (0.1 if "lora_B" in k else 1) for k, v in state.items()}, config),
        ("llm", llm, config | {"r": 4, "lora_alpha": 4, "target_modules": r".*\.(q_proj|down_proj)"}),
    ):
        made.append(folder / f"{part}-adapter")
        (made[-1] / part).mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in weights.items()}, made[-1] / part / "adapter_model.safetensors")
        (made[-1] / part / "adapter_config.json").write_text(json.dumps(options), encoding="utf-8")
        own = card | {"parts": [part], "made": {}}
        (made[-1] / "limner_adapter.json").write_text(json.dumps(own), encoding="utf-8")
    return made[0], made[1]


def requests(model: Any, folder: Path) -> Answers:
    asked = [line["say"] for line in lines("requests.jsonl")]
    for i, prompt in enumerate(asked):
        yield f"request {i}: {prompt}", lambda p=prompt, i=i: model.generate(p, seed=i)
    prompts = [line["prompt"] for line in lines("geneval_prompts.jsonl")][::20]
    for i, prompt in enumerate(prompts):
        yield f"draw {i}: {prompt}", lambda p=prompt, i=i: model.draw(p, seed=100 + i)
    variants: list[dict[str, Any]] = [
        {"height": 96, "width": 160},
        {"height": 160, "width": 96},
        {"height": 64, "width": 64},
        {"num_inference_steps": 12},
        {"num_inference_steps": 3},
        {"guidance_scale": 2.5},
        {"guidance_scale": 1.0, "num_inference_steps": 5},
        {"sampler": "heun", "num_inference_steps": 6},
        {"sampler": "multistep"},
        {"sampler": "multistep", "num_inference_steps": 8, "guidance_interval": (0.2, 0.9)},
        {"images": "force"},
        {"images": "never"},
        {"max_images": 1},
        {"stop": ["red"]},
        {"max_new_tokens": 3},
        {"temperature": 0.8},
        {"temperature": 1.2, "top_k": 20},
        {"temperature": 1.0, "top_p": 0.8, "n": 2},
    ]
    for i, options in enumerate(variants):
        for k, prompt in enumerate(("draw a red cat on grass", "two blue cars and a tree", "tell me a story of a dog")):
            yield (
                f"options {options}: {prompt}",
                lambda p=prompt, o=options, s=7 * i + k: model.generate(p, seed=s, **o),
            )
    for size in (2, 4, 6):
        batch = asked[size : 6 * size : size][:size]
        yield f"batch of {size}", lambda b=batch: model.generate(b, seed=list(range(len(b))))
    pictures = []
    for i, (size, prompt) in enumerate(
        [((128, 128), "a red cat"), ((96, 160), "a blue car and a tree"), ((160, 96), "three apples")]
    ):
        pictures.append(folder / f"{i}.png")
        model.draw(prompt, seed=i, height=size[0], width=size[1]).images[0].save(pictures[-1])
    Image.open(pictures[0]).resize((700, 500)).save(folder / "large.png")
    pictures.append(folder / "large.png")
    says = (
        "What is in this picture?",
        "make it green",
        "remove it",
        "add a dog",
        "now at night",
        "how many are there?",
    )
    for i, path in enumerate(pictures):
        for k, say in enumerate(says):
            yield f"picture {i}: {say}", lambda p=path, s=say, n=i + k: model.generate(seen(p, s), seed=n)
        yield (
            f"picture {i}, guided by it",
            lambda p=path: model.draw(seen(p, "make it yellow"), image_guidance_scale=1.5, seed=2),
        )
    two = [{"type": "image", "image": str(path)} for path in pictures[:2]]
    both = [{"role": "user", "content": [*two, {"type": "text", "text": "put both into one picture"}]}]
    yield "two pictures", lambda: model.generate(both, seed=3)
    for talk in (
        ("draw a cat", "make it blue", "and a dog beside it", "what do you see?", "thanks"),
        ("a story of a fish in three pictures", "go on", "the end?"),
        ("画一只红色的猫", "把它变成蓝色", "有几只?"),
    ):
        chat = model.chat(seed=11)
        for turn in talk:
            yield f"chat: {turn}", lambda c=chat, t=turn: c.say(t)
        yield "chat: again", lambda c=chat: c.retry(seed=12)
    yield "events", lambda: [type(event).__name__ for event in model.stream("draw a house", seed=4)]
    drawing, writing = adapters(folder)
    for path in (drawing, writing):
        model.load_adapter(path)
    for names, weights in (
        ([drawing.name], [1.0]),
        ([writing.name], [1.0]),
        ([drawing.name, writing.name], [0.5, 2.0]),
        ([], []),
    ):
        model.set_adapters(names, weights)
        for i, prompt in enumerate(
            ("a red cat", "draw two trees at night", "what is a cat?", "a blue house, then a dog")
        ):
            yield f"adapters {names}: {prompt}", lambda p=prompt, i=i: model.generate(p, seed=20 + i)
    for name in (drawing.name, writing.name):
        model.delete_adapter(name)
    yield "without adapters", lambda: model.generate("a red cat", seed=20)
    for options in (
        {"num_inference_steps": 0},
        {"sampler": "ddim"},
        {"height": 60, "width": 60},
        {"top_p": 2.0},
        {"images": "always"},
        {"max_images": -1},
        {"guidance_interval": (0.9, 0.1)},
        {"height": 64},
    ):
        yield f"refused {options}", lambda o=options: model.generate("a cat", **o)
    yield "refused: nothing", lambda: model.generate(" ")


def digest(answer: Any) -> Any:
    """Words, and a hash of each picture's pixels."""
    if isinstance(answer, list):
        return [digest(own) for own in answer]
    if isinstance(answer, str):
        return answer
    return [p if isinstance(p, str) else f"{p.size} {hashlib.sha256(p.tobytes()).hexdigest()}" for p in answer.parts]


def record(path: Path) -> None:
    torch.set_num_threads(1)
    model = limner.load("nano", device="cpu", dtype="float32")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, ask in requests(model, Path(folder)):
            try:
                found[name] = digest(ask())
            except ValueError as error:
                found[name] = f"ValueError: {error}"
    path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} requests, {limner.__file__}")


def compare(before: Path, after: Path) -> None:
    one, two = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    other = [name for name in one if two.get(name) != one[name]]
    for name in other:
        print(f"{name}\n  before {one[name]}\n  after  {two.get(name)}")
    print(f"{len(one) - len(other)} of {len(one)} are the same")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answers 380 requests, or compares two files of answers.")
    parser.add_argument("answers", type=Path, help="written, or compared with OTHER")
    parser.add_argument("other", type=Path, nargs="?")
    options = parser.parse_args()
    compare(options.answers, options.other) if options.other else record(options.answers)
