from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from helpers import make_limner
from limner.detokenizer.glyphs import GlyphConfig, GlyphEncoder
from limner.inference.model import Limner
from limner.train.block_expansion import expand_blocks
from limner.train.recipe import extend_model, load_recipe


def test_a_warm_start_grows_and_draws_as_before(tmp_path):
    def drawn(model):
        said = {"images": "force", "max_images": 1, "max_new_tokens": 2, "num_inference_steps": 1}
        return model.generate("a cat", **said).images[0].tobytes()

    model = make_limner(prompt_tokens=6, max_references=1)
    model.detokenizer.mmdit.config.max_references = 1
    model.detokenizer.mmdit.reference_embed.data = model.detokenizer.mmdit.reference_embed.data[:1].clone()
    before = drawn(model)
    recipe = load_recipe("nano", ["glyphs.width=16"])
    extend_model(model, recipe)
    assert drawn(model) == before and model.detokenizer.glyphs.width == 16
    assert len(model.mllm.llm.get_decoder().layers) == 8 == model.mllm.llm.config.num_hidden_layers
    assert model.config.max_references == 2 == len(model.detokenizer.mmdit.reference_embed)
    model.save_pretrained(tmp_path / "m")
    again = Limner.from_pretrained(tmp_path / "m")
    assert (again.defaults.max_images, again.defaults.max_new_tokens) == (6, 192), "the longer of both"
    assert again.defaults.history == 0, "all exchanges, as before"
    again.defaults = replace(again.defaults, history=3)
    extend_model(again, recipe)
    assert again.defaults.history == 8
    extend_model(again, recipe)
    assert drawn(again) == before


@pytest.mark.parametrize("glyphs", [False, True])
def test_a_warm_start_without_its_prompt_source_draws_as_it_did_from_the_queries_alone(glyphs, tmp_path):
    model = make_limner(prompt_tokens=6)
    if glyphs:
        model.detokenizer.add_glyph_encoder(GlyphEncoder.from_config(GlyphConfig(width=16, heads=2)))
    nn.init.normal_(model.detokenizer.adapter.source_embed)
    features = torch.randn(2, model.config.feature_tokens, 16)
    prompt, masked = torch.randn(2, 6, model.mllm.width), torch.zeros(2, 6, dtype=torch.bool)

    def velocity(detokenizer, *prompt):
        condition = detokenizer.condition(features, *prompt, [("A",), ()])
        x, t = torch.ones(2, 4, 8, 8), torch.tensor([0.5, 0.2])
        return detokenizer.mmdit(x, t, condition.context, condition.pooled, context_mask=condition.context_mask)

    before = velocity(model.detokenizer, prompt, masked)
    # the given recipe's file has the source, as the warm start does
    recipe = load_recipe("tiny", ["warm_start=x", "drop_prompt_source=true"])
    extend_model(model, replace(recipe, glyphs=GlyphConfig(width=0)))
    assert torch.allclose(velocity(model.detokenizer, None, None), before, atol=1e-6)
    model.save_pretrained(tmp_path / "m")
    again = Limner.from_pretrained(tmp_path / "m")
    assert torch.allclose(velocity(again.detokenizer, None, None), before, atol=1e-6)
    assert again.config.prompt_tokens == 0 and again.generate("a cat", images="force", max_images=1).images
    with pytest.raises(ValueError, match="draws without the prompt's hidden states already"):
        extend_model(again, recipe)
    with pytest.raises(ValueError, match="drop_prompt_source is for a warm start"):
        load_recipe("tiny", ["drop_prompt_source=true"])
    with pytest.raises(ValueError, match="drop_prompt_source=true takes them out"):
        make_limner(prompt_tokens=6).save_pretrained(tmp_path / "with")
        load_recipe("released", [f"warm_start={tmp_path / 'with'}", "stream.prompt_tokens=0"])


@pytest.mark.parametrize("backbone", ["qwen3", "llama", "gemma3_text", "mistral"])
def test_a_deeper_backbone_says_the_same_and_can_learn(backbone):
    llm = make_limner(backbone=backbone).mllm.llm
    ids = torch.arange(12)[None]
    deeper = expand_blocks(llm, 5)
    assert torch.equal(deeper(ids).logits, llm(ids).logits) and not deeper.training
    deeper(ids, labels=ids).loss.backward()
    new = deeper.get_decoder().layers[-1]
    assert new.self_attn.o_proj.weight.grad.abs().max() > 0 and new.self_attn.layer_idx == 4
    said = [model.generate(ids, max_new_tokens=6, do_sample=False) for model in (llm, deeper)]
    assert torch.equal(*said), "with a cache, too"


def test_layers_of_another_kind_are_not_copied():
    llm = GPTNeoXForCausalLM(
        GPTNeoXConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    with pytest.raises(ValueError, match="gpt_neox layers do not write through"):
        expand_blocks(llm, 2)
