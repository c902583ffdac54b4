"""Nobody's work is lost: folders that hold other things are refused, and a run goes on only as it began."""

import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch

import limner
from helpers import make_limner, picture
from limner.app.cli import main as cli
from limner.evaluation import world
from limner.inference.model import Limner
from limner.train import finetune as module
from limner.train import recipe as recipes
from limner.train import resume
from limner.train.adapter_training import check_output
from limner.train.distill import DistillConfig, distill
from limner.train.finetune import finetune, load_config
from limner.train.interrupts import Interrupted
from limner.train.loop import LoopConfig
from limner.train.objective import JointObjective
from limner.train.resume import check_same_run, flatten, run_settings

QUICK = [
    "joint.loop.steps=3",
    "joint.loop.batch_size=1",
    "joint.loop.num_workers=0",
    "joint.loop.warmup_steps=1",
    "rank=2",
    "samples=0",
    "joint.loop.save_every=1",
    "parts=[mmdit]",
]


def interrupted(monkeypatch, data, output, overrides=QUICK):
    """A run that was stopped in its first step."""
    real, calls = JointObjective.losses, []

    def stop(*given):
        calls.append(given)
        if len(calls) == 3:  # two steps are the trial's
            signal.raise_signal(signal.SIGTERM)
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(JointObjective, "losses", stop)
        with pytest.raises(Interrupted, match="step 1 of 3"):
            finetune(make_limner(), data, output, load_config(overrides))


def test_a_folder_of_the_user_s_own_is_left_alone(data, tmp_path):
    project = tmp_path / "project"
    (project / "run").mkdir(parents=True)
    (project / "run/results.txt").write_text("precious")
    (project / "README.md").write_text("my notes")
    for work in (
        lambda: finetune(make_limner(), data, project, load_config(QUICK)),
        lambda: distill(make_limner(), project, DistillConfig()),
        lambda: world.evaluate(make_limner(), project, limit=1),
        lambda: recipes.run_recipe(recipes.load_recipe("tiny", [f"output={project}"])),
    ):
        with pytest.raises(ValueError, match=r"project is not empty: it holds README\.md, run; choose a new folder"):
            work()
    assert {p.name for p in project.rglob("*")} == {"run", "results.txt", "README.md"}


def test_neither_model_nor_adapter_is_written_over(data, tmp_path, capsys):
    base, out = tmp_path / "base", tmp_path / "out"
    make_limner().save_pretrained(base)
    there = ["--model", str(base), "--device", "cpu"]
    assert cli.main(["finetune", str(data), "-o", str(base), *there]) == 2
    assert cli.main(["finetune", str(data), "-o", str(out), *there, "--set", *QUICK]) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert cli.main(["merge", *there, "--adapter", str(out), "-o", str(out)]) == 2
    assert cli.main(["precompute", str(data), *there, "-o", str(out)]) == 2
    assert capsys.readouterr().err.count("is not empty") == 3
    assert all(path.read_bytes() == data for path, data in before.items())
    limner.load(base).load_adapter(out)


