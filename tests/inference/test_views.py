"""Views of the model that answer requests: they follow what happens to it, and it is not changed by them."""

import copy
import json

import pytest
import torch

from helpers import adapted_outputs, drawn_pixels, gap, make_limner, psnr, trained_adapter


@pytest.fixture
def model():
    return make_limner().requires_grad_(False)


def with_student(model, folder):
    """A model whose MM-DiT an adapter changes, fused."""
    model.load_adapter(trained_adapter(model, folder, 1, modules_to_save=()))
    return model


def test_weights_that_are_written_through_data_are_noticed(model, tmp_path):
    """As diffusers' EMAModel puts its averages in: torch does not count it."""
    with_student(model, tmp_path / "a")
    before = drawn_pixels(model).tobytes()
    weight = model.detokenizer.mmdit.blocks[0].image.qkv.weight
    weight.data.copy_(0.5 * weight.data)
    after = drawn_pixels(model).tobytes()
    assert after == drawn_pixels(copy.deepcopy(model)).tobytes() != before


def test_hooks_that_come_after_the_first_drawing_are_called(model, tmp_path):
    class Counter:
        count = 0

        def hook(self, *_):
            self.count += 1

    with_student(model, tmp_path / "a")
    before, counter = drawn_pixels(model).tobytes(), Counter()
    handle = model.detokenizer.mmdit.blocks[0].register_forward_hook(counter.hook)
    assert drawn_pixels(model).tobytes() == before and counter.count > 0
    handle.remove()
    seen = counter.count
    assert drawn_pixels(model).tobytes() == before and counter.count == seen


def test_a_parametrized_weight_is_neither_fused_nor_merged_nor_saved(model, tmp_path):
    with_student(model, tmp_path / "a")
    plain, layer = drawn_pixels(model), model.detokenizer.mmdit.blocks[0].image.qkv
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.nn.utils.parametrizations.weight_norm(layer)
    assert psnr(drawn_pixels(model), plain) > 45
    for refused in (model.merge_adapters, lambda: model.save_pretrained(tmp_path / "b")):
        with pytest.raises(ValueError, match="parametri"):
            refused()
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert gap(state.values(), [model.state_dict()[name] for name in state]) < 1e-6
    assert psnr(drawn_pixels(model), plain) > 45 and not (tmp_path / "b").exists()


def test_dropout_of_an_adapter_is_for_its_training(model, tmp_path):
    trained_adapter(model, tmp_path / "a", 1)
    for card in tmp_path.glob("a/*/adapter_config.json"):
        card.write_text(json.dumps({**json.loads(card.read_text()), "lora_dropout": 0.5}))
    model.load_adapter(tmp_path / "a")
    first = adapted_outputs(model)
    assert gap(first, adapted_outputs(model)) == 0
