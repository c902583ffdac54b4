"""SEED-X's whole agent against the reference: what it sees, draws and writes, and its training step."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from helpers import byte_tokenizer, picture
from limner.mllm.config import LimnerConfig
from limner.mllm.decoding import Decoder, DecodingOptions
from limner.mllm.encoding import Encoded, StreamEncoder
from limner.mllm.seed_x import load_seed_x, weights_from_seed_x
from limner.mllm.stream import StreamBatch, StreamModel
from limner.mllm.views import View
from limner.mllm.vocabulary import Vocabulary

DATA = Path(__file__).parent.parent / "data"
SIZES = json.loads((DATA / "seed_x_agent.json").read_text())


class Given(nn.Module):
    """An eye that gives the reference's features, whatever it is shown."""

    def __init__(self, features):
        super().__init__()
        self.features, self.width, self.patches = features, features.shape[-1], features.shape[1]

    def forward(self, pixel_values):
        return self.features[: len(pixel_values)]


def agent():
    saved = load_file(DATA / "seed_x_agent.safetensors")
    ids, first, count = SIZES["ids"], SIZES["first_slot"], SIZES["num_slots"]
    vocabulary = Vocabulary(ids["<img>"], ids["</img>"], ids["<patch>"], ids["</patch>"],
                            tuple(range(first, first + count)), (), (2,), 0)  # fmt: skip
    config = LimnerConfig(num_queries=16, image_tokens=16, feature_tokens=16, resampler_heads=4, image_size=448,
                          tile_grids=((1, 1), (1, 2), (2, 1)), drawn_images="queries", default_size=(32, 32))  # fmt: skip
    options = {k: v for k, v in SIZES["llm"].items() if k not in ("transformers_version", "model_type")}
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **options))
    model = StreamModel(llm, Given(saved["io.image_embeds"]), config, vocabulary).eval()
    weights = {k.removeprefix("weights."): v for k, v in saved.items() if k.startswith("weights.")}
    load_seed_x(model, weights)
    return model, StreamEncoder(byte_tokenizer(), config, vocabulary), saved, weights


@torch.inference_mode()
def test_it_sees_two_tiles_draws_and_goes_on_writing():
    """Through our decoder: the features it draws from to 1e-4, and the very ids that follow the picture."""
    model, encoder, saved, _ = agent()
    ids = saved["io.input_ids"][0].tolist()
    starts = [i + 1 for i, token in enumerate(ids[:-1]) if token in (model.vocabulary.patch, model.vocabulary.boi)]
    blank = torch.zeros(3, 448, 448)
    views = [
        (start, View(blank, tuple(place)))
        for start, place in zip(starts, saved["io.patch_positions"].tolist(), strict=True)
    ]
    encoded = Encoded(input_ids=ids[:-1], views=views)
    drawn = []

    def draw(requests):
        drawn.extend(request.features for request in requests)
        return [picture(0)]
        yield

    after = [int(token) for token in SIZES["text_after"].split()]
    decoder = Decoder(model, encoder, DecodingOptions(images="force", max_images=1, max_new_tokens=len(after) - 1))
    events = decoder.run([encoded], [0], draw)
    while True:
        try:
            next(events)
        except StopIteration as stopped:
            (row,) = stopped.value
            break
    torch.testing.assert_close(drawn[0], saved["io.img_gen_feat"][0], atol=1e-4, rtol=1e-4)
    assert [model.vocabulary.eoi, *row.parts[-1].ids] == after


def test_its_training_step():
    """SEED-X's losses are over the whole vocabulary; ours leave the slots out, so the sum is made here."""
    model, _, _, _ = agent()
    step = load_file(DATA / "seed_x_training_step.safetensors")
    ids = step["input_ids"]
    batch = StreamBatch(
        input_ids=ids, labels=step["labels"], lengths=torch.tensor([ids.shape[1]]), feature_mask=step["ids_cmp_mask"],
        query_mask=step["ids_gen_mask"], pixel_values=torch.zeros(1, 3, 448, 448), view_positions=step["patch_positions"][:1],
        drawing_row=torch.tensor([0]), drawing_begin=step["ids_gen_mask"][0].nonzero()[:1, 0] - 1,
    )  # fmt: skip
    with torch.no_grad():
        output = model(batch, step["image_embeds"][:1])
        logits = model.logits(output.hidden)
        features = model.output_resampler(output.query_states)
    lm = F.cross_entropy(logits[0, :-1], step["labels"][0, 1:])
    rec = F.mse_loss(features, step["image_embeds"][1:])
    torch.testing.assert_close(lm, step["lm_loss"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rec, step["rec_loss"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lm + 6 * rec, step["total_loss"][0], atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_named():
    model, _, _, weights = agent()
    with pytest.raises(ValueError, match=r"no place in the stream: surprise\.weight"):
        weights_from_seed_x(weights | {"surprise.weight": torch.zeros(1)}, model.vocabulary.slots)
    with pytest.raises(ValueError, match=r"llm\.model\.norm\.weight is \(3,\), expected \(96,\)"):
        load_seed_x(model, weights | {"llm.model.norm.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"llm\.lm_head\.weight is missing"):
        load_seed_x(model, {k: v for k, v in weights.items() if "lm_head" not in k})
