"""Options that make no sense, or that would be ignored, are refused by name before any work begins."""

import math
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

import limner
from helpers import make_limner
from limner.app.cli import main as cli
from limner.inference.devices import check_device
from limner.train import parallel
from limner.train import recipe as recipes
from limner.train.distill import DistillConfig
from limner.train.finetune import FinetuneConfig, config_from_options
from limner.train.loop import LoopConfig
from limner.train.recipe import load_recipe
from limner.train.recipe_options import Recipe
from limner.train.stages.joint_options import JointStage

NANO = Path(limner.__file__).parent / "weights/nano"
FREE = {"seed", "density_mean"}
"""Numbers that may be negative"""


def refused(capsys, *words):
    """What the command line says of a mistake: one line, beside transformers' progress where a model is loaded."""
    capsys.readouterr()
    status = cli.main(words)
    err = capsys.readouterr().err
    assert status == 2 and "Traceback" not in err
    *progress, line = err.splitlines()
    assert line.startswith("limner: ") and not any(word.startswith("limner:") for word in progress)
    return line.removeprefix("limner: ")


def numbers(options, where=""):
    """Every numeric option, nested ones too: (its dataclass, its place, its name, whether it is whole)."""
    hints = get_type_hints(type(options))
    for field in fields(options):
        if is_dataclass(value := getattr(options, field.name)):
            yield from numbers(value, f"{where}{field.name}.")
        elif hints[field.name] in (int, float, int | None, float | None):
            yield options, where, field.name, hints[field.name] in (int, int | None)


