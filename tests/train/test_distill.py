"""The few-step student: its target, that it gets nearer to the teacher, and how it is used."""

import json

import pytest
import torch
from safetensors.torch import load_file

from helpers import make_limner
from limner.app.cli.main import main
from limner.detokenizer import flow, samplers
from limner.detokenizer.condition import Condition
from limner.detokenizer.guidance import Guidance
from limner.detokenizer.mmdit_detokenizer import GuidedVelocity
from limner.train.datasets.mixture import WorldSource
from limner.train.distill import (
    DistillConfig,
    DrawingSource,
    distill,
    load_config,
    path_loss,
    prepare_student,
    switch_student,
)
from limner.train.trainable import TrainableModel

QUICK = [
    "steps=2",
    "teacher_steps=4",
    "rank=2",
    "loop.steps=3",
    "loop.batch_size=2",
    "loop.save_every=1",
    "loop.warmup_steps=1",
]


def condition(model, rows=3, seed=0):
    torch.manual_seed(seed)
    config = model.detokenizer.mmdit.config
    reference = torch.randn(config.latent_channels, 4, 4)
    return Condition(
        torch.randn(rows, 4, config.context_width),
        torch.ones(rows, 4, dtype=torch.bool),
        torch.randn(rows, config.pooled_width),
        [[reference]] * rows,
    )


def end(model, steps, scale, noise, own):
    """Where Euler's steps of the model as it is now lead."""
    times = flow.inference_timesteps(steps, 1.0)
    with torch.no_grad():
        velocity = GuidedVelocity(model.detokenizer.mmdit, own, Guidance(scale), times, torch.float32)
        return samplers.integrate(samplers.euler(noise, times), velocity)


def test_a_fresh_student_errs_by_what_guidance_and_fine_steps_change_and_by_nothing_else():
    model = make_limner()
    prepare_student(model, DistillConfig(steps=2, teacher_steps=4, rank=2))
    student, own = model.detokenizer.mmdit, condition(model)
    noise = torch.randn(3, 4, 4, 4)
    same = path_loss(student, own, noise, 1.0, DistillConfig(steps=2, teacher_steps=2), 1.0)
    assert same.shape == (3,) and same.abs().max() < 1e-10
    assert path_loss(student, own, noise, 1.0, DistillConfig(steps=2, teacher_steps=2), 3.0).min() > 1e-6
    # by hand, of the first segment of one: from noise to the end in one step against four guided ones
    one = path_loss(student, own, noise, 1.0, DistillConfig(steps=1, teacher_steps=4), 3.0)
    gap = (end(model, 4, 3.0, noise, own) - end(model, 1, 1.0, noise, own)).square().flatten(1).mean(1)
    assert torch.allclose(one, gap, rtol=1e-4)


