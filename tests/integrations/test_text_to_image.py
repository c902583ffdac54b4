"""SD3 with its own text encoders against diffusers' whole pipeline: words in, latents out."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from tokenizers import processors
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from helpers import byte_tokenizer
from limner.app.cli import main as cli
from limner.detokenizer import samplers
from limner.detokenizer.guidance import Guidance
from limner.detokenizer.mmdit_detokenizer import GuidedVelocity
from limner.inference.picture_metadata import read_metadata
from limner.integrations.sd3.text_to_image import StableDiffusion3


def words():
    """One token a byte, between a beginning and an end as CLIP's tokenizer puts them."""
    tokenizer = byte_tokenizer()
    tokenizer.bos_token, tokenizer.model_max_length = "<|im_start|>", 77
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", begin), ("<|im_end|>", end)]
    )
    return tokenizer


def clip(width: int) -> CLIPTextModelWithProjection:
    tokenizer = words()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=width,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=0,
    )
    return CLIPTextModelWithProjection(config).eval()


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        attention_head_dim=32,
        num_attention_heads=2,
        caption_projection_dim=64,
        num_layers=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    for parameter in transformer.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.1)
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        shift_factor=0.06,
    )
    t5 = T5EncoderModel(
        T5Config(vocab_size=len(words()), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).eval()
    pipe = StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), vae, clip(8), words(), clip(12), words(), t5, words()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    made = tmp_path_factory.mktemp("sd3")
    pipeline.save_pretrained(made)
    return made


def ours(model: StableDiffusion3, noise: torch.Tensor, prompts: list[str], steps: int = 10) -> torch.Tensor:
    times = model.sigmas(steps)
    velocity = GuidedVelocity(model.detokenizer.mmdit, model.condition(prompts), Guidance(5.0), times, torch.float32)
    return samplers.integrate(samplers.euler(noise, times), velocity)


@pytest.mark.parametrize("t5", [True, False])
def test_the_whole_way_from_words_is_that_of_diffusers_pipeline(pipeline, folder, tmp_path, t5):
    folder = shutil.copytree(folder, tmp_path / "sd3")
    if not t5:
        shutil.rmtree(folder / "text_encoder_3")
    model = StableDiffusion3.from_pretrained(folder)
    noise, prompts = torch.randn(2, 4, 8, 8), ["a red cat", "a much longer prompt about two dogs"]
    kept = pipeline.text_encoder_3
    pipeline.text_encoder_3 = kept if t5 else None
    try:
        theirs = pipeline(
            prompts,
            latents=noise,
            height=16,
            width=16,
            num_inference_steps=10,
            guidance_scale=5.0,
            output_type="latent",
        ).images
    finally:
        pipeline.text_encoder_3 = kept
    made = ours(model, noise, prompts)
    assert (theirs - noise).abs().max() > 0.5
    torch.testing.assert_close(made, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "absent",
    [
        ("text_encoder",),
        ("text_encoder_2",),
        ("text_encoder", "text_encoder_2"),
        ("text_encoder", "text_encoder_2", "text_encoder_3"),
    ],
)
def test_any_encoder_may_be_absent(folder, tmp_path, absent):
    folder = shutil.copytree(folder, tmp_path / "sd3")
    whole = StableDiffusion3.from_pretrained(folder).encode(["a cat"])
    for name in absent:
        shutil.rmtree(folder / name)
    model = StableDiffusion3.from_pretrained(folder)
    context, pooled = model.encode(["a cat"])
    assert context.shape == whole[0].shape and pooled.shape == whole[1].shape
    columns = {"text_encoder": slice(0, 8), "text_encoder_2": slice(8, 20)}
    for name, own in columns.items():
        if name in absent:
            assert not context[:, :77, own].any() and not pooled[:, own].any()
        else:
            assert torch.equal(context[:, :77, own], whole[0][:, :77, own]) and torch.equal(
                pooled[:, own], whole[1][:, own]
            )
    assert bool(context[:, 77:].any()) == ("text_encoder_3" not in absent)


def test_the_command_line_draws(folder, tmp_path, capsys):
    out = tmp_path / "cat.png"
    command = [
        "draw",
        "a cat",
        "--backend",
        "sd3",
        "--model",
        str(folder),
        "--size",
        "16x24",
        "--steps",
        "2",
        "--guidance",
        "3",
        "--device",
        "cpu",
    ]
    assert cli.main([*command, "--out", str(out)]) == 0
    assert Image.open(out).size == (24, 16)
    said = read_metadata(out)
    assert said.command().startswith(f"limner draw 'a cat' --backend sd3 --model {folder.name} --seed 0 --size 16x24")
    assert cli.main([*command, "--out", str(out), "--seed", "0"]) == 0  # no flag given is seed 0
    assert cli.main(["draw", " ", *command[2:], "--out", str(out)]) == 2
    assert "the prompt is empty" in capsys.readouterr().err
    shutil.rmtree(folder / "tokenizer_2")
    assert cli.main([*command, "--out", str(out)]) == 2
    assert "has no tokenizer beside it" in capsys.readouterr().err
