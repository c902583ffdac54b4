"""SEED-X, converted from files as they are released, against the reference: what it sees, draws, writes and learns."""

import json
import shutil

import pytest
import seed_x_files
import sentencepiece as spm
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from seed_x_files import AGENT, DATA, SIZES, reference, tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import limner
from helpers import make_sdxl, picture, play
from limner.app.cli import main as cli
from limner.detokenizer.files import build_on_meta, check_state_dict
from limner.inference.convert import convert_seed_x
from limner.integrations.sdxl.detokenizer import SDXLAdapter, SDXLAdapterConfig
from limner.integrations.seed_x.agent import TEMPLATES, weights_from_seed_x
from limner.integrations.seed_x.conversion import GRIDS, SDXL
from limner.integrations.seed_x.conversion import load_tokenizer as seed_x_tokenizer
from limner.mllm.config import LimnerConfig
from limner.mllm.decoding_options import DecodingOptions
from limner.mllm.encoding import Encoded, StreamEncoder
from limner.mllm.stream import StreamBatch, StreamModel
from limner.mllm.views import View
from limner.mllm.vocabulary import Vocabulary, vocabulary_from_tokenizer
from limner.train.data import JointBatch
from limner.train.objective import LanguageObjective
from limner.train.stages.joint_options import LanguageStage
from limner.train.trainable import TrainableModel


