"""SEED's tokenizer against the public modules at a tiny size (weights and outputs in data/), and the released layout in full."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limner.detokenizer.files import build_on_meta, check_state_dict, load_module
from limner.integrations.seed import SeedTokenizer, SeedTokenizerConfig
from limner.integrations.seed.conversion import convert_seed_tokenizer, weights_from_released

DATA = Path(__file__).parents[2] / "data"
TINY = SeedTokenizerConfig(
    image_size=28,
    vision_width=16,
    vision_layers=2,
    vision_heads=2,
    vision_mlp_width=69,
    width=24,
    layers=3,
    heads=3,
    mlp_width=32,
    num_codes=64,
    decoder_layers=2,
    decoder_mlp_width=96,
    embed_width=8,
)
RECONSTRUCTION = ["pos_embed", "blocks.0.norm1.weight", "blocks.1.mlp.fc2.bias"]
"""Some of the weights that only SEED's training uses"""


@pytest.fixture(scope="module")
def reference():
    saved = load_file(DATA / "seed_tokenizer.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in saved.items() if k.startswith("weights.")}
    # halves in the file, as they are released; computed in fp32 here and there
    weights = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    return weights, {k.removeprefix("io."): v for k, v in saved.items() if k.startswith("io.")}


@pytest.fixture(scope="module")
def released(reference, tmp_path_factory):
    """The two files as they are released, the tower with a layer and a head that BLIP-2 does not use."""
    folder = tmp_path_factory.mktemp("seed")
    weights, _ = reference
    tower = {k.removeprefix("visual_encoder."): v for k, v in weights.items() if k.startswith("visual_encoder.")}
    tower |= {k.replace("blocks.1", "blocks.2"): v for k, v in tower.items() if k.startswith("blocks.1")}
    torch.save(tower | {"head.weight": torch.zeros(3, 16)}, folder / "eva_vit_g.pth")
    rest = {k: v for k, v in weights.items() if not k.startswith("visual_encoder.")}
    text = {
        "Qformer.bert.embeddings.word_embeddings.weight": torch.zeros(5, 24),
        "Qformer.bert.encoder.layer.1.intermediate.dense.bias": torch.zeros(32),
        "text_proj.weight": torch.zeros(4, 24),
    }
    torch.save(rest | text, folder / "seed_quantizer.pt")
    return folder


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    unused = convert_seed_tokenizer(released / "seed_quantizer.pt", released / "eva_vit_g.pth", folder, TINY)
    return load_module(SeedTokenizer, SeedTokenizerConfig, folder).eval(), unused


@torch.no_grad()
def test_image_to_codes_to_image_embedding_as_the_public_modules(converted, reference):
    tokenizer, _ = converted
    _, io = reference
    features = tokenizer.vision_model(pixel_values=io["pixel_values"]).last_hidden_state
    # so near that a layer norm with another epsilon would be seen (2.4e-6)
    torch.testing.assert_close(features, io["features"], atol=1.5e-6, rtol=0)
    codes = tokenizer.encode(io["pixel_values"])
    assert torch.equal(codes, io["codes"]) and len(codes.unique()) == 64
    torch.testing.assert_close(tokenizer.decode(codes), io["image_embeds"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_its_codes_are_causal(converted, reference):
    tokenizer, _ = converted
    pixels = reference[1]["pixel_values"]
    codes, queries = tokenizer.encode(pixels), tokenizer.queries.clone()
    tokenizer.queries[20:] += torch.randn(12, 24)
    changed = tokenizer.encode(pixels)
    tokenizer.queries.copy_(queries)
    assert torch.equal(changed[:, :20], codes[:, :20]) and not torch.equal(changed, codes)


def test_what_is_not_used_is_listed(converted):
    _, unused = converted
    assert set(RECONSTRUCTION) < set(unused)
    others = [name for name in unused if not name.startswith(("pos_embed", "blocks."))]
    layer = [name for name in others if name.startswith("visual_encoder.blocks.2.")]
    assert len(layer) == 13 and sorted(set(others) - set(layer)) == [
        "Qformer.bert.embeddings.position_ids",
        "Qformer.bert.embeddings.word_embeddings.weight",
        "Qformer.bert.encoder.layer.1.intermediate.dense.bias",
        "text_proj.weight",
        "visual_encoder.head.weight",
    ]


def full_size():
    """Names and shapes of the public modules at their released sizes, on the meta device."""
    weights = {}
    for name, (shape, *layers) in json.loads((DATA / "seed_tokenizer_full_size.json").read_text()).items():
        for index in range(0, *layers[0]) if layers else ("",):
            weights[name.replace("*", str(index))] = torch.empty(shape, device="meta")
    return weights


def test_the_released_layout_converts_in_full():
    theirs = full_size()
    # what a user of the released file is told to be missing: the tower that it does not hold
    assert len(theirs) == 881 and sum(name.startswith("visual_encoder.") for name in theirs) == 511
    ours, unused = weights_from_released(theirs)
    check_state_dict(ours, build_on_meta(lambda: SeedTokenizer(SeedTokenizerConfig()), "full size"), "full size")
    assert sorted({name.split(".")[0] for name in unused}) == ["Qformer", "blocks", "pos_embed"] and len(unused) == 50
    assert 1.12e9 < sum(value.numel() for value in ours.values()) < 1.13e9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"Qformer.bert.encoder.layer.0.attention.gate": 0},
            "no place in SEED's tokenizer: Qformer.bert.encoder.layer.0",
        ),
        ({"visual_encoder.blocks.0.gamma_1": 0}, "no place in SEED's tokenizer: visual_encoder.blocks.0.gamma_1"),
        ({"image_down.2.weight": None}, r"down.2.weight is missing, expected \(128, 256\)"),
        (
            {"visual_encoder.blocks.0.attn.v_bias": None},
            "no place in SEED's tokenizer: visual_encoder.blocks.0.attn.q_bias",
        ),
        ({"visual_encoder.blocks.0.attn.q_bias": None}, "visual_encoder.blocks.0.attn.v_bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(reference, changes, said, tmp_path):
    weights = reference[0] | {name: torch.zeros(3) for name in changes}
    torch.save({k: v for k, v in weights.items() if changes.get(k, 0) is not None}, tmp_path / "seed_quantizer.pt")
    with pytest.raises(ValueError, match=said):
        convert_seed_tokenizer(tmp_path / "seed_quantizer.pt", None, tmp_path / "out", TINY)


def test_another_codebook_or_no_tower_is_refused(released, tmp_path):
    files = released / "seed_quantizer.pt", released / "eva_vit_g.pth"
    with pytest.raises(ValueError, match=r"holds no vision tower, as is usual: give BLIP-2's eva_vit_g\.pth"):
        convert_seed_tokenizer(files[0], None, tmp_path, TINY)
    with pytest.raises(ValueError, match=r"codebook is \(64, 32\), expected \(65, 32\)"):
        convert_seed_tokenizer(*files, tmp_path, replace(TINY, num_codes=65))


def test_codes_that_do_not_fit_are_refused(converted):
    tokenizer, _ = converted
    with pytest.raises(ValueError, match="8 codes of an image: SEED's decoder needs all 32"):
        tokenizer.decode(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="code 64 is not in the codebook: its 64 codes are 0 to 63"):
        tokenizer.decode(torch.full((1, 32), 64))
    with pytest.raises(ValueError, match=r"down_widths is \(256, 0\); it must be at least 1"):
        replace(TINY, down_widths=[256, 0])
