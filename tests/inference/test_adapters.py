"""LoRA adapters: exact identities, combination by weight, and what does not fit is refused."""

import copy
import json
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

import limner
from helpers import adapted_outputs, drawn_pixels, gap, halves, make_limner, play, trained_adapter
from limner.inference import adapter_files, adapters, lora
from limner.inference.adapter_files import MODULES_TO_SAVE
from limner.inference.adapters import Adapter, split_adapter, split_weight
from limner.mllm.decoding_options import DecodingOptions
from limner.train.adapter_training import AdapterTraining
from limner.train.finetune import ADAPTER_NAME, FinetuneConfig, prepare_adapter


@pytest.fixture
def model():
    return make_limner().requires_grad_(False)


def test_a_fresh_adapter_changes_nothing(model, tmp_path):
    before = adapted_outputs(model)
    prepare_adapter(model, FinetuneConfig(rank=2, modules_to_save=("queries", "boi")))
    assert gap(before, adapted_outputs(model)) == 0


def test_one_that_is_disabled_while_it_trains_is_not_computed(model):
    """The base again bit for bit, at the base's cost, and what learns still does."""
    before, state = adapted_outputs(model), {k: v.clone() for k, v in model.state_dict().items()}
    trainable, training = prepare_adapter(model, FinetuneConfig(rank=2, modules_to_save=("queries", "boi")))
    learns = {n for n, p in trainable.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trainable.named_parameters():
            if f".lora_B.{ADAPTER_NAME}." in name or "queries" in name:
                parameter.add_(0.1)
    now = adapted_outputs(model)
    assert gap(before, now) > 0.01
    computed = []
    loras = [m for n, m in model.named_modules() if n.endswith(f".lora_A.{ADAPTER_NAME}")]
    hooks = [m.register_forward_hook(lambda *_: computed.append(1)) for m in loras]
    with training.disabled():
        assert gap(before, adapted_outputs(model)) == 0 and not computed
    assert gap(now, adapted_outputs(model)) == 0 and len(computed) == len(loras) > 10
    assert {n for n, p in trainable.named_parameters() if p.requires_grad} == learns
    for hook in hooks:
        hook.remove()
    training.remove()
    assert gap(before, adapted_outputs(model)) == 0 and model.state_dict().keys() == state.keys()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def loaded(model, tmp_path, *weights):
    for seed, weight in enumerate(weights, 1):
        model.load_adapter(trained_adapter(model, tmp_path / str(seed), seed), weight=weight)


def test_a_small_mmdit_is_fused_and_a_large_one_is_not_copied(model, tmp_path, monkeypatch):
    """Two at their weights, in the weights: the same velocity to a rounding, and the base's weights bit for bit."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    loaded(model, tmp_path, 0.7, -0.4)
    fused, (_, view) = adapted_outputs(model)[-1], halves(model)
    computed = []
    for name, module in view.named_modules():
        if ".lora_A." in name:
            module.register_forward_hook(lambda *_: computed.append(1))
    assert gap([fused], adapted_outputs(model)[-1:]) == 0 and not computed
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    monkeypatch.setattr(lora, "MAX_FUSED_BYTES", 1000)
    model.adapters.views.clear()
    _, view = halves(model)
    plain = adapted_outputs(model)[-1]
    assert 0 < gap([fused], [plain]) <= 1e-5
    own = {p.data_ptr() for p in model.parameters()}
    added = [name for name, p in view.named_parameters() if p.data_ptr() not in own]
    assert added and all(".lora_" in name for name in added), "nothing else is the view's own"


@pytest.mark.filterwarnings("ignore:.*invalid shape")  # peft takes a bias for a shard
def test_lora_of_another_kind_is_not_fused(model, tmp_path):
    """A bias of its own, which the sum of weights would leave out."""
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=adapter_files.TARGETS["mmdit"], lora_bias=True)
    with AdapterTraining(model, "b", {"mmdit": config}) as training:
        for name, parameter in model.detokenizer.named_parameters():
            if ".lora_B.b." in name:
                parameter.data.fill_(0.1)
        unfused = adapted_outputs(model)[-1]
        training.save(tmp_path / "b", {}, {})
    model.load_adapter(tmp_path / "b")
    assert gap([unfused], adapted_outputs(model)[-1:]) < 1e-3  # it was saved in bf16
    assert any(any(m.lora_bias.values()) for m in halves(model)[1].modules() if hasattr(m, "lora_bias"))
    assert not any(getattr(m, "merged_adapters", None) for m in halves(model)[1].modules())


def test_views_share_what_they_do_not_change_and_follow_the_base(model, tmp_path):
    loaded(model, tmp_path, 1.0)
    mllm, _ = halves(model)
    assert mllm is not model.mllm and mllm is halves(model)[0], "one that is kept"
    layer = model.mllm.llm.model.layers[0].input_layernorm
    assert mllm.llm.model.layers[0].input_layernorm.weight is layer.weight
    assert mllm.vision_tower is model.mllm.vision_tower and mllm.queries is not model.mllm.queries
    before = adapted_outputs(model)
    with torch.no_grad():
        model.mllm.llm.model.layers[0].mlp.up_proj.weight.add_(0.1)
        model.detokenizer.mmdit.blocks[0].image.qkv.weight.add_(0.1)
    assert gap(before[:1], adapted_outputs(model)[:1]) > 0.01 and gap(before[-1:], adapted_outputs(model)[-1:]) > 1e-4
    model.to(torch.bfloat16)
    assert {p.dtype for half in halves(model) for p in half.parameters()} == {torch.bfloat16}
    for weight in (0.1, 0.2, 0.3, 0.4, 0.5):
        model.set_adapters("1", weight)
        halves(model)
    assert len(model.adapters.views) == adapters.MAX_VIEWS


def test_loading_one_freezes_nothing(model, tmp_path):
    folder = trained_adapter(model, tmp_path / "a", 1)
    model.requires_grad_(True)
    model.load_adapter(folder)
    drawn_pixels(model)
    assert all(p.requires_grad and not p.is_inference() for p in model.parameters())


def test_a_request_brings_adapters_of_its_own(model, tmp_path):
    """Words and pictures, and nothing of it is left."""
    loaded(model, tmp_path, 0.0, 0.0)
    base = drawn_pixels(model).tobytes()
    one = drawn_pixels(model, adapters={"1": 1.0}).tobytes()
    held = model.stream("draw", images="force", max_images=1, max_new_tokens=4, seed=3, adapters={"2": 1.0})
    assert drawn_pixels(model).tobytes() == base != one
    for event in held:
        if type(event).__name__ == "PictureStep":
            break
    assert drawn_pixels(model, adapters={"1": 1.0}).tobytes() == one and model.get_active_adapters() == {}
    model.set_adapters("1")
    assert drawn_pixels(model).tobytes() == one and drawn_pixels(model, adapters={}).tobytes() == base
    rest = [event.image.tobytes() for event in held if type(event).__name__ == "PictureDone"]
    assert rest == [drawn_pixels(model, adapters={"2": 1.0}).tobytes()]
    with pytest.raises(ValueError, match="no adapter 'x'; loaded are 1, 2"):
        model.stream("draw", adapters={"x": 1.0})


def test_an_adapter_that_is_taken_off_still_answers_what_was_asked_of_it(model, tmp_path):
    loaded(model, tmp_path, 1.0)
    drawn = drawn_pixels(model).tobytes()
    events = model.stream("draw", images="force", max_images=1, max_new_tokens=4, seed=3)
    model.delete_adapter("1")
    assert [event.image.tobytes() for event in events if type(event).__name__ == "PictureDone"] == [drawn]
    assert drawn_pixels(model).tobytes() != drawn


def test_threads_with_adapters_of_their_own_draw_what_each_draws_alone(model, tmp_path):
    """And really at once: each waits inside its drawing until all are in theirs."""
    loaded(model, tmp_path, 0.0, 0.0)
    kinds = [{}, {"1": 1.0}, {"2": 1.0}, {"1": 0.5, "2": -1.0}]
    alone = [drawn_pixels(model, adapters=kind).tobytes() for kind in kinds]
    together = threading.Barrier(len(kinds))

    def wait(event):
        if type(event).__name__ == "PictureStep" and event.step == 1:
            together.wait(30)

    with ThreadPoolExecutor(len(kinds)) as pool:
        drawn = list(pool.map(lambda kind: drawn_pixels(model, adapters=kind, callback=wait).tobytes(), kinds))
    assert drawn == alone and len(set(alone)) == len(kinds)


def test_copies_draw_the_same(model, tmp_path):
    loaded(model, tmp_path, 1.0)
    drawn = drawn_pixels(model).tobytes()
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert drawn_pixels(again).tobytes() == drawn


def test_unloading_restores_the_base_bit_for_bit(model, tmp_path):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before, drawn = adapted_outputs(model), drawn_pixels(model)
    folder = trained_adapter(model, tmp_path / "a", 1)
    name = model.load_adapter(folder)
    assert name == "a" and model.get_active_adapters() == {"a": 1.0}
    assert gap(before, adapted_outputs(model)) > 0.01 and drawn_pixels(model).tobytes() != drawn.tobytes()
    model.delete_adapter("a")
    assert gap(before, adapted_outputs(model)) == 0 and drawn_pixels(model).tobytes() == drawn.tobytes()
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def test_merged_equals_unmerged_and_saves_as_a_whole_model(model, tmp_path):
    one, two = trained_adapter(model, tmp_path / "a", 1), trained_adapter(model, tmp_path / "b", 2)
    model.load_adapter(one, weight=0.7)
    model.load_adapter(two, "second", weight=-0.4)
    unmerged = adapted_outputs(model)
    with pytest.raises(ValueError, match="merge_adapters"):
        model.save_pretrained(tmp_path / "whole")
    model.merge_adapters()
    assert model.get_active_adapters() == {} and not any("lora" in key for key in model.state_dict())
    assert gap(unmerged, adapted_outputs(model)) <= 1e-5
    model.save_pretrained(tmp_path / "whole")
    again = limner.load(tmp_path / "whole", device="cpu", dtype="float32").requires_grad_(False)
    assert gap(unmerged, adapted_outputs(again)) <= 1e-5


def test_adapters_combine_with_their_weights(model, tmp_path):
    """The queries and BOI of two adapters add up, and so do their LoRA updates in a linear layer."""
    base = model.mllm.queries.weight.clone()
    x = torch.randn(3, model.mllm.llm.model.layers[0].mlp.up_proj.in_features)
    plain = model.mllm.llm.model.layers[0].mlp.up_proj(x)

    def changes():
        mllm, _ = halves(model)
        return mllm.queries.weight - base, mllm.boi_delta, mllm.llm.model.layers[0].mlp.up_proj(x) - plain

    loaded(model, tmp_path, 0.0, 0.0)
    assert halves(model) == (model.mllm, model.detokenizer), "none is on: the model itself"
    model.set_adapters("1")
    one = changes()
    model.set_adapters("2")
    two = changes()
    model.set_adapters({"1": 0.5, "2": 2.0})
    assert model.get_active_adapters() == {"1": 0.5, "2": 2.0}
    model.set_adapters(["1", "2"], [0.5, 2.0])
    for together, a, b in zip(changes(), one, two, strict=True):
        torch.testing.assert_close(together, 0.5 * a + 2 * b, atol=1e-5, rtol=1e-4)
    model.delete_adapter("1")
    torch.testing.assert_close(changes()[0], 2 * two[0], atol=1e-6, rtol=1e-4)
    assert torch.equal(model.mllm.queries.weight, base) and model.mllm.boi_delta is None


def drawn_features(model):
    """What decoding gives the de-tokenizer."""
    options = DecodingOptions(images="force", max_images=1, max_new_tokens=1)
    return [request.features for request in play(halves(model)[0], model.encoder, ["draw"], options).requests]


def test_a_drawing_begins_with_the_adapters_boi(model, tmp_path):
    model.load_adapter(trained_adapter(model, tmp_path / "a", 1))
    plain = drawn_features(model)
    differences = model.adapters.loaded["a"].differences
    differences[MODULES_TO_SAVE["boi"]] = differences[MODULES_TO_SAVE["boi"]] + torch.linspace(-1, 1, model.mllm.width)
    model.adapters.views.clear()
    moved = drawn_features(model)
    assert gap(plain, moved) > 0.01
    model.merge_adapters()
    assert gap(moved, drawn_features(model)) <= 1e-5


@pytest.mark.parametrize("rows", [1, 2])
def test_boi_moves_the_embedding_and_the_decision(model, tmp_path, rows):
    """With a tied head, and with one that has a row of its own."""
    model.mllm.llm.config.tie_word_embeddings = rows == 1
    table = model.mllm.llm.get_input_embeddings().weight
    head = model.mllm.llm.get_output_embeddings()
    head.weight = table if rows == 1 else torch.nn.Parameter(head.weight.clone(), requires_grad=False)
    folder = trained_adapter(model, tmp_path / "a", 1)
    assert load_file(folder / "modules_to_save.safetensors")[MODULES_TO_SAVE["boi"]].shape[0] == rows
    model.load_adapter(folder)
    unmerged = adapted_outputs(model)
    model.merge_adapters()
    assert gap(unmerged, adapted_outputs(model)) <= 1e-4


def test_peft_reads_what_was_saved(model, tmp_path):
    from peft import PeftModel

    folder = trained_adapter(model, tmp_path / "a", 1, modules_to_save=())
    model.load_adapter(folder)
    ours = halves(model)[0].llm(torch.tensor([[5, 6, 7]])).logits
    model.delete_adapter("a")
    theirs = PeftModel.from_pretrained(model.mllm.llm, folder / "llm")(torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_what_does_not_fit_is_refused_and_nothing_changes(model, tmp_path):
    before = adapted_outputs(model)
    folder = trained_adapter(model, tmp_path / "a", 1)
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
    with pytest.raises(ValueError, match="'x' is given twice"):
        model.set_adapters(["x", "x"], [1.0, 2.0])
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
    with pytest.raises(ValueError, match="expected format 2"):
        model.load_adapter(broken)
    assert gap(before, adapted_outputs(model)) == 0 and not any("lora" in k for k in model.state_dict())
    model.load_adapter(folder)
    with pytest.raises(ValueError, match="loaded already"):
        model.load_adapter(folder)


def test_a_folder_of_the_first_format_gives_the_same(model, tmp_path):
    """When ``modules_to_save`` were called extra."""
    folder = trained_adapter(model, tmp_path / "new", 1, tuple(MODULES_TO_SAVE))
    old = shutil.copytree(folder, tmp_path / "old")
    (old / "modules_to_save.safetensors").rename(old / "extra.safetensors")
    card = json.loads((old / adapter_files.CARD).read_text())
    names = card.pop("modules_to_save")
    assert {name.split(".")[1] for name in names} == {*MODULES_TO_SAVE} - {"boi"} | {"boi_delta"}
    (old / adapter_files.CARD).write_text(json.dumps(card | {"format": 1, "extra": names}))
    drawn = []
    for name in ("new", "old"):
        model.load_adapter(tmp_path / name)
        drawn.append([*adapted_outputs(model), torch.tensor(list(drawn_pixels(model).tobytes()))])
        model.delete_adapter(name)
    assert gap(*drawn) == 0 < gap(drawn[0][:4], adapted_outputs(model))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mllm.queries.weight", r"mllm\.queries\.weight of \(1, 2\), the model has \(4, 32\)"),
        ("mllm.queries.bias", r"mllm\.queries\.bias of \(1, 2\), the model has none"),
        ("mllm.boi_delta", r"mllm\.boi_delta of \(1, 2\), the model has \(2, 32\)"),
        ("eye.weight", r"eye\.weight: the model has no such parameter"),
    ],
)
def test_differences_of_other_parameters_are_refused(model, tmp_path, name, said):
    folder = trained_adapter(model, tmp_path / "a", 1)
    save_file({name: torch.zeros(1, 2)}, folder / "modules_to_save.safetensors")
    with pytest.raises(ValueError, match=rf"a: {said}"):
        model.load_adapter(folder)
    assert model.adapters.loaded == {} and model.mllm.boi_delta is None


def test_the_names_of_modules_are_saved_in_order(model, tmp_path):
    """peft writes sets, whose order is another one in every process."""
    saved = json.loads((trained_adapter(model, tmp_path / "a", 1) / "llm/adapter_config.json").read_text())[
        "target_modules"
    ]
    assert len(saved) == 14 and saved == sorted(saved)


def test_an_adapter_remembers_its_base_in_any_precision(tmp_path):
    model = make_limner().to(torch.bfloat16).float()
    own = adapters.fingerprint(model)
    assert adapters.fingerprint(model.to(torch.bfloat16)) == own
    with torch.no_grad():
        model.mllm.llm.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert adapters.fingerprint(model) != own


def test_directory_and_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_weight("out") == ("out", 1.0)
    assert split_weight("a/out:0.5") == ("a/out", 0.5)
    assert split_weight("a:b/out") == ("a:b/out", 1.0)
    for path in (r"C:\cat", "C:cat", "C:/cat"):
        assert split_weight(path) == (path, 1.0)
    assert split_weight(r"C:\cat:-.5") == (r"C:\cat", -0.5)
    (tmp_path / "cat:2").mkdir()
    assert split_weight("cat:2") == ("cat:2", 1.0) and split_weight("cat:2:3") == ("cat:2", 3.0)
    for weight in ("", "half", "nan", "inf", "0,5"):
        with pytest.raises(ValueError, match=f"'{weight}' is no weight"):
            split_weight(f"cat:{weight}")
    assert split_adapter("cat:0.5") == (None, "cat", 0.5)
    assert split_adapter(r"my-cat.v1=C:\cat:0.5") == ("my-cat.v1", r"C:\cat", 0.5)
    assert split_adapter("a/b=c:2") == (None, "a/b=c", 2.0)
    (tmp_path / "b=c").mkdir()
    assert split_adapter("b=c:2") == (None, "b=c", 2.0) and split_adapter("d=b=c") == ("d", "b=c", 1.0)
    assert Adapter("a", 1.0).differences == {}


def test_names_are_the_folders_own_and_get_numbers(model, tmp_path):
    """Dots too: the names never reach peft, which cuts a weight's path at them."""
    one = trained_adapter(model, tmp_path / "one/cat-v1.5", 1)
    two = trained_adapter(model, tmp_path / "two/cat-v1.5", 2)
    alone = drawn_pixels(model)
    assert model.load_adapter(one, weight=0.5) == "cat-v1.5"
    first = drawn_pixels(model)
    assert model.load_adapter(two) == "cat-v1.5-2"
    assert model.get_active_adapters() == {"cat-v1.5": 0.5, "cat-v1.5-2": 1.0}
    assert len({alone.tobytes(), first.tobytes(), drawn_pixels(model).tobytes()}) == 3
    assert drawn_pixels(model, adapters={"cat-v1.5": 0.5}).tobytes() == first.tobytes()
    with pytest.raises(ValueError, match=r"is loaded already, as 'cat-v1\.5'"):
        model.load_adapter(one)
    with pytest.raises(ValueError, match=r"called 'cat-v1\.5' is loaded already"):
        model.load_adapter(two, "cat-v1.5")
    with pytest.raises(ValueError, match="name is a word"):
        model.load_adapter(two, "")
    for weight in (float("nan"), "half", None):
        with pytest.raises(ValueError, match=r"the weight is .* must be a"):
            model.load_adapter(two, "b", weight)
    with pytest.raises(ValueError, match=r"the weight of cat-v1\.5 is inf; it must be a finite number"):
        model.set_adapters("cat-v1.5", float("inf"))
    model.load_adapter(one, "again.")
    model.delete_adapter("cat-v1.5-2")
    assert list(model.get_active_adapters()) == ["cat-v1.5", "again."]
