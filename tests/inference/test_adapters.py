"""LoRA adapters: exact identities, combination by weight, and what does not fit is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import limner
from helpers import make_limner, picture
from limner.inference import adapter_files, adapters, lora_fusion
from limner.inference.adapters import EXTRA, Adapter, split_weight
from limner.mllm.decoding import Decoder, DecodingOptions
from limner.train.finetune import ADAPTER_NAME, FinetuneConfig, prepare_adapter


def trained(model, folder, seed, extra=("queries", "boi"), std=0.1):
    """An adapter with random weights, saved; the model is the base again."""
    generator = torch.Generator().manual_seed(seed)
    trainable, start = prepare_adapter(model, FinetuneConfig(rank=2, extra=extra))
    with torch.no_grad():
        for parameter in trainable.parameters():
            if parameter.requires_grad:
                parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    now = dict(model.named_parameters())
    model.adapters.save(ADAPTER_NAME, folder, {k: now[k] - v for k, v in start.items()}, {"seed": seed})
    model.delete_adapter(ADAPTER_NAME)
    model.requires_grad_(False)
    return folder


def pixels(model, **options):
    reply = model.generate("draw", images="force", max_images=1, max_new_tokens=4, seed=3, **options)
    return reply.images[0]


def outputs(model):
    """Hidden states, logits and a velocity: what adapters change."""
    encoded = model.encoder.encode("a red cat", add_generation_prompt=True)
    ids = torch.tensor([[*encoded.input_ids, model.mllm.vocabulary.boi]])
    none = torch.zeros_like(ids, dtype=torch.bool)
    embeds = model.mllm.build_inputs_embeds(ids, none, torch.zeros(0, 4, model.mllm.width))
    hidden = model.mllm.llm.base_model(inputs_embeds=embeds).last_hidden_state
    generator = torch.Generator().manual_seed(0)
    config = model.detokenizer.mmdit.config
    latents = torch.randn(1, config.latent_channels, 8, 8, generator=generator)
    context = torch.randn(1, 4, config.context_width, generator=generator)
    velocity = model.detokenizer.mmdit(latents, torch.tensor([0.5]), context, torch.zeros(1, config.pooled_width))
    return [hidden, model.mllm.logits(hidden), model.mllm.queries.weight, velocity]


def gap(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.fixture
def model():
    return make_limner().requires_grad_(False)


def test_a_fresh_adapter_changes_nothing(model, tmp_path):
    before = outputs(model)
    prepare_adapter(model, FinetuneConfig(rank=2, extra=("queries", "boi")))
    assert gap(before, outputs(model)) == 0


def test_one_that_rests_while_it_trains_is_not_computed(model):
    """The base again bit for bit, at the base's cost, and what learns still does."""
    before = outputs(model)
    trainable, _ = prepare_adapter(model, FinetuneConfig(rank=2, extra=("queries", "boi")))
    learns = {n for n, p in trainable.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trainable.named_parameters():
            if f".lora_B.{ADAPTER_NAME}." in name:
                parameter.add_(0.1)
    now = outputs(model)
    assert gap(before, now) > 0.01
    computed = []
    loras = [m for n, m in model.named_modules() if n.endswith(f".lora_A.{ADAPTER_NAME}")]
    hooks = [m.register_forward_hook(lambda *_: computed.append(1)) for m in loras]
    with model.adapters.disabled(ADAPTER_NAME):
        assert gap(before, outputs(model)) == 0 and not computed
    assert gap(now, outputs(model)) == 0 and len(computed) == len(loras) > 10
    assert {n for n, p in trainable.named_parameters() if p.requires_grad} == learns
    for hook in hooks:
        hook.remove()


def test_while_it_is_folded_nothing_else_is_computed(model, tmp_path, monkeypatch):
    """Two at their weights, in the weights: the same drawing to a rounding, and the base's weights afterwards bit for bit."""
    for seed, weight in ((1, 0.7), (2, -0.4)):
        model.load_adapter(trained(model, tmp_path / str(seed), seed), weight=weight)
    state, unfolded = {k: v.clone() for k, v in model.state_dict().items()}, outputs(model)[-1]
    computed = []
    loras = [m for n, m in model.detokenizer.named_modules() if n.endswith(".lora_A.1")]
    for lora in loras:
        lora.register_forward_hook(lambda *_: computed.append(1))
    owner = model.adapters
    with owner.fused():
        with owner.fused():  # another drawing begins
            pass
        assert gap([unfolded], outputs(model)[-1:]) <= 1e-5 and not computed
        assert not torch.equal(owner.lora_fusion.originals[0][1], owner.lora_fusion.originals[0][2])
    assert gap([unfolded], outputs(model)[-1:]) == 0 and len(computed) == len(loras) > 10
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    computed.clear()
    pixels(model)
    assert not computed, "a drawing is folded by itself"
    monkeypatch.setattr(lora_fusion, "MAX_FUSED_BYTES", 1000)
    pixels(model)
    assert computed, "a large model is not copied"


def test_lora_of_another_kind_is_not_folded(model, tmp_path):
    """A bias of its own, which the sum of weights would leave out."""
    from peft import LoraConfig

    folder = trained(model, tmp_path / "a", 1)
    model.load_adapter(folder)
    model.adapters.add_lora(
        "b", "mmdit", LoraConfig(r=2, target_modules=adapter_files.TARGETS["mmdit"], lora_bias=True)
    )
    for name, parameter in model.detokenizer.named_parameters():
        if ".lora_B.b." in name:
            parameter.data.fill_(0.1)
    model.adapters.add("b", Adapter(1.0, ("mmdit",)))
    unfolded = outputs(model)[-1]
    with model.adapters.fused():
        assert gap([unfolded], outputs(model)[-1:]) == 0 and not model.adapters.lora_fusion.originals


def test_unloading_restores_the_base_bit_for_bit(model, tmp_path):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before, drawn = outputs(model), pixels(model)
    folder = trained(model, tmp_path / "a", 1)
    name = model.load_adapter(folder)
    assert name == "a" and model.get_active_adapters() == {"a": 1.0}
    assert gap(before, outputs(model)) > 0.01 and pixels(model).tobytes() != drawn.tobytes()
    model.delete_adapter("a")
    assert gap(before, outputs(model)) == 0 and pixels(model).tobytes() == drawn.tobytes()
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def test_merged_equals_unmerged_and_saves_as_a_whole_model(model, tmp_path):
    one, two = trained(model, tmp_path / "a", 1), trained(model, tmp_path / "b", 2)
    model.load_adapter(one, weight=0.7)
    model.load_adapter(two, "second", weight=-0.4)
    unmerged = outputs(model)
    with pytest.raises(ValueError, match="merge_adapters"):
        model.save_pretrained(tmp_path / "whole")
    model.merge_adapters()
    assert model.get_active_adapters() == {} and not any("lora" in key for key in model.state_dict())
    assert gap(unmerged, outputs(model)) <= 1e-5
    model.save_pretrained(tmp_path / "whole")
    again = limner.load(tmp_path / "whole", device="cpu", dtype="float32").requires_grad_(False)
    assert gap(unmerged, outputs(again)) <= 1e-5


def test_adapters_combine_with_their_weights(model, tmp_path):
    """The queries and BOI of two adapters add up, and so do their LoRA updates in a linear layer."""
    one, two = trained(model, tmp_path / "a", 1), trained(model, tmp_path / "b", 2)
    base = model.mllm.queries.weight.clone()
    layer = model.mllm.llm.model.layers[0].mlp.up_proj
    x = torch.randn(3, layer.in_features)
    plain = layer(x)
    moved, updates, bois = [], [], []
    for folder in (one, two):
        name = model.load_adapter(folder)
        moved.append(model.mllm.queries.weight - base)
        bois.append(model.mllm.boi_delta.clone())
        updates.append(model.mllm.llm.model.layers[0].mlp.up_proj(x) - plain)
        model.set_adapters([])
        assert torch.equal(model.mllm.queries.weight, base) and not model.mllm.boi_delta.any()
        assert torch.equal(model.mllm.llm.model.layers[0].mlp.up_proj(x), plain)
        assert name in model.adapters.loaded
    model.set_adapters(["a", "b"], [0.5, 2.0])
    together = model.mllm.llm.model.layers[0].mlp.up_proj(x) - plain
    torch.testing.assert_close(together, 0.5 * updates[0] + 2 * updates[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.mllm.queries.weight - base, 0.5 * moved[0] + 2 * moved[1], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(model.mllm.boi_delta, 0.5 * bois[0] + 2 * bois[1], atol=1e-6, rtol=1e-4)
    model.delete_adapter("a")
    torch.testing.assert_close(model.mllm.queries.weight - base, 2 * moved[1], atol=1e-6, rtol=1e-4)


def drawn_features(model):
    """What decoding gives the de-tokenizer."""
    found = []

    def draw(requests):
        found.extend(request.features for request in requests)
        return [picture(0)]
        yield

    decoder = Decoder(model.mllm, model.encoder, DecodingOptions(images="force", max_images=1, max_new_tokens=1))
    for _ in decoder.run([model.encoder.encode("draw", add_generation_prompt=True)], [0], draw):
        pass
    return found


def test_a_drawing_begins_with_the_adapters_boi(model, tmp_path):
    model.load_adapter(trained(model, tmp_path / "a", 1))
    plain = drawn_features(model)
    model.mllm.boi_delta.add_(torch.linspace(-1, 1, model.mllm.width))
    moved = drawn_features(model)
    assert gap(plain, moved) > 0.01
    model.merge_adapters()
    assert gap(moved, drawn_features(model)) <= 1e-5


def test_boi_moves_the_embedding_and_the_decision(model, tmp_path):
    """With an untied head too, where it has a row of its own."""
    model.mllm.llm.config.tie_word_embeddings = False
    head = model.mllm.llm.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.clone(), requires_grad=False)
    folder = trained(model, tmp_path / "a", 1)
    assert load_file(folder / "extra.safetensors")[EXTRA["boi"]].shape[0] == 2
    model.load_adapter(folder)
    unmerged = outputs(model)
    model.merge_adapters()
    assert gap(unmerged, outputs(model)) <= 1e-5


def test_peft_reads_what_was_saved(model, tmp_path):
    from peft import PeftModel

    folder = trained(model, tmp_path / "a", 1, extra=())
    model.load_adapter(folder)
    ours = model.mllm.llm(torch.tensor([[5, 6, 7]])).logits
    model.delete_adapter("a")
    theirs = PeftModel.from_pretrained(model.mllm.llm, folder / "llm")(torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_what_does_not_fit_is_refused_and_nothing_changes(model, tmp_path):
    before = outputs(model)
    folder = trained(model, tmp_path / "a", 1)
    other = make_limner(seed=5)
    other.name = "other"
    with pytest.raises(ValueError, match=r"adapter for 'limner' .* not for this model, 'other'"):
        other.load_adapter(folder)
    with pytest.raises(ValueError, match=r"holds no Limner adapter: no limner_adapter\.json"):
        model.load_adapter(tmp_path)
    with pytest.raises(ValueError, match="no adapter 'x'; loaded are none"):
        model.set_adapters("x")
    with pytest.raises(ValueError, match="2 weights for 1 adapters"):
        model.set_adapters("x", [1.0, 2.0])
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    state = load_file(broken / "llm/adapter_model.safetensors")
    key = sorted(state)[0]
    save_file({k: v for k, v in state.items() if k != key}, broken / "llm/adapter_model.safetensors")
    with pytest.raises(ValueError, match="weights that do not fit"):
        model.load_adapter(broken)
    state = load_file(folder / "llm/adapter_model.safetensors")
    save_file(state, broken / "llm/adapter_model.safetensors")
    config = (broken / "mmdit/adapter_config.json").read_text()
    (broken / "mmdit/adapter_config.json").write_text(json.dumps(json.loads(config) | {"from_a_newer_peft": 1}))
    with pytest.raises(ValueError, match=r"adapter_config\.json cannot be read by peft .*from_a_newer_peft"):
        model.load_adapter(broken)
    assert not any("lora" in k for k in model.state_dict()), "the part before it was taken off again"
    (broken / "mmdit/adapter_config.json").write_text(config)
    (broken / "llm/adapter_model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match="cannot be read"):
        model.load_adapter(broken)
    card = json.loads((broken / adapter_files.CARD).read_text())
    (broken / adapter_files.CARD).write_text(json.dumps(card | {"more": 1}))
    with pytest.raises(ValueError, match="expected format 1"):
        model.load_adapter(broken)
    assert gap(before, outputs(model)) == 0 and not any("lora" in k for k in model.state_dict())
    model.load_adapter(folder)
    with pytest.raises(ValueError, match="loaded already"):
        model.load_adapter(folder)


def test_an_adapter_remembers_its_base_in_any_precision(tmp_path):
    model = make_limner().to(torch.bfloat16).float()
    own = adapters.fingerprint(model)
    assert adapters.fingerprint(model.to(torch.bfloat16)) == own
    with torch.no_grad():
        model.mllm.llm.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert adapters.fingerprint(model) != own


def test_directory_and_weight():
    assert split_weight("out") == ("out", 1.0)
    assert split_weight("a/out:0.5") == ("a/out", 0.5)
    assert split_weight("a:b/out") == ("a:b/out", 1.0)
    assert Adapter(1.0, ()).extra == {}