def test_a_run_goes_on_only_with_the_data_it_began_with(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(monkeypatch, data, out)
    for change in ("caption", "pixels", "more"):
        other = tmp_path / change / "data"
        shutil.copytree(data, other)
        if change == "caption":
            (other / "1.txt").write_text("something else")
        elif change == "pixels":
            picture(99).save(other / "1.png")
        else:
            picture(3).save(other / "3.png")
            (other / "3.txt").write_text("a fourth")
        with pytest.raises(ValueError, match="holds a run with other data, another base or other settings: data was"):
            finetune(make_limner(), other, out, load_config(QUICK))
    for overrides, said in (
        (["rank=3"], "config.rank was 2, now 3"),
        (["joint.loop.batch_size=2"], "batch_size was 1, now 2"),
    ):
        with pytest.raises(ValueError, match=said):
            finetune(make_limner(), data, out, load_config([*QUICK, *overrides]))
    with pytest.raises(ValueError, match="base was"):
        finetune(make_limner(seed=5), data, out, load_config(QUICK))
    moved = shutil.copytree(data, tmp_path / "moved")
    finetune(
        make_limner(), moved, out, load_config([*QUICK, "joint.loop.log_every=1", "joint.loop.save_total_limit=2"])
    )


def test_a_run_that_could_not_note_its_settings_goes_on(data, tmp_path, monkeypatch):
    """A full disk, or a kill just there, leaves an empty folder."""

    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(resume, "write_text", full)
        finetune(make_limner(), data, tmp_path / "out", load_config(QUICK))
    assert list((tmp_path / "out/run").iterdir()) == []
    finetune(make_limner(), data, tmp_path / "out", load_config(QUICK))


def test_checkpoints_that_were_asked_for_stay(data, tmp_path):
    out = finetune(make_limner(), data, tmp_path / "out", load_config([*QUICK, "joint.loop.save_total_limit=3"]))
    assert [p.name for p in sorted((out / "run/checkpoints").iterdir())] == ["00000001", "00000002", "00000003"]
    log = [json.loads(line) for line in (out / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]
    assert list((out / "run").rglob("events.out.tfevents*")), "the figures"


def test_an_option_given_twice_counts_twice(data, tmp_path, monkeypatch):
    make_limner().save_pretrained(tmp_path / "base")
    seen = []
    monkeypatch.setattr(module, "finetune", lambda model, data, output, config, dry: seen.append(config) or output)
    base = ["--model", str(tmp_path / "base")]
    assert cli.main(["finetune", str(data), "-o", "x", *base, "--set", "rank=7", "--set", "alpha=2", "seed=3"]) == 0
    assert (seen[0].rank, seen[0].alpha, seen[0].seed) == (7, 2.0, 3)


def test_settings_are_compared_by_name(tmp_path):
    check_same_run(tmp_path / "run", {"a": {"b": 1, "c": (1, 2)}})
    check_same_run(tmp_path / "run", {"a": {"b": 1, "c": [1, 2]}})
    with pytest.raises(ValueError, match=r"a\.b was 1, now 2; d was None, now 'x'"):
        check_same_run(tmp_path / "run", {"a": {"b": 2, "c": [1, 2]}, "d": "x"})
    (tmp_path / "run/settings.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        check_same_run(tmp_path / "run", {})
    names = {name for name, _ in flatten(run_settings(load_config([])))}
    assert "joint.loop.batch_size" in names and "joint.loop.num_workers" not in names


def talks(path, question, answer):
    row = json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    path.write_text((row + "\n") * 8)
    return path


@pytest.mark.slow
def test_a_stage_goes_on_only_as_it_began(tmp_path):
    """With other data, at another rate or from another base it is refused, finished or not; the next stage is free."""
    make_limner().save_pretrained(tmp_path / "base")
    one, other = talks(tmp_path / "a.jsonl", "hello", "good day"), talks(tmp_path / "b.jsonl", "colour", "green")
    loop = LoopConfig(steps=1, batch_size=2, sample_every=0, num_workers=0, warmup_steps=1)

    def train(data=one, rate=1e-3, base="base", stage="sft"):
        recipe = recipes.load_recipe("released", [f"output={tmp_path / 'out'}", f"warm_start={tmp_path / base}"])
        settings = replace(
            getattr(recipe, stage), data=(str(data),), train=("mllm.llm",), loop=replace(loop, learning_rate=rate)
        )
        return recipes.run_recipe(replace(recipe, dtype="bfloat16", **{stage: settings}), (stage,))

    train()
    weights = (tmp_path / "out/model/llm/model.safetensors").read_bytes()
    recipe = (tmp_path / "out/recipe.json").read_text()
    make_limner(seed=4).save_pretrained(tmp_path / "another")
    for change, said in (
        ({"data": other}, "data was"),
        ({"rate": 0.05}, r"loop\.learning_rate was 0\.001, now 0\.05"),
        ({"base": "another"}, "base was"),
    ):
        with pytest.raises(ValueError, match=said):
            train(**change)
    text = one.read_text()
    one.write_text(text.replace("good day", "bad luck"))
    with pytest.raises(ValueError, match=r"run with other data.*: data was \['8 examples, "):
        train()
    one.write_text(text)
    assert (tmp_path / "out/model/llm/model.safetensors").read_bytes() == weights
    assert (tmp_path / "out/recipe.json").read_text() == recipe
    train()
    assert (tmp_path / "out/model/llm/model.safetensors").read_bytes() == weights
    base, made = (dict(Limner.from_pretrained(tmp_path / f).named_parameters()) for f in ("base", "out/model"))
    changed = {name for name, value in base.items() if not torch.equal(value, made[name])}
    assert changed and all(name.startswith("mllm.llm.") for name in changed), (
        "fp32 was trained in bf16, and what rested is as it was"
    )
    assert {value.dtype for value in made.values()} == {torch.float32}
    train(stage="joint", rate=0.05)
    assert (tmp_path / "out/model/llm/model.safetensors").read_bytes() != weights
    assert "0.05" in (tmp_path / "out/recipe.json").read_text()


def test_one_of_several_processes_writes(data, tmp_path, monkeypatch):
    """The others neither write nor look at what may be half written."""
    base = tmp_path / "base"
    make_limner().save_pretrained(base)
    loop = LoopConfig(steps=1, batch_size=1, num_workers=0, warmup_steps=1)
    recipe = recipes.load_recipe("released", [f"output={tmp_path / 'new'}", f"warm_start={base}", "device=cpu"])
    recipe = replace(recipe, decoder=replace(recipe.decoder, loop=loop))
    monkeypatch.setenv("RANK", "1")
    recipes.run_recipe(recipe, ("decoder",))
    assert not {path.name for path in (tmp_path / "new").rglob("*")} & {"recipe.json", "settings.json"}

    (tmp_path / "begun/run").mkdir(parents=True)
    check_output(make_limner(), tmp_path / "begun")  # by the first, whose settings are not there yet
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="is not empty: it holds run"):
        check_output(make_limner(), tmp_path / "begun")

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="vision is a stage of one process: run --stages vision first, alone"):
        recipes.run_recipe(replace(recipe, output=str(tmp_path / "other")), ("vision", "joint"))
