"""Fine-tuning end to end at tiny size: it learns, it stops and goes on, the base stays as it was."""

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import limner
from helpers import make_limner
from limner.app.cli.main import main
from limner.train import finetune as module
from limner.train import step_cost
from limner.train.adapter_training import draw_samples, training_precision
from limner.train.finetune import FinetuneConfig, finetune, load_config
from limner.train.interrupts import Interrupted
from limner.train.objective import JointObjective
from limner.train.resume import LOCK_FILE

QUICK = [
    "joint.loop.steps=4",
    "joint.loop.batch_size=2",
    "joint.loop.num_workers=0",
    "joint.loop.warmup_steps=1",
    "rank=2",
    "samples=1",
    "joint.loop.save_every=1",
]


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_an_adapter_is_trained_and_the_base_stays(data, tmp_path, capsys):
    model = make_limner()
    before = state(model)
    out = finetune(model, data, tmp_path / "out", load_config([*QUICK, "modules_to_save=[queries,boi]"]))
    assert same(before, state(model)) and model.get_active_adapters() == {}
    said = capsys.readouterr().out
    assert "examples  3" in said and "parameters: LoRA of rank 2" in said and "4 steps" in said
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        "limner_adapter.json",
        "llm",
        "mmdit",
        "modules_to_save.safetensors",
        "samples",
        "run",
    }
    card = json.loads((out / "limner_adapter.json").read_text())
    assert card["made"]["examples"] == 3 and card["modules_to_save"] == ["mllm.boi_delta", "mllm.queries.weight"]
    model.load_adapter(out)
    lora = [w for _, state in model.adapters.loaded["out"].lora.values() for k, w in state.items() if ".lora_B." in k]
    assert any(w.abs().max() > 0 for w in lora), "LoRA's second factor starts at zero and must have moved"
    with pytest.raises(ValueError, match="finished adapter already"):
        finetune(make_limner(), data, out, load_config(QUICK))


