"""A model built of a backbone, a vision tower and an SD3: it draws, takes a training step, saves, loads, says the same."""

import json
import shutil

import huggingface_hub.constants as constants
import pytest
import torch
from diffusers import AutoencoderKL
from fake_hub import fake_hub
from released_parts import BUILD_FLAGS, save_llm, save_sd3, save_tower
from transformers import (
    AutoModelForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import limner
from helpers import BACKBONES, picture
from limner.app.cli.main import main
from limner.inference.build import BuildOptions, build, num_heads
from limner.integrations.seed_x.qwen_vl_vision import CLIP_MEAN
from limner.train.data import joint_batch
from limner.train.objective import JointObjective
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel, freeze_parameters

OPTIONS = BuildOptions(
    num_queries=4, image_tokens=4, feature_tokens=4, adapter_width=32, adapter_depth=2, shapes=((32, 32), (32, 64))
)


@pytest.mark.parametrize(
    ("backbone", "tower"), [*((b, "siglip") for b in BACKBONES), *(("qwen3", t) for t in ("clip", "dinov2", "qwen-vl"))]
)
def test_built_aligned_saved_loaded(backbone, tower, tmp_path):
    torch.manual_seed(0)
    parts = save_llm(tmp_path / "llm", backbone), save_tower(tmp_path / "vision", tower), save_sd3(tmp_path / "sd3")
    model = build(*parts, OPTIONS)
    assert (
        model.config.image_mean == ((0.4, 0.5, 0.6) if tower != "qwen-vl" else CLIP_MEAN)
        and model.detokenizer.base_shift == 3.0
    )
    assert model.detokenizer.timestep_shift(16, 16) == 3.0 and model.detokenizer.mmdit.config.max_references == 1

    trainable = TrainableModel(model.mllm, model.detokenizer)
    freeze_parameters(
        trainable, ("mllm.queries", "mllm.input_resampler", "mllm.output_resampler", "detokenizer.adapter")
    )
    shown, drawn = ({"type": "image", "image": picture(k)} for k in (1, 2))
    talk = [
        {"role": "user", "content": [shown, {"type": "text", "text": "again"}]},
        {"role": "assistant", "content": [drawn, {"type": "text", "text": "done"}]},
    ]
    JointObjective(trainable, JointStage(), 0)(joint_batch([talk], model.encoder), 0)["loss"].backward()
    assert model.mllm.queries.weight.grad.abs().sum() > 0 and model.mllm.llm.get_input_embeddings().weight.grad is None

    options = {"images": "force", "max_images": 1, "max_new_tokens": 5, "num_inference_steps": 2}
    reply = model.eval().generate(talk[:1], **options)
    model.save_pretrained(tmp_path / "out")
    again = limner.load(tmp_path / "out", device="cpu", dtype="float32").generate(talk[:1], **options)
    assert again.text == reply.text and again.images[0].tobytes() == reply.images[0].tobytes()


@pytest.mark.slow
def test_the_recipe_of_released_parts_runs_stage_by_stage(data, tmp_path, capsys):
    parts = save_llm(tmp_path / "llm"), save_tower(tmp_path / "vision"), save_sd3(tmp_path / "sd3")
    build(*parts, OPTIONS).save_pretrained(tmp_path / "built")
    stages = ("detokenizer", "align", "joint", "sft")
    small = [
        f"{stage}.{key}"
        for stage in stages
        for key in (f"data=[{data}]", "loop.batch_size=2", "loop.num_workers=0", "loop.parallel=ddp")
    ]
    command = ["train", "released", f"warm_start={tmp_path / 'built'}", "dtype=float32", "joint.compile=false", *small]
    assert main([*command, "--dry-run", "--stages", ",".join(stages)]) == 0
    told = capsys.readouterr().out
    assert told.count("frozen") == 4 and "two steps of every stage" in told

    short = [
        "align.loop.steps=2",
        "align.loop.warmup_steps=0",
        "align.loop.learning_rate=1e-2",
        "align.loop.sample_every=2",
    ]
    assert main([*command, *short, f"output={tmp_path / 'run'}", "--stages", "align"]) == 0
    (measured,) = (json.loads(line) for line in (tmp_path / "run/align/validation.jsonl").read_text().splitlines())
    assert measured["step"] == 2 and {"flow", "features", "language", "loss"} <= set(measured)
    before, after = (limner.load(tmp_path / name, device="cpu", dtype="float32") for name in ("built", "run/model"))
    new = dict(after.named_parameters())
    assert new.keys() == dict(before.named_parameters()).keys(), "it has the layers it had, and no encoder of words"
    moved = {name for name, p in before.named_parameters() if (p - new[name]).abs().max() > 1e-2 * p.abs().max()}
    learned = ("mllm.queries", "mllm.input_resampler", "mllm.output_resampler", "detokenizer.adapter")
    assert moved and not {name for name in moved if not name.startswith(learned)}


def test_what_cannot_be_joined_is_refused(tmp_path):
    llm, vision, sd3 = save_llm(tmp_path / "llm"), save_tower(tmp_path / "vision"), save_sd3(tmp_path / "sd3")
    for parts, said in (
        ((tmp_path / "none", vision, sd3), "no such folder"),
        ((vision, vision, sd3), "no causal language model"),
        ((llm, sd3, sd3), "no vision model"),
        ((llm, vision, llm), "not SD3Transformer2DModel"),
        ((llm, vision, sd3 / "transformer"), "has no vae"),
    ):
        with pytest.raises(ValueError, match=said):
            build(*parts, OPTIONS)
    (llm / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no chat template"):
        build(llm, vision, sd3, OPTIONS)
    assert num_heads(4096, 1152) == 32 and num_heads(32) == 1
    with pytest.raises(ValueError, match="no number of heads divides the widths 33"):
        num_heads(33)


def test_the_command_line(tmp_path, capsys):
    llm, vision, sd3 = save_llm(tmp_path / "llm"), save_tower(tmp_path / "vision"), save_sd3(tmp_path / "sd3")
    command = [
        "build",
        "--llm",
        str(llm),
        "--vision",
        str(vision),
        "--mmdit",
        str(sd3),
        *BUILD_FLAGS,
        "-o",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0 and "stages align" in capsys.readouterr().out
    assert limner.load(tmp_path / "out").config.shapes == ((32, 32), (32, 64))
    assert main(command) == 2 and "is not empty: it holds" in capsys.readouterr().err
    byt5 = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(byt5).save_pretrained(tmp_path / "byt5")
    command[-1] = str(tmp_path / "writes")
    assert main([*command, "--glyphs", str(tmp_path / "byt5")]) == 0
    assert "glyphs (t5)" in capsys.readouterr().out and limner.load(tmp_path / "writes").detokenizer.glyphs.width == 16


@pytest.mark.parametrize("spare", [0, 20])
def test_parts_may_be_named_instead_of_copied(tmp_path, capsys, spare):
    """The backbone only where its table has rows to spare for the control tokens, as Qwen3's has."""
    llm, vision, sd3 = save_llm(tmp_path / "llm"), save_tower(tmp_path / "vision"), save_sd3(tmp_path / "sd3")
    if spare:
        model = AutoModelForCausalLM.from_pretrained(llm)
        model.resize_token_embeddings(model.config.vocab_size + spare)
        model.save_pretrained(llm)
    out = tmp_path / "out"
    command = [
        "build",
        "--llm",
        str(llm),
        "--vision",
        str(vision),
        "--mmdit",
        str(sd3),
        "-o",
        str(out),
        "--reference",
        *BUILD_FLAGS,
    ]
    assert main(command) == 0
    assert ("weights are copied" in capsys.readouterr().out) == (not spare)
    stored = {str(path.relative_to(out)) for path in out.rglob("*.safetensors")}
    assert stored == {"stream.safetensors", "detokenizer/adapter/model.safetensors"} | (
        set() if spare else {"llm/model.safetensors"}
    )
    options = {"images": "force", "max_images": 1, "max_new_tokens": 5, "num_inference_steps": 2}
    model = limner.load(out, device="cpu", dtype="float32")
    reply = model.generate("a", **options)
    model.save_pretrained(tmp_path / "copy")
    again = limner.load(tmp_path / "copy", device="cpu", dtype="float32").generate("a", **options)
    assert again.text == reply.text and again.images[0].tobytes() == reply.images[0].tobytes()
    sd3.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"no such folder: .*sd3"):
        limner.load(out)


def test_parts_named_by_hub_ids_load_offline_too(tmp_path, monkeypatch):
    llm, vision, sd3 = save_llm(tmp_path / "llm"), save_tower(tmp_path / "vision"), save_sd3(tmp_path / "sd3")
    with fake_hub(tmp_path / "cache", monkeypatch) as hub:
        hub.models = {"acme/llm": {"main": llm}, "acme/eye": {"main": vision}, "acme/sd3": {"main": sd3}}
        out = tmp_path / "out"
        command = ["build", "--llm", "acme/llm", "--vision", "acme/eye", "--mmdit", "acme/sd3", "-o", str(out)]
        assert main([*command, "--reference", *BUILD_FLAGS]) == 0
        assert json.loads((out / "detokenizer/vae/source.json").read_text()) == {"source": "acme/sd3"}
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        model = limner.load(out, device="cpu")
        theirs = AutoencoderKL.from_pretrained(sd3 / "vae").state_dict()
        assert all(torch.equal(theirs[name], v) for name, v in model.detokenizer.autoencoder.vae.state_dict().items())
        assert model.mllm.vision_tower.width == 32 and model.detokenizer.mmdit.config.depth == 2
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(ValueError, match=r"'acme/eye' is neither .* go online once"):
            limner.load(out)