@pytest.mark.parametrize("config", [Recipe(), FinetuneConfig(), DistillConfig()], ids=lambda c: type(c).__name__)
def test_no_number_is_infinite_none_and_few_are_negative(config):
    seen = 0
    for options, where, name, whole in numbers(config):
        for value in ([] if name in FREE else [-1]) + ([] if whole else [math.nan, math.inf]):
            with pytest.raises(ValueError, match=rf"{name.removeprefix('image_').replace('_', '.')}"):
                replace(options, **{name: value})
                pytest.fail(f"{where}{name}={value}")
            seen += 1
    assert seen > 25


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dtype=banana", "dtype is 'banana'; it can be auto, float32, bfloat16 or float16"),
        ("joint.density=rainbow", "joint: density is 'rainbow'; it can be logit_normal, mode, cosmap or uniform"),
        ("language.slips=7", "language: word_dropout is 7.0; it must be at least 0 and at most 1"),
        ("language.word_dropout=1.1", "language: word_dropout is 1.1; it must be at least 0 and at most 1"),
        ("language.feature_weight=-1", "language: feature_weight is -1.0; it must be at least 0"),
        ("joint.draw_share=2", "joint: draw_share is 2.0; it must be at least 0 and at most 1"),
        ("joint.context_dropout=1.5", "context_dropout is 1.5"),
        ("joint.reference_dropout=-0.1", "reference_dropout is -0.1"),
        ("joint.prompt_dropout=3", "prompt_dropout is 3.0"),
        ("joint.flow_samples=0", "joint: flow_samples is 0; it must be at least 1"),
        ("joint.density_std=0", "joint: density_std is 0.0; it must be above 0"),
        ("joint.density_mean=nan", "joint: density_mean is nan; it must be a finite number"),
        (
            "joint={density: mode, density_mean: 1.8}",
            "joint: density_mean is 1.8; it must be at least -1 and at most 1.75",
        ),
        ("joint.align_weight=-1", "align_weight is -1.0"),
        ("joint.align_block=-1", "align_block is -1; it must be at least 0"),
        ("joint.data=[]", "joint: data is empty"),
        ("joint.train=[]", "joint: train is empty"),
        ("joint.loop.steps=-1", "joint.loop: steps is -1; it must be at least 1"),
        ("joint.loop.batch_size=0", "batch_size is 0; it must be at least 1"),
        ("joint.loop.gradient_accumulation_steps=0", "gradient_accumulation_steps is 0"),
        ("joint.loop.log_every=-1", "log_every is -1; it must be at least 0"),
        ("joint.loop.save_every=-1", "save_every is -1; it must be at least 0"),
        ("joint.loop.save_total_limit=0", "save_total_limit is 0"),
        ("joint.loop.max_grad_norm=-1", "max_grad_norm is -1.0; it must be at least 0"),
        ("joint.loop.learning_rate=0", "joint.loop: learning_rate is 0, by which nothing is learned"),
        ("joint.loop.learning_rate=1e10", "learning_rate is 10000000000.0; it must be at least 0 and at most 1"),
        (
            "joint.loop.weight_decay=1e4",
            "weight_decay is 10000.0; times the learning rate, 0.0014, it must be at most 1",
        ),
        (
            "joint={language_weight: 0, feature_weight: 0, flow_weight: 0, align_weight: 0}",
            "language_weight, feature_weight, flow_weight and align_weight are all 0: nothing is learned",
        ),
        ("detokenizer.flow_weight=0", "detokenizer: flow_weight and align_weight are 0"),
        ("seed=9223372036854775808", "seed is 9223372036854775808; it must be at least"),
        ("joint.loop.ema_decay=1", "ema_decay is 1.0; it must be at least 0 and below 1"),
        ("joint.loop.decay_ratio=1.2", "decay_ratio is 1.2"),
        ("joint.loop.learning_rate=inf", "learning_rate is inf"),
        ("joint.loop.schedule=foo", "schedule is 'foo'; it can be linear, cosine or constant"),
        ("joint.loop.optimizer=foo", "optimizer is 'foo'; it can be adamw or muon"),
        ("joint.loop.parallel=foo", "parallel is 'foo'; it can be ddp, fsdp or hsdp"),
        ("joint.loop.tracker=paper", "joint.loop: tracker is 'paper'; accelerate has"),
        ("judge.blur_rate=2", "judge: blur_rate is 2.0"),
        ("judge.cut_rate=2", "judge: cut_rate is 2.0"),
        ("judge.featured_object=unicorn", "judge: featured_object is 'unicorn'; the world has"),
        ("reader.warp_rate=2", "reader: warp_rate is 2.0"),
        ("vision.heads=5", "vision: width is 192; its 5 heads do not divide it"),
        ("autoencoder.widths=[64,0]", r"autoencoder: widths is (64, 0); it must be at least 1"),
        ("autoencoder.widths=[]", "autoencoder: widths is empty"),
        ("autoencoder.full_image_share=2", "autoencoder: full_image_share is 2.0"),
        ("decoder.latent_noise=-1", "decoder: latent_noise is -1.0"),
        ("tokenizer.vocab_size=200", "tokenizer: vocab_size is 200; it must be at least 259"),
        ("backbone.model_type=foo", "backbone: model_type is 'foo'"),
        ("backbone.attn_implementation=foo", "backbone: attn_implementation is 'foo'; it can be eager"),
        ("backbone.num_key_value_heads=3", "backbone: num_attention_heads is 4; it must be a multiple of"),
        ("mmdit.heads=0", "mmdit: heads is 0"),
        ("mmdit.dual_attention_blocks=[8]", "mmdit: dual_attention_blocks has 8; the blocks are 0 to 7"),
        ("adapter.heads=3", "adapter: 3 heads do not divide a width of 256"),
        ("glyphs.heads=0", "glyphs: GlyphConfig(width=128, layers=2, heads=0"),
        ("stream.resampler_heads=0", "stream: resampler_heads is 0"),
        ("adapter.feature_width=7", "adapter.feature_width is 7; it follows from vision.width, 192"),
        ("mmdit.max_references=3", "mmdit.max_references is 3; it follows from stream.max_references, 2"),
    ],
)
def test_a_recipe_refuses_by_name(override, said):
    with pytest.raises(ValueError) as refusal:
        load_recipe("nano", [override])
    assert str(refusal.value).startswith(f"{override}: ") and said in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number and at least 1"),
        ({"batch_size": True}, "batch_size is True"),
        ({"max_grad_norm": "1.0"}, "max_grad_norm is '1.0'"),
        ({"max_grad_norm": True}, "max_grad_norm is True"),
        ({"learning_rate": None}, "learning_rate is None"),
        ({"steps": None}, "steps is None"),
    ],
)
def test_python_s_own_values_are_asked_too(options, said):
    with pytest.raises(ValueError) as refusal:
        LoopConfig(**options)
    assert str(refusal.value).startswith(said)