@pytest.mark.slow
def test_training_brings_the_student_to_the_teacher():
    model = make_limner()
    config = DistillConfig(steps=2, teacher_steps=8, rank=8)
    prepare_student(model, config)
    trainable = TrainableModel(model.mllm, model.detokenizer)
    student, own = model.detokenizer.mmdit, condition(model)
    noise = torch.randn(3, 4, 4, 4)
    switch_student(student, False)
    there, before = end(model, 8, 3.0, noise, own), end(model, 2, 1.0, noise, own)
    optimizer = torch.optim.AdamW([p for p in trainable.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        path_loss(student, own, noise, 1.0, config, 3.0).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    switch_student(student, True)
    after = end(model, 2, 1.0, noise, own)
    assert (after - there).norm() < 0.3 * (before - there).norm()
    switch_student(student, False)
    assert torch.equal(end(model, 8, 3.0, noise, own), there), "the teacher is what it was"


def test_from_the_command_line_to_an_adapter_that_draws_in_its_own_steps(data, tmp_path, capsys):
    make_limner(prompt_tokens=6).save_pretrained(tmp_path / "base")
    out = tmp_path / "student"
    command = ["distill", "--model", str(tmp_path / "base"), "-o", str(out), "--set", *QUICK, f"data=[{data}]"]
    assert main(command) == 0
    assert "2 plain steps for 4 guided by 2" in capsys.readouterr().out
    assert json.loads((out / "limner_adapter.json").read_text())["made"]["student_steps"] == 2
    assert main(command) == 2 and "finished adapter already" in capsys.readouterr().err

    from limner.inference.model import Limner

    model = Limner.from_pretrained(tmp_path / "base")
    asked = {"images": "force", "max_images": 1, "max_new_tokens": 2}
    base = {steps: model.generate("a", **asked, num_inference_steps=steps).images[0].tobytes() for steps in (2, 3)}
    model.load_adapter(out)
    events = list(model.stream("a", **asked))
    assert [e.steps for e in events if type(e).__name__ == "PictureStep"] == [2, 2]
    own = model.generate("a", **asked).images[0].tobytes()
    plain = model.generate("a", **asked, num_inference_steps=2, guidance_scale=1.0).images[0].tobytes()
    assert own == plain != base[2]
    assert model.generate("a", **asked, num_inference_steps=3).images[0].tobytes() == base[3], (
        "other steps: the teacher"
    )
    assert model.get_active_adapters() == {"student": 1.0}
    assert model.generate("a", **asked).images[0].tobytes() == own
    model.set_adapters([])
    assert model.generate("a", **asked).images[0].tobytes() == base[3], "three are the model's own"
    model.load_adapter(out, "other")
    model.set_adapters(["student", "other"])
    assert len(model.generate("a", **asked).images) == 1
    model.adapters.loaded["other"].made = {"student_steps": 3}
    with pytest.raises(ValueError, match="student of 2, other of 3"):
        model.generate("a", **asked)


def test_a_stopped_run_goes_on_to_the_same_student(data, tmp_path, monkeypatch):
    from limner.train import loop

    def run(folder):
        return distill(make_limner(), folder, load_config([*QUICK, f"data=[{data}]"]))

    run(tmp_path / "whole")
    saved = loop.checkpoints.save
    monkeypatch.setattr(
        loop.checkpoints, "save", lambda *a, **k: (saved(*a, **k), (_ for _ in ()).throw(OSError("full")))[0]
    )
    with pytest.raises(OSError, match="full"):
        run(tmp_path / "cut")
    monkeypatch.undo()
    run(tmp_path / "cut")
    a, b = ((tmp_path / f / "mmdit/adapter_model.safetensors").read_bytes() for f in ("whole", "cut"))
    assert a == b


def test_a_student_goes_on_from_an_earlier_one(data, tmp_path):
    """Before its first step it is the earlier one; another rank, another base and other adapters are refused."""
    model, options = make_limner(), [*QUICK, f"data=[{data}]"]
    first = distill(model, tmp_path / "first", load_config(options))
    options.append(f"warm_start={first}")
    again = distill(model, tmp_path / "again", load_config([*options, "loop.steps=1", "loop.learning_rate=1e-10"]))
    on = distill(model, tmp_path / "on", load_config(options))
    weights = [load_file(folder / "mmdit/adapter_model.safetensors") for folder in (first, again, on)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])
    with pytest.raises(ValueError, match="has rank 2, this run 4"):
        distill(model, tmp_path / "no", load_config([*options, "rank=4"]))
    with pytest.raises(ValueError, match="holds no student of this model"):
        distill(make_limner(seed=5), tmp_path / "no", load_config(options))
    assert not (tmp_path / "no").exists()


def test_only_conversations_that_draw_are_taken():
    drawings = DrawingSource(WorldSource())
    for place in range(30):
        told = drawings.sample(3, place)
        assert any(p["type"] == "image" for m in told if m["role"] == "assistant" for p in m["content"])
        assert drawings.sample(3, place) == told and drawings.name(3, place).startswith("world 3/")


def test_bad_options(tmp_path):
    for overrides, said in (
        (["teacher_steps=7"], "teacher_steps is 7; it must be a multiple of steps, 4"),
        (["rank=0"], "rank is 0"),
        (["steps=two"], "steps"),
        (["stepps=2"], "unknown key 'stepps'"),
        (["loop.parallel=fsdp"], "trained whole"),
    ):
        with pytest.raises(ValueError, match=said):
            load_config(overrides)
