"""Gradients flow where they should and nowhere else; wrong counts and wrong backbones are refused."""

import pytest
import torch
from transformers import AutoConfig

from helpers import make_stream, picture
from limner.mllm.masks import check_backbone
from limner.mllm.stream import collate
from limner.train.losses import Targets, assistant_logits

TURN = [
    {"role": "user", "content": "draw"},
    {"role": "assistant", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "done"}]},
]


@pytest.mark.parametrize("mode", ["seen", "queries"])
def test_gradients(mode):
    model, encoder = make_stream("llama", drawn_images=mode)
    model.train()
    batch = collate([encoder.encode(TURN, training=True)], model.vocabulary, model.config)
    output = model(batch)

    def touched(loss):
        model.zero_grad()
        loss.backward(retain_graph=True)
        return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    drawing = touched(model.output_resampler(output.query_states).square().sum())
    assert "queries.weight" in drawing and any(n.startswith("output_resampler") for n in drawing)
    # the picture that is being drawn is not in its own condition
    assert not any(n.startswith(("input_resampler", "vision_tower")) for n in drawing)
    writing = touched(Targets().language_error(*assistant_logits(model, output.hidden, batch.labels)))
    seen = mode == "seen"
    # the text after a picture sees its features in one mode, its queries in the other
    assert any(n.startswith("input_resampler") for n in writing) == seen
    assert ("queries.weight" in writing) == (not seen)
    assert not any(n.startswith("output_resampler") for n in writing)
    slots = list(model.vocabulary.slots)
    table = model.llm.get_input_embeddings().weight
    touched(model.output_resampler(output.query_states).square().sum())
    assert table.grad[slots].abs().sum() == 0, "the slots' own rows are never read"
    assert not set(slots) & set(batch.labels.flatten().tolist())


def test_a_frozen_backbone_still_passes_gradients_to_the_queries():
    model, encoder = make_stream("qwen3")
    model.llm.requires_grad_(False)
    batch = collate([encoder.encode(TURN, training=True)], model.vocabulary, model.config)
    model(batch).query_states.square().sum().backward()
    assert model.queries.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.llm.parameters())


def test_wrong_counts_are_refused():
    model, encoder = make_stream("qwen3")
    batch = collate([encoder.encode(TURN, training=True)], model.vocabulary, model.config)
    batch.feature_index = torch.cat([batch.feature_index, torch.tensor([0])])
    with pytest.raises(ValueError, match="5 slots for 4 image features"):
        model(batch)


def test_backbones_with_linear_attention_are_refused_by_name():
    config = AutoConfig.for_model("qwen3_next")
    with pytest.raises(ValueError, match=r"qwen3_next has .*linear_attention"):
        check_backbone(config)


def test_queries_are_one_tensor_in_the_state_dict():
    model, _ = make_stream("qwen3")
    names = [n for n in model.state_dict() if n.startswith("queries")]
    assert names == ["queries.weight"] and model.state_dict()[names[0]].shape == (4, 32)


def test_longrope_holds_what_its_first_angles_are_for():
    """Beyond them the longest row of a batch would change what the others are."""
    model, _ = make_stream("phi3")
    assert model.max_position_embeddings == 1024
    rope = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    sizes = {"max_position_embeddings": 1024, "original_max_position_embeddings": 40}
    model.llm.config = AutoConfig.for_model("phi3", hidden_size=32, num_attention_heads=2, rope_scaling=rope, **sizes)
    assert model.max_position_embeddings == 40
