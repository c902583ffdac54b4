"""Which files of a folder are a part's weights, and which of a repository are fetched for them."""

import json

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file

from limner.detokenizer.autoencoder import Autoencoder, kl_autoencoder
from limner.detokenizer.files import load_weights, stored_dtype
from limner.detokenizer.weight_files import files_to_fetch, find_weights
from limner.integrations.sd3.files import load_mmdit

TINY = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "num_layers": 2,
    "caption_projection_dim": 64,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 16,
    "qk_norm": "rms_norm",
}


@pytest.fixture
def folder(tmp_path):
    def made(*names):
        for name in names:
            if name.endswith(".json"):
                variant = name.removesuffix(".json").partition(".index")[2]
                shards = [f"model{variant}-0000{i}-of-00002.safetensors" for i in (1, 2)]
                (tmp_path / name).write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
            else:
                (tmp_path / name).write_bytes(b"")
        return tmp_path

    return made


FP16_SHARDS = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_the_full_weights_come_first(folder):
    there = folder("model.fp16.safetensors", "model.safetensors", *SHARDS, "model.safetensors.index.json")
    assert find_weights(there) == find_weights(there, "fp8") == ([there / "model.safetensors"], None)
    assert find_weights(there, "fp16") == ([there / "model.fp16.safetensors"], "fp16")


def test_shards(folder):
    there = folder(*SHARDS, "model.safetensors.index.json", *FP16_SHARDS, "model.safetensors.index.fp16.json")
    assert find_weights(there) == ([there / name for name in SHARDS], None)
    assert find_weights(there, "fp16") == ([there / name for name in FP16_SHARDS], "fp16")
    (there / SHARDS[1]).unlink()
    with pytest.raises(ValueError, match=rf"index\.json names {SHARDS[1]}, which is missing"):
        find_weights(there)


def test_a_variant_alone_is_taken_and_said_and_several_have_to_be_chosen(folder):
    there = folder(*FP16_SHARDS, "model.safetensors.index.fp16.json")
    with pytest.warns(UserWarning, match="no full weights, but the variant model.safetensors.index.fp16.json"):
        assert find_weights(there)[1] == "fp16"
    folder("model.non_ema.safetensors")
    with pytest.raises(ValueError, match="choose one by variant, non_ema or fp16"):
        find_weights(there)
    assert find_weights(there, "non_ema") == ([there / "model.non_ema.safetensors"], "non_ema")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["pytorch_model.bin"], r"holds pytorch_model\.bin, a pickle, .* save it as safetensors"),
        (["sd3.ckpt"], r"holds sd3\.ckpt, a pickle"),
        (SHARDS, "a shard without its index"),
        (["whole.safetensors"], "not named as weights are"),
        ([], r"no such file: .*model\.safetensors \(only safetensors are read\)"),
    ],
)
def test_what_holds_no_weights_says_what_it_holds(folder, names, said):
    with pytest.raises(ValueError, match=said):
        find_weights(folder(*names))


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", 3, None])
def test_an_index_that_leaves_the_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=r"not a file of this folder|no index of weights"):
        find_weights(tmp_path)


def test_of_a_repository_each_parts_weights_are_fetched_once():
    kept = ["a/config.json", "a/model.safetensors", "b/model.fp16.safetensors", "model_index.json", "merges.txt"]
    kept += ["c/diffusion_pytorch_model-00001-of-00001.safetensors", "c/diffusion_pytorch_model.safetensors.index.json"]
    left = [
        "a/model.fp16.safetensors",
        "a/pytorch_model.bin",
        "a/flax_model.msgpack",
        "sd3_medium.safetensors",
        "x.png",
    ]
    left += [
        "c/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
        "onnx/config.json",
        "original/model.safetensors",
    ]
    left += ["c/diffusion_pytorch_model.safetensors.index.fp16.json", "consolidated.safetensors", "model.gguf"]
    assert files_to_fetch([*left, *kept]) == sorted(kept)
    asked = files_to_fetch([*left, *kept], "fp16")
    assert {"a/model.fp16.safetensors", "c/diffusion_pytorch_model.safetensors.index.fp16.json"} < set(asked)
    assert not {"a/model.safetensors", "c/diffusion_pytorch_model.safetensors.index.json"} & set(asked)
    assert files_to_fetch([*SHARDS, "model.safetensors.index.json", "model.safetensors"]) == ["model.safetensors"]


@pytest.mark.parametrize("size", ["1GB", "50KB"])
def test_an_sd3_that_was_downloaded_as_fp16(tmp_path, size):
    torch.manual_seed(0)
    theirs = SD3Transformer2DModel(**TINY)
    theirs.save_pretrained(tmp_path / "full/transformer", max_shard_size=size)
    theirs.half().save_pretrained(tmp_path / "half/transformer", variant="fp16", max_shard_size=size)
    full = load_mmdit(tmp_path / "full").state_dict()
    with pytest.warns(UserWarning, match="the variant .*fp16"):
        half = load_mmdit(tmp_path / "half").state_dict()
    assert all(torch.equal(half[name], value.half()) for name, value in full.items())


def test_a_variant_beside_the_weights_does_not_decide_their_precision(tmp_path):
    vae = kl_autoencoder((8, 16), 4, 2)
    vae.save_pretrained(tmp_path)
    weights = load_weights(tmp_path)
    half = {name: value.half() for name, value in weights.items()}
    save_file(half, tmp_path / "diffusion_pytorch_model.fp16.safetensors", metadata={"format": "pt"})
    assert stored_dtype(tmp_path) == torch.float32 and stored_dtype(tmp_path, "fp16") == torch.float16
    assert next(Autoencoder.from_pretrained(tmp_path).parameters()).dtype == torch.float32
    assert next(Autoencoder.from_pretrained(tmp_path, "fp16").parameters()).dtype == torch.float16