def test_what_lies_on_the_edge_is_taken():
    LoopConfig(max_grad_norm=None, num_workers=None)
    LoopConfig(learning_rate=0.0, warmup_steps=0, sample_every=0, num_workers=None, decay_ratio=1.0, ema_decay=0.0)
    LoopConfig(learning_rate=1.0, save_every=0, log_every=0, max_grad_norm=0.0, max_bad_batches=0)
    JointStage(draw_share=0.0, context_dropout=1.0, language_weight=0.0, align_block=0, density_mean=-3.0)
    JointStage(density="mode", density_mean=-1.0)
    assert load_recipe("nano", ["mmdit.context_width=256"]).mmdit.context_width == 256


@pytest.fixture
def small(tmp_path):
    """A model of two layers, two blocks and two references."""
    make_limner().save_pretrained(tmp_path / "small")
    return str(tmp_path / "small")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["device=foo"], "no such device: 'foo'; this machine has cpu"),
        (["device=xpu"], "no such device: 'xpu'; this machine has cpu"),
        (["device=cuda:99"], "no such device: 'cuda:99'; this machine has cpu"),
        (["joint.align_block=8"], "joint.align_block is 8; the MM-DiT has 8 blocks, 0 to 7"),
        (["mmdit.depth=2"], "joint.align_block is 2; the MM-DiT has 2 blocks, 0 to 1"),
        (["warm_start=nothing/here"], "nothing/here holds no Limner model"),
        (["dtype=banana"], "dtype is 'banana'"),
    ],
)
def test_a_run_is_refused_before_it_begins(capsys, monkeypatch, tmp_path, words, said):
    monkeypatch.setattr(recipes, "train_parts", lambda *_: pytest.fail("begun"))
    out = tmp_path / "out"
    assert said in refused(capsys, "train", "nano", *words, f"output={out}", "joint.loop.tracker=tensorboard")
    assert not out.exists()


def test_a_block_that_only_an_unused_loss_names_is_no_mistake(monkeypatch, tmp_path):
    """tiny's other stages have the default block, 2, of an MM-DiT with two."""
    begun = []
    monkeypatch.setattr(recipes, "train_parts", lambda *given: begun.append(given))
    recipes.run_recipe(load_recipe("tiny", [f"output={tmp_path / 'out'}"]), ("tokenizer", "joint", "sft"))
    assert begun


def test_a_device_of_another_kind_than_the_other_processes_have(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "init_process_group", lambda: torch.device("meta"))
    monkeypatch.setattr(recipes, "train_parts", lambda *_: pytest.fail("begun"))
    with pytest.raises(ValueError, match="device is 'cpu'; several processes train on meta"):
        recipes.run_recipe(load_recipe("tiny", ["device=cpu", f"output={tmp_path / 'out'}"]))


WARM = [
    ("stream.num_queries=8", "stream.num_queries is 8; the warm start SMALL brings its own, 4: give the same or"),
    ("stream.num_queries=64", "stream.num_queries is 64; the warm start"),  # the default: it was asked for
    ("stream.plan_share=0.5", "stream.plan_share is 0.5; the warm start SMALL brings its own, 0.0"),
    ("stream.shapes=[[32,32]]", "stream.shapes is [[32, 32]]; the warm start SMALL brings its own, []"),
    ("backbone.hidden_size=64", "backbone.hidden_size is 64; the warm start SMALL brings its own, 32"),
    ("backbone.num_hidden_layers=1", "backbone.num_hidden_layers is 1; the warm start SMALL has 2 and takes more only"),
    ("stream.max_references=1", "stream.max_references is 1; the warm start SMALL has 2 and takes more only"),
    ("backbone={num_hidden_layers: 1}", "backbone.num_hidden_layers is 1; the warm start"),
    ("adapter.depth=9", "adapter.depth is 9; the warm start"),
    ("mmdit.depth=9", "mmdit.depth is 9; the warm start"),
    ("vision.depth=3", "vision.depth is 3; the warm start SMALL brings its own, 1"),
    ("generation.guidance_scale=3.5", "generation.guidance_scale is 3.5; the warm start"),
    ("generation.max_images=1", "generation.max_images is 1; the warm start"),
    ("joint.align_weight=0.1 joint.align_block=2", "joint.align_block is 2; the MM-DiT has 2 blocks, 0 to 1"),
]