@pytest.mark.slow
def test_it_learns_what_it_is_shown(data, tmp_path):
    """The flow loss of the data falls well below the base's, by the adapter alone."""
    from limner.train.datasets import check, readers
    from limner.train.datasets.mixture import ExampleSource, Mixture
    from limner.train.stages.joint_options import JointStage
    from limner.train.trainable import TrainableModel

    model = make_limner()
    examples = check.check(readers.read(data), model.encoder, 1024).examples
    batch = Mixture([(ExampleSource(examples, 1.0), 1.0)], model.encoder, 3, 7, pool=1)(0)

    @torch.no_grad()
    def flow(model):
        weights = model.adapters.weights()
        halves = (model.adapters.view(half, weights) for half in ("mllm", "detokenizer"))
        return float(JointObjective(TrainableModel(*halves), JointStage(flow_samples=8), 1)(batch, 0)["flow"])

    base = flow(model)
    overrides = [*QUICK[1:], "joint.loop.steps=60", "joint.loop.learning_rate=1e-2", "rank=8", "draw_share=1.0"]
    model.load_adapter(finetune(model, data, tmp_path / "out", load_config(overrides)))
    assert flow(model) < 0.8 * base


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_adapter(data, tmp_path, monkeypatch):
    quick = [*QUICK, "modules_to_save=[queries,boi]"]
    whole = finetune(make_limner(), data, tmp_path / "whole", load_config(quick))
    real = JointObjective.losses
    calls = []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 4:  # two steps of the trial, then the second of the run
            signal.raise_signal(signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(JointObjective, "losses", interrupted)
    model = make_limner()
    before = state(model)
    with pytest.raises(Interrupted, match="step 2 of 4"):
        finetune(model, data, tmp_path / "cut", load_config(quick))
    assert same(before, state(model))
    with pytest.raises(ValueError, match="other settings"):
        finetune(model, data, tmp_path / "cut", load_config([*quick, "rank=3"]))
    cut = finetune(model, data, tmp_path / "cut", load_config(quick))
    for file in ("modules_to_save.safetensors", "llm/adapter_model.safetensors", "mmdit/adapter_model.safetensors"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes()
    assert not (cut / "run/checkpoints").exists() and (cut / "run/log.jsonl").exists()


def test_blocks_computed_again_give_the_same_adapter(data, tmp_path, monkeypatch):
    """And they are: once for every pass that has a gradient. Afterwards nothing is."""
    again = []
    real = JointObjective.losses

    def noted(objective, *given):
        trainable = objective.trainable
        again.append((trainable.detokenizer.mmdit.gradient_checkpointing, trainable.stream.llm.training))
        return real(objective, *given)

    monkeypatch.setattr(JointObjective, "losses", noted)
    plain = finetune(make_limner(), data, tmp_path / "plain", load_config(QUICK))
    model = make_limner()
    out = finetune(model, data, tmp_path / "again", load_config([*QUICK, "joint.gradient_checkpointing=true"]))
    assert again == [(False, False)] * 6 + [(True, True)] * 6  # two steps are the trial's
    assert not model.detokenizer.mmdit.gradient_checkpointing and not model.mllm.llm.training
    for part in ("llm", "mmdit"):
        ours, theirs = (load_file(f / part / "adapter_model.safetensors") for f in (out, plain))
        assert all(torch.allclose(ours[n], v, atol=1e-5) for n, v in theirs.items())


def test_painting_alone_learns_nothing_from_words(data, tmp_path):
    """No batch without a picture stops it, in the trial or in the run; in the end there is no adapter without effect."""
    options = [*QUICK, "parts=[mmdit]", "draw_share=0.0", "plan_share=0.0"]
    with pytest.raises(ValueError, match="nothing was learned: the gradient was zero in 4 of 4 steps"):
        finetune(make_limner(), data, tmp_path / "out", load_config(options))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK_FILE, "run", "samples"}


def test_from_python(data, tmp_path):
    joint = load_config(QUICK).joint
    out = limner.finetune(make_limner(), data, tmp_path / "out", rank=2, samples=0, joint=joint, steps=2)
    card = json.loads((out / "limner_adapter.json").read_text())
    assert (
        card["made"]["steps"] == 2
        and card["modules_to_save"] == []
        and not (out / "modules_to_save.safetensors").exists()
    )
    assert not (out / "samples").exists()
    from limner.train.datasets import check, readers
    from limner.train.frozen_encoders import precompute

    model = make_limner()
    precompute(model, check.check(readers.read(data), model.encoder, 1024).examples, tmp_path / "ahead")
    config = load_config([*QUICK, f"joint.precomputed={tmp_path / 'ahead'}"])
    ahead = finetune(model, data, tmp_path / "ahead-out", config)
    assert (ahead / "limner_adapter.json").exists()
    with pytest.raises(ValueError, match="unknown option 'rnk'; there are steps, rank"):
        limner.finetune(make_limner(), data, tmp_path / "out2", rnk=2)
    with pytest.raises(ValueError, match="config and rank: give one or the other"):
        limner.finetune(make_limner(), data, tmp_path / "out2", config, rank=2)


def test_what_is_known_is_kept_by_leaving_the_image_stream_alone():
    """Where something is replayed; else LoRA has both streams, and what is named is what gets it."""
    for replay, streams, expected in (
        ("none", [], {"image", "context"}),
        ("world", [], {"context"}),
        ("world", ["image"], {"image"}),
        ("world", ["image", "context"], {"image", "context"}),
    ):
        config = load_config(["rank=2", f"replay={replay}", f"streams={streams}"])
        model = make_limner()
        trainable, _ = module.prepare_adapter(model, config)
        learns = [n for n, p in trainable.named_parameters() if p.requires_grad and ".mmdit." in n]
        assert {name.split(".blocks.")[1].split(".")[1] for name in learns} == expected
        assert set(module.fill_defaults(config, model).streams) == expected, "what an adapter's card notes"
        assert any(n.startswith("stream.llm") and p.requires_grad for n, p in trainable.named_parameters())


def test_options_are_checked():
    assert load_config(["rank=4"]).rank == 4
    assert load_config([]).plan_share is None and load_config(["plan_share=0.5"]).plan_share == 0.5
    for wrong, said in (
        (["rnk=4"], "unknown key 'rnk'"),
        (["rank=many"], "rank must be of type int"),
        (["rank=[1"], "rank=.1: while parsing"),
        (["rank=${sed}"], "Interpolation key 'sed' not found"),
        (["rank=0"], "rank is 0"),
        (["parts=llm"], "parts must be of type list, not 'llm'"),
        (["parts=[llm,eye]"], "parts: no 'eye'; there are llm, mmdit"),
        (["streams=[image]", "parts=[llm]"], "streams is image; they are of the MM-DiT"),
        (["streams=[text]"], "streams: no 'text'; there are image, context"),
        (["modules_to_save=[all]"], "modules_to_save: no 'all'"),
        (["replay=photos"], "replay is 'photos'"),
        (["draw_share=2"], "draw_share is 2"),
        (["plan_share=2"], "plan_share is 2"),
        (["plan_share=often"], "plan_share"),
        (["joint.train=[mllm]"], "joint.train has no effect here"),
        (["joint.compile=true"], "joint.compile has no effect here"),
        (["joint.loop.sample_every=5"], "sample_every is 5 and has no effect here"),
        (["parts=[]", "modules_to_save=[]"], "nothing to train"),
    ):
        with pytest.raises(ValueError, match=said):
            load_config(wrong)
    with pytest.raises(ValueError, match="dtype is 'int3'"):
        training_precision(make_limner(), torch.device("cpu"), "int3")
    assert FinetuneConfig().parts == ("llm", "mmdit")


def test_help_tells_how_many_steps_there_are(capsys):
    assert main(["finetune", "--help"]) == 0
    assert f"training steps (default: {FinetuneConfig().joint.loop.steps})" in capsys.readouterr().out


def test_the_command_line(data, tmp_path, capsys):
    make_limner().save_pretrained(tmp_path / "base")
    base = ["--model", str(tmp_path / "base"), "--device", "cpu"]
    out = str(tmp_path / "out")
    assert main(["finetune", str(data), "-o", out, *base, "--dry-run", "--set", *QUICK]) == 0
    assert not (tmp_path / "out").exists()
    assert main(["finetune", str(data), "-o", out, *base, "--steps", "2", "--set", *QUICK]) == 0
    assert main(["draw", "a zorp", "--out", str(tmp_path / "z.png"), *base, "--adapter", f"{out}:0.5"]) == 0
    assert main(["merge", *base, "--adapter", out, "-o", str(tmp_path / "merged")]) == 0
    assert limner.load(tmp_path / "merged").adapters.fingerprint != limner.load(tmp_path / "base").adapters.fingerprint
    capsys.readouterr()
    assert main(["merge", *base, "--adapter", out, "-o", str(tmp_path / "merged")]) == 2
    assert main(["draw", "x", "--model", str(tmp_path / "merged"), "--adapter", out]) == 2
    assert main(["finetune", str(tmp_path / "nothing"), "-o", out + "2", *base]) == 2
    said = capsys.readouterr().err
    for words in ("is not empty: it holds", "not for this model", "no such data set"):
        assert words in said


def test_the_estimate_is_the_pool_s_mean(data, monkeypatch, capsys, tmp_path):
    """From two steps: where time goes by work it is exact, however different the batches are."""
    clock, done = [0.0], []
    monkeypatch.setattr(step_cost, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    real = JointObjective.losses

    def timed(objective, batch, *given):
        done.append(step_cost.step_cost(batch, objective.trainable, objective.stage))
        clock[0] += done[-1] * 1e-6
        return real(objective, batch, *given)

    monkeypatch.setattr(JointObjective, "losses", timed)
    model = make_limner(prompt_tokens=6, shapes=((128, 128), (96, 160), (160, 96)))
    model.detokenizer.mmdit.config.position_table = 32
    seen = []
    original = module.estimate_cost
    monkeypatch.setattr(module, "estimate_cost", lambda *given: seen.append(original(*given)) or seen[-1])
    options = [*QUICK, "joint.loop.batch_size=4", "joint.loop.steps=8", "replay=world", "samples=0"]
    finetune(model, data, tmp_path / "out", load_config(options))
    (seconds, peak), trial, run = seen[0], done[:2], done[2:]
    assert len(run) == 8 and max(run) > 2 * min(run), "a pool of eight batches"
    assert seconds == pytest.approx(sum(run) / 8 * 1e-6, rel=1e-6) and peak > 2**20
    assert trial[0] == max(run) and abs(trial[1] - sum(run) / 8) == min(abs(w - sum(run) / 8) for w in run)


def test_something_is_said_before_anything_is_imported():
    """Torch takes seconds; the first line does not wait for it."""
    code = "import sys; sys.modules['torch'] = None; from limner.app.cli.main import main; main(sys.argv[1:])"
    run = subprocess.run([sys.executable, "-c", code, "finetune", "DATA", "-o", "OUT"], capture_output=True, text=True)
    assert run.stdout == "finetune  nano on DATA, into OUT\n" and "torch" in run.stderr


def test_samples_that_are_no_pictures_do_not_end_the_training(tmp_path):
    model = make_limner(shapes=((32, 32), (16, 32)))
    with torch.no_grad():
        for parameter in model.detokenizer.autoencoder.parameters():
            parameter.fill_(float("nan"))
    with pytest.warns(UserWarning, match=r"no samples in after\.png: the pixels are not finite"):
        draw_samples(model, ["a cat"], 0, tmp_path / "after.png", num_inference_steps=1)
    assert not list(tmp_path.iterdir())
