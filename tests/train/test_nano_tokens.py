"""The recipes nano_tokens and nano_queries at a size of seconds: they run, go on where they were cut, and keep what paints."""

import json
import signal

import pytest
import torch

import limner
from helpers import make_limner
from limner.mllm.picture_tokens import tokens_of
from limner.train.interrupts import Interrupted
from limner.train.objective import LanguageObjective
from limner.train.recipe import load_recipe, run_recipe

LOOP = {"steps": 2, "batch_size": 3, "save_every": 1, "sample_every": 0, "warmup_steps": 1, "num_workers": 0}
SIZES = {
    "num_tokens": 4,
    "lengths": "[1,2,4]",
    "levels": "[3,8]",
    "width": 16,
    "heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
}
TINY = [
    "visual_tokenizer.data=[world/draw]",
    "visual_tokenizer.validation_pictures=4",
    "visual_tokenizer.pictures=12",
    'language.data=["world/draw:1.0"]',
    *(f"visual_tokenizer.tokenizer.{key}={value}" for key, value in SIZES.items()),
    *(f"{stage}.loop.{key}={value}" for stage in ("visual_tokenizer", "language") for key, value in LOOP.items()),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    make_limner(prompt_tokens=4).save_pretrained(folder)
    return folder


def run(name, base, output, *overrides, dtype="float32"):
    return run_recipe(
        load_recipe(name, [f"warm_start={base}", f"output={output}", f"dtype={dtype}", *TINY, *overrides])
    )


@pytest.mark.slow
def test_a_model_learns_visual_tokens_and_goes_on_where_it_was_cut(base, tmp_path, monkeypatch):
    made = limner.load(run("nano_tokens", base, tmp_path / "whole"), device="cpu", dtype="float32")
    reply = made.generate("draw", images="force", max_images=1, image_mode="tokens", num_inference_steps=1)
    assert tokens_of(reply.images[0], made.config).mode == "tokens"
    assert made.defaults.image_temperature == 0 and made.config.draft_by_queries, "as the recipe has it"
    before = dict(limner.load(base, device="cpu", dtype="float32").named_parameters())
    changed = {name for name, value in made.named_parameters() if not torch.equal(value, before.get(name, value))}
    assert changed and not any(name.startswith(("detokenizer.", "mllm.vision_tower.")) for name in changed), changed
    stages = [row["stage"] for row in json.loads((tmp_path / "whole/model/training.json").read_text())[-1]["stages"]]
    assert stages == ["visual_tokenizer", "language"]

    real, calls = LanguageObjective.__call__, []

    def stop(*given):
        calls.append(given)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageObjective, "__call__", stop)
        with pytest.raises(Interrupted, match="language: stopped at step 1 of 2"):
            run("nano_tokens", base, tmp_path / "cut")
    again = limner.load(run("nano_tokens", base, tmp_path / "cut"), device="cpu", dtype="float32").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in made.state_dict().items())
    with pytest.raises(ValueError, match="has visual tokens already: leave visual_tokenizer out"):
        run("nano_tokens", tmp_path / "cut/model", tmp_path / "more")

    tokenizer = tmp_path / "whole/visual_tokenizer/model"
    given = (f"visual_tokenizer.pretrained={tokenizer}", "seed=2")
    other = run("nano_tokens", base, tmp_path / "other", *given, dtype="bfloat16")
    own, theirs = (
        limner.load(folder, device="cpu").mllm.visual_tokenizer.state_dict()
        for folder in (tmp_path / "whole/model", other)
    )
    assert all(torch.equal(value, theirs[name]) for name, value in own.items()), (
        "not rounded by the precision of training"
    )
    assert theirs["vector_norm.running_var"].dtype == torch.float32
    assert not (tmp_path / "other/visual_tokenizer").exists()


@pytest.mark.slow
def test_its_twin_draws_by_queries_begun_anew(base, tmp_path):
    made = limner.load(run("nano_queries", base, tmp_path), device="cpu", dtype="float32")
    before = dict(limner.load(base, device="cpu", dtype="float32").named_parameters())
    changed = {name for name, value in made.named_parameters() if not torch.equal(value, before[name])}
    assert "mllm.queries.weight" in changed and not any(name.startswith("detokenizer") for name in changed)
    gap = (made.mllm.queries.weight - before["mllm.queries.weight"]).norm() / before["mllm.queries.weight"].norm()
    assert gap > 0.5, "not those of the warm start, a little trained"
    tokens, queries = (
        load_recipe(name, [f"warm_start={base}", "output=x"]) for name in ("nano_tokens", "nano_queries")
    )
    assert tokens.language == queries.language and queries.new_queries, "the same steps and batches"


def test_new_queries_are_of_a_warm_start():
    with pytest.raises(ValueError, match="new_queries is for a warm start"):
        load_recipe("tiny", ["new_queries=true"])


def test_a_closeness_that_cannot_be_is_refused_before_a_tokenizer_is_trained(base, tmp_path):
    given = ("visual_tokenizer.seen_images=tokens", "visual_tokenizer.draft_by_queries=false")
    with pytest.raises(ValueError, match=r"language\.token_closeness is for models that see pictures as features"):
        run("nano_tokens", base, tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()
