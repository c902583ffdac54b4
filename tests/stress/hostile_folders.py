"""Hostile model and adapter folders: what is loaded works, all else is refused in a line, and nothing runs or is written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is imported
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from broken_adapters import ADAPTER_CHANGES
from broken_folders import MODEL_CHANGES, NEW_CODE
from hypothesis import strategies as st
from watched import in_child, memory_cap, nothing_happens, watch

import limner
from cases import Outcome, try_cases
from helpers import make_limner
from limner.app.cli import main as cli
from limner.inference import adapter_files
from limner.inference.model import Limner
from limner.inference.model_folders import embedded

TITLE = "hostile model and adapter folders, configs, indices: nothing executed or written outside"
CASES = 500
MEMORY = 4_000_000_000
"""Bytes of address space above the start that loading and a small answer may take"""
SECONDS = 60
"""That a folder may take"""

NAMES = (
    *("../x", "..", "/", ".", "", " ", "a/..", "../..", "a/b/c", "./x/y", "~/x", "~", "a\0b", "owner/na me", "C:\\x"),
    *("owner/\x1b[31m", "a/" + "b" * 500, "nano/", "nano/../nano", "/etc/passwd", "/dev/zero", "owner/--x", "-/-"),
    *("https://127.0.0.1/x", "file:///etc", "\ud800", "owner/name@main", "a\nb"),
)
"""Of models, that no folder and no hub has"""


def linked(source: Path, folder: Path) -> Path:
    """A copy whose files are the same ones: cheap, and never written into."""
    return Path(shutil.copytree(source, folder, copy_function=os.link))


def make_adapter(folder: Path) -> Path:
    """LoRA of both parts and one module that was trained whole, for `make_limner`'s model."""
    import peft

    from limner.inference import lora

    model = make_limner()
    parts = {}
    for part, module in (("llm", model.mllm.llm), ("mmdit", model.detokenizer.transformer)):
        config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=adapter_files.TARGETS[part])
        tuner = lora.inject(module, {"a": config})
        parts[part] = (tuner.peft_config["a"], adapter_files.lora_state(tuner, "a"))
    whole = make_limner()
    differences = {"mllm.queries.weight": torch.zeros_like(whole.mllm.queries.weight)}
    adapter_files.save(folder, parts, differences, ("tiny", whole.adapters.fingerprint), {"config": {}})
    return folder


def one_line(text: str) -> None:
    assert text and text.isprintable(), f"not one printable line: {text!r:.500}"
    assert len(text) < 1500, f"too long a line: {text:.300}"


def use(model: Limner) -> None:
    """A short answer in words and a drawing in one step. What was accepted may still refuse, in a line."""
    try:
        model.generate("a red cat" + "a" * 60, max_new_tokens=3, images="never")
        reply = model.draw("a red cat", max_new_tokens=3, num_inference_steps=1, height=32, width=32)
        assert reply.images and reply.images[0].size == (32, 32)
    except ValueError as error:
        one_line(str(error))


def loaded_values(model: Limner) -> dict[str, dict[str, Any]]:
    """What a loaded model holds of each configuration, by the file's place."""
    parts = {"config.json": model.config, "generation_config.json": model.defaults}
    for name in ("mmdit", "adapter"):
        parts[f"detokenizer/{name}/config.json"] = getattr(model.detokenizer, name).config
    own = {name: json.loads(json.dumps(asdict(config))) for name, config in parts.items()}
    theirs = {"llm": model.mllm.llm.config.to_dict(), "vision": model.mllm.vision_tower.model.config.to_dict()}
    return own | {f"{name}/config.json": values for name, values in theirs.items()}


NOT_KEPT = ("architectures", "dtype", "torch_dtype", "transformers_version", "model_type", "format")


def check_kept(model: Limner, folder: Path) -> None:
    """Every value of a configuration that was accepted is the one that the model has."""
    for name, kept in loaded_values(model).items():
        for key, value in json.loads((folder / name).read_text(encoding="utf-8")).items():
            if key in kept and key not in NOT_KEPT and value is not None:
                same = kept[key] == value and isinstance(kept[key], bool) == isinstance(value, bool)
                assert same, f"{name}: {key} is {value!r:.80}, and the model has {kept[key]!r:.80}"


def try_model(base: Path, folder: Path, change: str, number: int) -> None:
    linked(base, folder)
    must_fail = MODEL_CHANGES[change](folder, Random(number))
    with capped():
        try:
            model = limner.load(folder, device="cpu")
        except ValueError as error:
            one_line(str(error))
            refused_by_command("info", "--model", str(folder))
            return
        assert not must_fail, "it was accepted"
        check_kept(model, folder)
        use(model)


def try_adapter(model: Limner, base: Path, folder: Path, change: str, number: int) -> None:
    linked(base, folder)
    must_fail = ADAPTER_CHANGES[change](folder, Random(number))
    before = model.adapters.fingerprint, next(model.parameters()).requires_grad, list(model.adapters.loaded)
    with capped():
        try:
            name = model.load_adapter(folder)
        except ValueError as error:
            one_line(str(error))
        else:
            try:
                assert not must_fail, "it was accepted"
                use(model)
            finally:
                model.delete_adapter(name)
    model.adapters.__dict__.pop("fingerprint")
    after = model.adapters.fingerprint, next(model.parameters()).requires_grad, list(model.adapters.loaded)
    assert after == before, "the base has changed"


def try_name(name: str) -> None:
    with capped():
        try:
            limner.load(name, device="cpu")
        except ValueError as error:
            assert "\n" not in str(error) or "\n" in name
            return
    assert name.startswith("nano"), "it was loaded"


def refused_by_command(*words: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = cli.main(list(words))
    lines = [line for line in said.getvalue().splitlines() if line.startswith("limner: ")]
    assert (status, len(lines)) == (2, 1), f"the command ended with {status}: {said.getvalue()[-300:]}"
    one_line(lines[0])


@contextlib.contextmanager
def capped():
    with nothing_happens(warnings_too=False):
        yield
    assert not [name for name in sys.modules if NEW_CODE in name], "code was imported"


def run(cases: int, seed: int) -> Outcome:
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        base, adapter = Path(folder) / "base", make_adapter(Path(folder) / "adapter")
        make_limner().save_pretrained(base)
        shutil.copytree(embedded("nano"), Path(folder) / "nano")
        tiny = limner.load(base, device="cpu")
        use(tiny)
        use(limner.load("nano", device="cpu"))
        watch()

        def check(case: tuple[str, str, int]) -> None:
            kind, change, number = case
            place = Path(folder) / "case"

            def attempt() -> None:
                if kind == "model":
                    try_model(Path(folder) / "nano" if number % 4 == 0 else base, place, change, number)
                elif kind == "adapter":
                    try_adapter(tiny, adapter, place, change, number)
                else:
                    try_name(change)

            try:
                in_child(attempt, SECONDS)
            finally:
                shutil.rmtree(place, ignore_errors=True)

        kinds = [("model", change) for change in MODEL_CHANGES] * 8 + [("name", name) for name in NAMES]
        kinds += [("adapter", change) for change in ADAPTER_CHANGES] * 4
        made = st.tuples(st.sampled_from(kinds), st.integers(0, 2**32 - 1)).map(lambda drawn: (*drawn[0], drawn[1]))
        with memory_cap(MEMORY):
            return try_cases(made, check, cases, seed)
