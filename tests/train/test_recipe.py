"""The whole recipe at a size of seconds."""

import json
import subprocess
import sys

import pytest
import torch

import limner
from helpers import picture
from limner.detokenizer.autoencoder import kl_autoencoder
from limner.train import recipe as recipes
from limner.train.machine import MachineChoices


@pytest.mark.slow
def test_from_nothing_to_a_model_that_replies(tmp_path):
    recipe = recipes.load_recipe("tiny", [f"output={tmp_path}"])
    folder = recipes.run_recipe(recipe)
    model = limner.load(folder)
    reply = model.generate("draw a red cat", images="force", max_images=1)
    assert reply.images[0].size in ((128, 128), (160, 96), (96, 160))
    assert (
        model.generate([{"role": "user", "content": [{"type": "image", "image": picture(1)}]}], images="never")
        is not None
    )
    assert (
        model.student_steps == 1 and reply.images[0] != model.generate("draw a red cat", num_inference_steps=2).images
    )
    card = (folder / "README.md").read_text()
    assert all(f"| `{name}` |" in card for name in recipes.DEFAULT_STAGES) and "from nothing" in card
    assert (tmp_path / "joint/samples/000004.png").exists()
    assert len((tmp_path / "joint/validation.jsonl").read_text().splitlines()) == 1
    before = json.loads((tmp_path / "joint/checkpoints/00000004/progress.json").read_text())
    assert recipes.run_recipe(recipe) == folder  # finished stages are skipped
    assert json.loads((tmp_path / "joint/checkpoints/00000004/progress.json").read_text()) == before

    longer = recipes.load_recipe(
        "tiny", [f"output={tmp_path / 'longer'}", f"warm_start={folder}", "joint.loop.steps=1"]
    )
    further = recipes.run_recipe(longer, ("joint",))
    a, b = (limner.load(f, dtype="float32").mllm.queries.weight for f in (folder, further))
    assert 0 < (a - b).abs().max() < 0.02, "a warm start goes on from the weights it was given"

    finished = recipes.load_recipe("tiny", [f"output={tmp_path / 'finished'}", f"warm_start={folder}"])
    sharper = limner.load(recipes.run_recipe(finished, ("decoder",)), dtype="float32")
    start = dict(limner.load(folder, dtype="float32").named_parameters())
    changed = {name for name, value in sharper.named_parameters() if not torch.equal(value, start[name])}
    assert changed and all(name.startswith("detokenizer.autoencoder.vae.decoder.") for name in changed)

    judged = recipes.load_recipe(
        "tiny",
        [f"output={tmp_path / 'judged'}", f"warm_start={folder}", f"judge.warm_start={tmp_path / 'judge/model'}"],
    )
    recipes.run_recipe(judged, ("judge",))
    assert (tmp_path / "judged/judge/model/config.json").exists() and not (tmp_path / "judged/model").exists()
    with pytest.raises(ValueError, match="a warm start brings its own autoencoder"):
        recipes.run_recipe(judged, ("autoencoder", "joint"))

    from limner.evaluation import world
    from limner.evaluation.judge import Judge

    judge = Judge.from_pretrained(tmp_path / "judge/model")
    original = Judge.from_pretrained
    Judge.from_pretrained = classmethod(lambda cls, _: judge)
    try:
        results = world.evaluate(model, tmp_path / "eval", limit=2)
    finally:
        Judge.from_pretrained = original
    assert {s["name"].split("/")[0] for s in results["scores"]} == {
        "draw",
        "edit",
        "describe",
        "answer",
        "decide",
        "story",
        "compose",
        "control",
        "fill",
        "sign",
        "size",
        "shape asked for",
        "no words asked for",
        "by hand",
        "talk",
        "plan",
        "edits",
        "queries alone",
    }
    assert all(0 <= s["low"] <= s["rate"] <= s["high"] <= 1 for s in results["scores"])
    assert (tmp_path / "eval/sheet.png").exists() and (tmp_path / "eval/table.txt").exists()


@pytest.mark.slow
def test_train_from_the_command_line_stops_and_goes_on(tmp_path):
    command = [
        sys.executable,
        "-m",
        "limner.app.cli",
        "train",
        "tiny",
        f"output={tmp_path}",
        "autoencoder.loop.steps=400",
        "autoencoder.loop.save_every=1",
    ]
    run = subprocess.Popen([*command, "--stages", "tokenizer,autoencoder"], stderr=subprocess.PIPE, text=True)
    import time

    for _ in range(600):
        if list(tmp_path.glob("autoencoder/checkpoints/????????")):
            break
        time.sleep(0.1)
    run.send_signal(2)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "run the same command to go on" in err and "Traceback" not in err
    (newest,) = tmp_path.glob("autoencoder/checkpoints/????????")
    step = json.loads((newest / "progress.json").read_text())["step"]
    assert step == int(newest.name)
    assert 0 < step < 400


@pytest.mark.slow
def test_a_dry_run_takes_two_steps_of_every_stage_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    from limner.app.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", "tiny", "--dry-run", "--stages", ",".join(recipes.STAGES)]) == 0
    assert "two steps of every stage" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_evaluation_s_networks_are_stages(tmp_path):
    recipe = recipes.load_recipe("tiny", [f"output={tmp_path}"])
    vae = kl_autoencoder((8, 16), 4, 2)
    choices = MachineChoices("a test", "float32", False, 1)
    recipes.run_evaluation_stages(recipe, ("judge", "reader"), vae, tmp_path, torch.device("cpu"), choices)
    assert all((tmp_path / name / "model/config.json").exists() for name in ("judge", "reader"))