class Given(nn.Module):
    """A vision tower that gives the reference's features, whatever it is shown."""

    def __init__(self, features):
        super().__init__()
        self.features, self.width, self.patches = features, features.shape[-1], features.shape[1]

    def forward(self, pixel_values):
        return self.features[: len(pixel_values)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seed-x")
    sdxl = {channels: make_sdxl(channels) for channels in (4, 8)}
    for model in ("seed_x", "seed_x_i", "seed_x_edit"):
        shutil.copytree(seed_x_files.write(folder / model, sdxl, model), folder / "pretrained", dirs_exist_ok=True)
    return folder / "pretrained"


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    return {m: convert_seed_x(source, folder / m, m, SIZES) for m in ("seed_x", "seed_x_i", "seed_x_edit")}


@pytest.fixture
def model(converted):
    return limner.load(converted["seed_x_i"], device="cpu")


def test_its_parts_are_the_reference(model):
    _, io = reference("qwen_vl_vision")
    with torch.no_grad():
        torch.testing.assert_close(model.mllm.vision_tower(io["pixel_values"]), io["features"], atol=1e-5, rtol=1e-5)
        _, io = reference("detokenizer_resampler")
        condition = model.detokenizer.adapter(io["x"])
    torch.testing.assert_close(condition.context, io["prompt_embeds"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(condition.pooled, io["pooled_prompt_embeds"], atol=1e-5, rtol=1e-5)


def test_its_resamplers_are_the_reference(converted):
    mllm = limner.load(converted["seed_x"], device="cpu").mllm
    for name, part in (("input_resampler", mllm.input_resampler), ("output_resampler", mllm.output_resampler)):
        _, io = reference(name)
        with torch.no_grad():
            torch.testing.assert_close(part(io["x"]), io["y"], atol=1e-5, rtol=1e-5)


def test_guidance_pushes_away_from_a_black_picture(model):
    with torch.no_grad():
        black = model.mllm.vision_tower(torch.zeros(1, 3, 56, 56))
        context, pooled = model.detokenizer.adapter.resampler(black)  # 16 features for 16: nothing to pool
        condition = model.detokenizer.adapter(torch.randn(2, 16, 256))
    torch.testing.assert_close(condition.negative[0], context[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(condition.without_context().pooled, condition.negative[1].expand(2, -1))
    torch.testing.assert_close(condition.negative[1], pooled[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("which", ["seed_x_i", "seed_x_edit"])
@torch.inference_mode()
def test_it_sees_two_tiles_draws_and_goes_on_writing(converted, which):
    """Through our decoder: the features it draws from to 1e-4, and the very ids that follow the picture."""
    loaded = limner.load(converted[which], device="cpu")
    loaded.encoder.utf8 = None  # random weights write what is no UTF-8, and transformers' generate() lets it through
    model, (_, io) = loaded.mllm, reference("seed_x_agent")
    model.vision_tower = Given(io["image_embeds"])
    ids = io["input_ids"][0].tolist()
    starts = [i + 1 for i, token in enumerate(ids[:-1]) if token in (model.vocabulary.patch, model.vocabulary.boi)]
    blank = picture(0, (56, 56))
    views = [
        (start, View(blank, model.config, tuple(place)))
        for start, place in zip(starts, io["patch_positions"].tolist(), strict=True)
    ]
    encoded = Encoded(input_ids=ids[:-1], views=views)
    after = [int(token) for token in AGENT["text_after"].split()]
    options = DecodingOptions(images="force", max_images=1, max_new_tokens=len(after) - 1)
    played = play(model, loaded.encoder, [encoded], options, draw=lambda requests: [picture(0)])
    (row,), (asked,) = played.rows, played.requests
    torch.testing.assert_close(asked.features, io["img_gen_feat"][0], atol=1e-4, rtol=1e-4)
    assert [model.vocabulary.eoi, *row.parts[-1].ids] == after


def test_its_training_step(model):
    """A step of the language stage: SEED-X's losses and their sum."""
    stream = model.mllm
    assert stream.config.feature_pool == "sequence"  # at these sizes nothing is pooled
    step = load_file(DATA / "seed_x_training_step.safetensors")
    ids = step["input_ids"]
    one = StreamBatch(
        input_ids=ids,
        labels=step["labels"],
        lengths=torch.tensor([ids.shape[1]]),
        feature_index=step["ids_cmp_mask"].flatten().nonzero()[:, 0],
        query_index=step["ids_gen_mask"].flatten().nonzero()[:, 0],
        pixel_values=torch.zeros(1, 3, 56, 56),
        view_positions=step["patch_positions"][:1],
        drawing_row=torch.tensor([0]),
        drawing_boi=step["ids_gen_mask"][0].nonzero()[:1, 0] - 1,
        branch_boi=torch.zeros(1, 0, dtype=torch.long),
        answers=(step["labels"][:, 1:] != -100).nonzero().T,
    )
    batch = JointBatch(
        stream=one,
        config=stream.config,
        pictures=[],  # nothing is drawn in this stage
        target=[(0, 0)],
        references=[[]],
        tiles=torch.zeros(1, 56, 56, 3, dtype=torch.uint8),
        view_index=torch.tensor([0, 0]),
        target_views=[1],
        drawing_ids=[0],
    )
    stream.vision_tower = Given(step["image_embeds"])
    # SEED-X's softmax is over the whole vocabulary; ours leaves out the query slots, of which here are none
    stream.block_ids = stream.block_ids[:0]
    with torch.no_grad():
        losses = LanguageObjective(TrainableModel(stream, None), LanguageStage(feature_weight=6.0))(batch, 0)
    torch.testing.assert_close(losses["language"], step["lm_loss"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["features"], step["rec_loss"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["loss"], step["total_loss"][0], atol=1e-5, rtol=1e-5)


def test_the_edit_model_starts_from_the_picture_it_edits(converted):
    edit = limner.load(converted["seed_x_edit"], device="cpu")
    assert edit.detokenizer.takes_reference and edit.config.max_references == 1
    options = {"images": "force", "max_images": 1, "max_new_tokens": 2, "num_inference_steps": 2}
    replies = []
    for seed in (1, 2):
        content = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": "x"}]
        replies.append(edit.generate([{"role": "user", "content": content}], **options))
    assert replies[0].images[0].size == (32, 32)
    assert replies[0].images[0].tobytes() != replies[1].images[0].tobytes()


def test_it_replies_is_saved_and_replies_the_same(model, tmp_path):
    options = {"images": "force", "max_images": 1, "max_new_tokens": 4, "num_inference_steps": 2, "seed": 5}
    reply = model.generate("a cat", **options)
    model.save_pretrained(tmp_path)
    again = limner.load(tmp_path, device="cpu").generate("a cat", **options)
    assert reply.text == again.text and reply.images[0].tobytes() == again.images[0].tobytes()


TURNS = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "more"},
]
FORMS = [
    ("seed_x_i", TURNS, {}, "<s>[INST] q [/INST]\na\n[INST] more [/INST]\n"),
    ("seed_x_i", TURNS, {"images": "force"}, "<s>[INST] q [/INST]\na\n[INST] Generate an image: more [/INST]\n"),
    ("seed_x_edit", TURNS[:1], {"images": "force"}, "<s>[INST] q [/INST]\n"),
    ("seed_x", TURNS[:1], {"images": "force"}, "<s>q"),
    ("seed_x", TURNS[:1], {}, "<s>Question: q\nAnswer:"),
    ("seed_x", TURNS[:1], {"boxes": True}, "<s>q [[ <box_start>"),
    ("seed_x", TURNS, {}, "<s>Question: q\nAnswer: a\nQuestion: more\nAnswer:"),
]


@pytest.mark.parametrize(("which", "turns", "wanted", "prompt"), FORMS)
def test_prompt_forms(converted, which, turns, wanted, prompt):
    encoder = limner.load(converted[which], device="cpu").encoder
    ids = encoder.encode(turns, add_generation_prompt=True, **wanted).input_ids
    assert encoder.tokenizer.decode(ids) == prompt


def test_what_it_learns_to_say_ends_with_the_end_of_sequence(model):
    encoded = model.encoder.encode([*TURNS, {"role": "assistant", "content": "b"}], training=True)
    labelled = [token for token in encoded.labels if token >= 0]
    assert model.tokenizer.decode(labelled) == "ab</s>"


def test_a_sentencepiece_model_is_read_as_it_reads_itself(source, tmp_path):
    text = ["Describe the red cat.", "Question: what is it?\nAnswer: a dog", "[INST] Generate an image: a car [/INST]"]
    (tmp_path / "text").write_text("\n".join(text * 40))
    folder = tmp_path / "words"
    folder.mkdir()
    spm.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=380,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    own = spm.SentencePieceProcessor(str(folder / "tokenizer.model"))
    controls = [token for token in tokenizer().get_added_vocab() if token not in ("<unk>", "<s>", "</s>")]
    added = {name: own.get_piece_size() + i for i, name in enumerate(controls)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    names = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))

    words = seed_x_tokenizer(folder, "seed_x_i")
    config = LimnerConfig(num_queries=16, image_tokens=16, feature_tokens=16)
    encoder = StreamEncoder(words, config, vocabulary_from_tokenizer(words, config))
    content = [{"type": "image", "image": picture(0)}, {"type": "text", "text": "Describe the  cat"}]
    ids = encoder.encode([{"role": "user", "content": content}]).input_ids
    slots = [added["<img>"], *encoder.vocabulary.slots[:16], added["</img>"]]
    assert ids == [1, *own.encode("[INST] "), *slots, *own.encode("Describe the  cat [/INST]\n")]


def corrupt(folder, change):
    path = folder / "seed_x_i/agent/pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


class Code:
    def __reduce__(self):
        return (open, ("/tmp/limner-was-here", "w"))


MISFITS = [
    (lambda w: w.update({"surprise.weight": torch.zeros(1)}), r"no place in the stream: surprise\.weight"),
    (lambda w: w.update({"../../x": torch.zeros(1)}), r"no place in the stream: \.\./\.\./x"),
    (
        lambda w: w.update({"llm.model.norm.weight": torch.zeros(3)}),
        r"llm\.model\.norm\.weight is \(3,\), expected \(96,\)",
    ),
    (lambda w: w.pop("output_resampler.query"), r"output_resampler\.query is missing, expected \(16, 256\)"),
    (lambda w: w.pop("patch_pos_embed"), "needs patch_pos_embed"),
    (lambda w: w.update({"llm.x": Code()}), "holds more than tensors and is not read"),
]


@pytest.mark.parametrize(("change", "words"), MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_left(source, tmp_path, change, words):
    folder = shutil.copytree(source, tmp_path / "pretrained")
    corrupt(folder, change)
    with pytest.raises(ValueError, match=words):
        convert_seed_x(folder, tmp_path / "out", "seed_x_i", SIZES)
    assert [p.name for p in tmp_path.iterdir()] == ["pretrained"]


def test_bad_files_are_refused(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "pretrained")

    def refused(words, model="seed_x_i"):
        with pytest.raises(ValueError, match=words):
            convert_seed_x(folder, tmp_path / "out", model, SIZES)

    refused("no SEED-X model 'seed_y'", "seed_y")
    agent = folder / "seed_x_i/agent/pytorch_model.bin"
    whole = agent.read_bytes()
    agent.write_bytes(whole[: len(whole) // 2])
    refused("pytorch_model.bin cannot be read")
    agent.write_bytes(b"")
    refused("pytorch_model.bin cannot be read")
    torch.save([torch.zeros(1)], agent)
    refused("does not hold tensors by name")
    agent.write_bytes(whole)
    index = folder / "seed_x_i/llm/pytorch_model.bin.index.json"
    kept = index.read_text()
    index.write_text(json.dumps({"weight_map": {"x": "../../secret.bin"}}))
    refused("not a file of this folder")
    index.write_text(kept)
    config = folder / "seed_x_i/llm/config.json"
    config.write_text(json.dumps(seed_x_files.llm_config() | {"auto_map": {"AutoModel": "evil.Model"}}))
    refused("names code of its own to run")
    config.write_text("{")
    refused("is not JSON")
    config.write_text(json.dumps(seed_x_files.llm_config() | {"hidden_size": 10**6, "head_dim": 250_000}))
    refused("does not fit its configuration")  # 10^12 weights a matrix: nothing is allocated
    config.write_text(json.dumps(seed_x_files.llm_config() | {"hidden_size": 10**9, "head_dim": 250_000_000}))
    refused("a configuration that makes no sense")
    config.write_text(json.dumps(seed_x_files.llm_config()))
    shutil.rmtree(folder / SDXL / "vae")
    refused("no such folder: .*vae")
    shutil.rmtree(folder / "Qwen-VL-Chat")
    refused("no visual tower")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.part"))


def test_the_command_line_refuses_in_one_line(tmp_path, capsys):
    assert cli.main(["convert", "seed-x", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("limner: no visual tower")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("")
    assert cli.main(["convert", "seed-x", str(tmp_path), "-o", str(full)]) == 2
    assert "is not empty" in capsys.readouterr().err


def cross_attention(width: int, other: int) -> dict[str, tuple[int, ...]]:
    """The released resamplers' parameters, 8 x 8 queries."""
    return {
        "pos_embed": (64, width),
        "query": (64, width),
        "kv_proj.weight": (width, other),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_q.weight": (width,),
        "ln_q.bias": (width,),
        "ln_kv.weight": (width,),
        "ln_kv.bias": (width,),
    }


def test_the_full_size_agent_has_a_place_for_every_released_weight():
    """SEED-X-17B: LLaMA-2-13B with a vocabulary of 32,330, resamplers between widths 4096 and 5120."""
    llama = LlamaConfig(
        vocab_size=32330,
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
    )
    config = LimnerConfig(tile_grids=GRIDS, drawn_images="queries", feature_pool="sequence")
    slots = tuple(range(32004, 32104))
    vocabulary = Vocabulary(32000, 32001, 32002, 32003, slots, (), (2,), 2)
    vision_tower = Given(torch.zeros(1, 256, 4096, device="meta"))
    stream = build_on_meta(lambda: StreamModel(LlamaForCausalLM(llama), vision_tower, config, vocabulary), "SEED-X")
    stream.vision_tower = None
    released = {f"llm.{name}": tuple(value.shape) for name, value in stream.llm.state_dict().items()}
    released |= {f"input_resampler.{name}": shape for name, shape in cross_attention(5120, 4096).items()}
    released |= {f"output_resampler.{name}": shape for name, shape in cross_attention(4096, 5120).items()}
    released["patch_pos_embed"] = (4, 5120)
    assert released["llm.model.embed_tokens.weight"] == released["llm.lm_head.weight"] == (32330, 5120)
    theirs = {name: torch.empty(shape, device="meta") for name, shape in released.items()}
    check_state_dict(weights_from_seed_x(theirs, slots[:64]), stream, "SEED-X")


@pytest.mark.parametrize("channels", [4, 8])
def test_the_full_size_detokenizer_has_a_place_for_every_released_weight(channels):
    """SDXL's UNet from its public configuration (2,567,463,684 parameters), and the resampler in front of it."""
    unet = build_on_meta(
        lambda: UNet2DConditionModel(
            sample_size=128,
            in_channels=channels,
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "SDXL",
    )
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684 + (channels - 4) * 320 * 9
    adapter = build_on_meta(lambda: SDXLAdapter(SDXLAdapterConfig()), "SDXL")
    released = {"latents": (1, 64, 1024), "proj_in.weight": (1024, 4096), "proj_in.bias": (1024,)}
    for i in range(4):
        released |= {f"layers.{i}.0.{n}.{p}": (1024,) for n in ("norm1", "norm2") for p in ("weight", "bias")}
        released |= {
            f"layers.{i}.0.to_q.weight": (1024, 1024),
            f"layers.{i}.0.to_kv.weight": (2048, 1024),
            f"layers.{i}.0.to_out.weight": (1024, 1024),
            f"layers.{i}.1.0.weight": (1024,),
            f"layers.{i}.1.0.bias": (1024,),
            f"layers.{i}.1.1.weight": (4096, 1024),
            f"layers.{i}.1.3.weight": (1024, 4096),
        }
    released |= {
        "norm_out.weight": (1024,),
        "norm_out.bias": (1024,),
        "unet_proj_1.weight": (768, 1024),
        "unet_proj_1.bias": (768,),
        "unet_proj_2.weight": (1280, 1024),
        "unet_proj_2.bias": (1280,),
        "unet_attnpool.positional_embedding": (65, 1024),
        "unet_attnpool.c_proj.weight": (1280, 1024),
        "unet_attnpool.c_proj.bias": (1280,),
    }
    released |= {f"unet_attnpool.{n}_proj.weight": (1024, 1024) for n in "qkv"}
    released |= {f"unet_attnpool.{n}_proj.bias": (1024,) for n in "qkv"}
    theirs = {f"resampler.{name}": torch.empty(shape, device="meta") for name, shape in released.items()}
    theirs["negative_features"] = torch.empty(64, 4096, device="meta")
    check_state_dict(theirs, adapter, "SEED-X")


def test_templates_are_named_after_the_released_models():
    assert set(TEMPLATES) == {"seed_x", "seed_x_i", "seed_x_edit"}
