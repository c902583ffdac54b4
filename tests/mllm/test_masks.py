"""Masks of small layouts, column by column."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask

from helpers import make_limner
from limner.mllm.masks import attention_masks, branch_mask, causal_mask, check_backbone

CPU = torch.device("cpu")


def backbone(**options):
    defaults = {"model_type": "toy", "layer_types": None, "sliding_window": None, "_attn_implementation": "eager"}
    return SimpleNamespace(**(defaults | options))


def dense(layout, size, **options):
    """(batch, queries, keys), True where a query attends to a key."""
    mask = attention_masks(*layout, size, backbone(**options), CPU, torch.float32)
    sdpa = attention_masks(*layout, size, backbone(_attn_implementation="sdpa", **options), CPU, torch.float32)
    assert torch.equal(mask, sdpa)
    assert mask.shape == (size[0], 1, *size[1:]) and set(mask.unique().tolist()) <= {0, torch.finfo(torch.float32).min}
    return mask[:, 0] == 0


def branches():
    """Rows of 5 and 3 columns; the first has branches of three queries after columns 1 and 3, the second one after column 2."""
    *layout, position_ids = branch_mask(torch.tensor([5, 3]), 5, torch.tensor([[1, 3], [2, -1]]), 3)
    return layout, position_ids


SIZE = (2, 11, 11)


def test_a_branch_sees_the_stream_up_to_its_boi_and_itself():
    layout, position_ids = branches()
    allowed = dense(layout, SIZE).int().tolist()
    assert allowed[0] == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1],
    ]
    # the second row's padding and missing branch are seen by nothing
    assert [allowed[1][column] for column in (0, 1, 2, 5, 6, 7)] == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0],
    ]
    assert not any(row[column] for row in allowed[1] for column in (3, 4, 8, 9, 10))
    assert position_ids[0].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 4, 5, 6]
    assert position_ids[1, :8].tolist() == [0, 1, 2, 3, 4, 3, 4, 5] and position_ids.min() == 0


def test_windows_go_by_position_and_by_kind_of_layer():
    layout, position_ids = branches()
    full = dense(layout, SIZE)
    near = (position_ids[:, :, None] - position_ids[:, None, :]) < 3
    assert torch.equal(dense(layout, SIZE, sliding_window=3), full & near)
    assert dense(layout, SIZE, sliding_window=3)[0, 6].int().tolist() == [0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    kinds = ["sliding_attention", "full_attention"]
    config = backbone(sliding_window=3, layer_types=kinds)
    masks = attention_masks(*layout, SIZE, config, CPU, torch.float16)
    assert set(masks) == set(kinds)
    assert all(m.dtype == torch.float16 and m.min() == torch.finfo(torch.float16).min for m in masks.values())
    assert torch.equal(masks["full_attention"][:, 0] == 0, full)
    assert torch.equal(masks["sliding_attention"][:, 0] == 0, full & near)
    unlimited = backbone(layer_types=["sliding_attention"])
    (mask,) = attention_masks(*layout, SIZE, unlimited, CPU, torch.float32).values()
    assert torch.equal(mask[:, 0] == 0, full)


def test_decoding_goes_on_after_a_cache_and_a_rows_padding():
    layout = causal_mask(torch.tensor([0, 2]), past=3)
    assert dense(layout, (2, 2, 5)).int().tolist() == [
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
        [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]],
    ]
    assert dense(layout, (2, 2, 5), sliding_window=2).int().tolist() == [[[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]] * 2


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    ("layout", "size"), [(branches()[0], SIZE), (causal_mask(torch.tensor([0, 2]), past=3), (2, 2, 5))]
)
def test_flex_attention_gets_the_same_mask(layout, size, window, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    config = backbone(sliding_window=window, _attn_implementation="flex_attention")
    mask = attention_masks(*layout, size, config, CPU, torch.float32)
    assert isinstance(mask, BlockMask) and mask.shape == (size[0], 1, *size[1:])
    wanted = dense(layout, size, sliding_window=window)
    assert torch.equal(create_mask(mask.mask_mod, size[0], 1, *size[1:], device="cpu")[:, 0], wanted)


def test_flex_attention_is_refused_on_a_cpu_where_torch_computes_it_wrong(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = make_limner()
    model.mllm.llm.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match=r"needs a GPU or a CPU with AVX-512; on this one \(AVX2\) .* use 'sdpa'"):
        model.generate("a")
    model.mllm.llm.set_attn_implementation("sdpa")
    assert model.generate("a", max_new_tokens=2, images="never").parts, "the refusal left nothing behind"


def test_backbones_that_cannot_be_masked_are_refused_by_name():
    both = ["full_attention", "sliding_attention"]
    for attention in (None, "sdpa", "eager", "flex_attention"):
        check_backbone(backbone(layer_types=both, _attn_implementation=attention))
    check_backbone(SimpleNamespace(model_type="toy"))
    for options, words in (
        (
            {"layer_types": [*both, "linear_attention"]},
            "toy has linear_attention layers; queries on a branch need full",
        ),
        ({"attention_chunk_size": 8}, "toy has chunked_attention layers"),
        ({"_attn_implementation": "flash_attention_2"}, "'flash_attention_2'; it can be sdpa, eager, flex_attention"),
    ):
        with pytest.raises(ValueError, match=words):
            check_backbone(backbone(**options))
