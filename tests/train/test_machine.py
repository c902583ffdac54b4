"""What a recipe leaves to the machine, and what its length and batches are then."""

import json
from dataclasses import replace

import pytest
import torch
from torch._inductor.exc import InvalidCxxCompiler

from limner.train import machine
from limner.train import recipe as recipes
from limner.train.loop import LoopConfig
from limner.train.machine import (
    MachineChoices,
    choose_for_machine,
    plan,
    read_choices,
    recipe_text,
    sized,
    with_batches,
)
from limner.train.recipe import load_recipe
from limner.train.resume import check_same_run, default_settings, run_settings
from limner.train.stages.joint_options import JointStage

CPU = torch.device("cpu")
HERE = MachineChoices("a machine", "float32", True, 1)


def test_a_twentieth_of_the_length_is_a_twentieth_of_every_stage():
    whole = load_recipe("nano")
    short = sized(load_recipe("nano", ["scale=0.05"]), HERE, recipes.DEFAULT_STAGES)
    for name in recipes.DEFAULT_STAGES[1:]:
        loop, before = getattr(short, name).loop, getattr(whole, name).loop
        assert loop.steps == round(before.steps / 20) and loop.warmup_steps <= max(1, loop.steps // 10), name
        assert (loop.batch_size, loop.learning_rate) == (before.batch_size, before.learning_rate)
    assert "joint 635 x 32" in plan(short, recipes.DEFAULT_STAGES)
    assert sized(load_recipe("nano", ["scale=1e-9"]), HERE, ["joint"]).joint.loop.steps == 2
    for value in ("0", "-1", "nan", "1000", "half"):
        with pytest.raises(ValueError, match="scale"):
            load_recipe("nano", [f"scale={value}"])


def test_larger_batches_see_as_many_conversations_at_a_rate_of_the_square_root():
    loop = LoopConfig(steps=4000, batch_size=32, learning_rate=1e-3, warmup_steps=100, ema_decay=0.99)
    four = with_batches(loop, 4)
    assert four.steps * four.batch_size == 4000 * 32 and four.batch_size == 128
    assert four.learning_rate == pytest.approx(2e-3) and four.warmup_steps == 25
    assert four.ema_decay == pytest.approx(0.99**4), "the average spans as many conversations"
    assert with_batches(loop, 8).learning_rate == pytest.approx(2e-3), "no further"
    assert with_batches(replace(loop, steps=700), 16).steps == 350, "not fewer than it takes to learn anything"
    assert with_batches(loop, 1) == loop
    for value in ("0", "1.5", "many"):
        with pytest.raises(ValueError, match="batch_factor"):
            load_recipe("nano", [f"batch_factor={value}"])


def test_a_gpu_takes_as_many_as_its_memory_holds(monkeypatch):
    def properties(_):
        return type("Properties", (), {"total_memory": memory * 2**30, "name": "GPU"})

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    found = {}
    for memory in (6, 24, 80, 141, 1000):
        found[memory] = machine.batch_factor(torch.device("cuda"))
    assert found == {6: 1, 24: 2, 80: 8, 141: 16, 1000: 16} and machine.batch_factor(CPU) == 1


def test_what_was_chosen_is_kept_where_the_run_goes_on(tmp_path, monkeypatch):
    recipe = load_recipe("nano")
    first = replace(choose_for_machine(recipe, CPU), machine="another", dtype="bfloat16", batch_factor=4)
    assert choose_for_machine(recipe, CPU).batch_factor == 1
    path = tmp_path / "recipe.json"
    assert read_choices(path) is None
    path.write_text(recipe_text(recipe, first))
    assert json.loads(path.read_text())["batch_factor"] == "auto", "as it was given"
    again = choose_for_machine(recipe, CPU, read_choices(path))
    assert (again.dtype, again.batch_factor) == ("bfloat16", 4) and again.machine != "another"
    asked = choose_for_machine(load_recipe("nano", ["dtype=float32", "batch_factor=2"]), CPU, read_choices(path))
    assert (asked.dtype, asked.batch_factor) == ("float32", 2)
    path.write_text("{}")
    assert read_choices(path) is None, "of a run before this was noted"


def test_stages_are_compiled_where_there_is_a_compiler_and_it_pays(monkeypatch):
    recipe = load_recipe("nano")
    assert recipe.joint.compile == recipe.language.compile == "auto"
    both = sized(recipe, HERE, ["joint", "language"])
    assert both.joint.compile is True and both.language.compile is True
    assert sized(recipe, replace(HERE, compile=False), ["joint"]).joint.compile is False
    assert sized(replace(recipe, scale=0.01), HERE, ["joint"]).joint.compile is False, "127 steps"
    assert sized(load_recipe("nano", ["joint.compile=false"]), HERE, ["joint"]).joint.compile is False
    assert machine.can_compile(torch.device("mps")) is False

    def missing():
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    assert machine.can_compile(CPU) is False
    with pytest.raises(ValueError, match=r"joint\.compile must be of type bool, not 'maybe'"):
        load_recipe("nano", ["joint.compile=maybe"])


def test_a_run_goes_on_compiled_or_not(tmp_path):
    before = {"stage": run_settings(JointStage()) | {"compile": True}}  # as it was written once
    (tmp_path / "settings.json").write_text(json.dumps(before))
    stage = JointStage(compile=False)
    check_same_run(tmp_path, {"stage": run_settings(stage)})
    del before["stage"]["text_batch_size"]  # before there was such an option
    (tmp_path / "settings.json").write_text(json.dumps(before))
    check_same_run(tmp_path, {"stage": run_settings(stage)}, default_settings(stage))
    with pytest.raises(ValueError, match=r"stage\.text_batch_size was 0, now 4"):
        more = replace(stage, text_batch_size=4)
        check_same_run(tmp_path, {"stage": run_settings(more)}, default_settings(more))
    with pytest.raises(ValueError, match=r"stage\.loop\.steps"):
        check_same_run(tmp_path, {"stage": run_settings(JointStage(loop=LoopConfig(steps=3)))})