@pytest.mark.parametrize(("overrides", "said"), WARM, ids=[overrides for overrides, _ in WARM])
def test_what_a_warm_start_brings_is_not_asked_for(capsys, monkeypatch, small, tmp_path, overrides, said):
    monkeypatch.setattr(recipes, "extend_model", lambda *_: pytest.fail("begun"))
    words = [overrides] if "{" in overrides or "[" in overrides else overrides.split()
    told = refused(capsys, "train", "released", *words, f"warm_start={small}", f"output={tmp_path / 'out'}")
    assert said.replace("SMALL", small) in told and not (tmp_path / "out").exists()


def test_the_same_and_more_may_be_asked_of_a_warm_start(small):
    more = [
        "backbone.num_hidden_layers=3",
        "stream.max_references=3",
        "generation.max_new_tokens=999",
        "glyphs.width=8",
    ]
    for overrides in ([], ["stream.num_queries=4", "backbone.hidden_size=32", "mmdit.depth=2"], more):
        load_recipe("released", [f"warm_start={small}", *overrides, "backbone.attn_implementation=sdpa"])
    for name, folder in (("nano", NANO), ("released", small), ("released", NANO)):
        load_recipe(name, [f"warm_start={folder}"])  # released says: one layer or more


def test_a_file_and_a_recipe_made_by_hand_are_asked_too(monkeypatch, small, tmp_path):
    with pytest.raises(ValueError, match=r"^warm_start=.*: backbone\.hidden_size is 256; the warm start .* own, 32"):
        load_recipe("nano", [f"warm_start={small}"])
    (tmp_path / "a.yaml").write_text(f"warm_start: {small}\nmmdit: {{depth: 3}}\n")
    with pytest.raises(ValueError, match=r"a\.yaml: mmdit\.depth is 3; the warm start .* its own, 2"):
        load_recipe(str(tmp_path / "a.yaml"))
    monkeypatch.setattr(recipes, "extend_model", lambda *_: pytest.fail("begun"))
    made = replace(load_recipe("nano"), warm_start=small, output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"stream\.num_queries is 16; the warm start"):
        recipes.run_recipe(made)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be above 0"),
        ({"samples": -1}, "samples is -1"),
        ({"rank": "many"}, "rank is 'many'; it must be a whole number and at least 1"),
        ({"replay_share": 0.96}, "replay_share is 0.96; it must be at least 0 and at most 0.95"),
        ({"replay_weight": math.nan}, "replay_weight is nan"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
    ],
)
def test_finetuning_refuses_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        config_from_options(options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"data": ()}, "data is empty"),
        ({"loop": LoopConfig(sample_every=3)}, "loop.sample_every is 3 and has no effect here"),
    ],
)
def test_distillation_refuses_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        DistillConfig(**options)


def test_commands_that_load_a_model_look_for_the_device_first(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("limner.inference.model.Limner.from_pretrained", lambda *_: pytest.fail("loaded"))
    data = ("finetune", str(tmp_path), "--out", str(tmp_path / "out"))
    assert refused(capsys, *data, "--device", "xpu").endswith("no such device: 'xpu'; this machine has cpu")
    assert "dtype is 'banana'" in refused(capsys, *data, "--set", "dtype=banana")
    assert "rank is 0" in refused(capsys, *data, "--set", "rank=0")
    assert "no such device: 'cuda:99'" in refused(capsys, "draw", "a cat", "--device", "cpu,cuda:99")


def test_devices_of_this_machine():
    assert check_device("cpu") == torch.device("cpu") == check_device(torch.device("cpu"))
    for name in ("foo", "xpu", "cuda:99", "hpu"):
        with pytest.raises(ValueError, match=rf"no such device: '{name}'; this machine has cpu"):
            check_device(name)
