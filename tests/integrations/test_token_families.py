"""Emu3, Janus and Chameleon by our sampling, against the ``generate()`` of transformers at tiny sizes."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
    PreTrainedTokenizerFast,
)

from helpers import byte_tokenizer, picture
from limner.detokenizer.detokenizer import NotFiniteError
from limner.inference.loading import place_model
from limner.integrations.token_families import load
from limner.integrations.token_families.janus import Janus

CODES = 23
PROMPTS = ["a red cat", "two much bigger dogs"]
FAMILIES = ["emu3", "janus", "chameleon"]
BACKBONE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 96,
}


def tokenizer_of(tokens: dict[str, str], codes: list[str], add_bos: bool) -> PreTrainedTokenizerFast:
    """One token a byte, control tokens by their names, and codes in an order of their own."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer().backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        sep_token="<sep>",
        padding_side="left",
        extra_special_tokens=tokens,
    )
    made.add_tokens(codes[::-1], special_tokens=True)
    if add_bos:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
        )
    return made


def ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}


CODEBOOK = {
    "num_embeddings": CODES,
    "embed_dim": 8,
    "latent_channels": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
}


def make_emu3():
    names = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
        "eol_token": "<|extra_200|>",
    }
    tokenizer = tokenizer_of(names, [f"<|visual token {code:06d}|>" for code in range(CODES)], add_bos=False)
    codebook = {
        "codebook_size": CODES,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "hidden_size": 32,
    }
    text = {"vocab_size": len(tokenizer), **BACKBONE, **ids(tokenizer)}
    config = Emu3Config(text_config=text, vq_config=codebook, vocabulary_map=tokenizer.get_vocab())
    images = Emu3ImageProcessor(min_pixels=4, max_pixels=64, spatial_factor=2)
    return Emu3ForConditionalGeneration(config), Emu3Processor(images, tokenizer)


def make_janus():
    names = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = tokenizer_of(names, [], add_bos=True)
    codebook = {
        **CODEBOOK,
        "projection_dim": 32,
        "image_token_embed_dim": 32,
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 6,
        "patch_size": 2,
        "projection_dim": 32,
        "num_image_tokens": 9,
    }
    text = {"model_type": "llama", "vocab_size": len(tokenizer), **BACKBONE, **ids(tokenizer)}
    config = JanusConfig(
        text_config=text, vision_config=vision, vq_config=codebook, image_token_id=tokenizer.image_token_id
    )
    template = "{% for message in messages %}User: {{ message.content[0].text }}\n\nAssistant:{% endfor %}"
    size = {"height": 6, "width": 6}
    images = JanusImageProcessorPil(size=size, min_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    model = JanusForConditionalGeneration(config)
    return model, JanusProcessor(images, tokenizer, chat_template=template, num_image_tokens=9)


def make_chameleon():
    names = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    tokenizer = tokenizer_of(names, [f"IMGIMG{str(code).translate(letters)}Z" for code in range(CODES)], add_bos=True)
    codebook = {
        **CODEBOOK,
        "resolution": 6,
    }
    config = ChameleonConfig(
        vocab_size=len(tokenizer),
        **BACKBONE,
        **ids(tokenizer),
        vq_config=codebook,
        vocabulary_map=tokenizer.get_vocab(),
    )
    images = ChameleonImageProcessorPil(size={"shortest_edge": 6}, crop_size={"height": 6, "width": 6})
    return ChameleonForConditionalGeneration(config), ChameleonProcessor(images, tokenizer, image_seq_length=9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each family as transformers saves it."""
    made = {}
    for family, make in {"emu3": make_emu3, "janus": make_janus, "chameleon": make_chameleon}.items():
        torch.manual_seed(3)
        model, processor = make()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.2)
        made[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(made[family])
        processor.save_pretrained(made[family])
    return made


@pytest.fixture(scope="module")
def models(folders):
    made = {family: place_model(load(folder), "cpu", "float32") for family, folder in folders.items()}
    tokenizer, generation = made["janus"].processor.tokenizer, made["janus"].model.generation_config
    generation.generation_kwargs = {"boi_token_id": tokenizer.boi_token_id}  # transformers' own generate reads it there
    for name, value in ids(tokenizer).items():
        setattr(generation, name, value)
    return made


@pytest.fixture(params=FAMILIES)
def own(request, models):
    return models[request.param]


def size_of(own) -> dict[str, int]:
    """A picture that is not square, where the family draws some."""
    return {"height": 4, "width": 6} if own.any_size else {}


@contextmanager
def masks_of(own, rows: int):
    """What the backbone attends to from the last token of each forward, by the number of tokens: (rows, tokens)."""
    masks = {}

    def record(module, args, kwargs):
        cache, mask = kwargs["past_key_values"], kwargs["attention_mask"]
        fed = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
        total = fed.shape[1] + (0 if cache is None else int(cache.get_seq_length()))
        if mask.ndim == 4:  # of a static cache
            mask = mask[:, 0, -1, :total]
        if len(mask) == rows:  # transformers runs a negative prompt by itself, later at the same number of tokens
            masks.setdefault(total, mask.bool())

    handle = own.backbone.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield masks
    finally:
        handle.remove()


def emu3_generate(own, scale):
    """As transformers' documentation of Emu3 has it."""
    model, processor, tokenizer = own.model, own.processor, own.processor.tokenizer
    options = {"return_for_image_generation": True, "ratio": "3:2", "image_area": 6 * 64, "return_tensors": "pt"}
    inputs = processor(text=PROMPTS, padding=True, **options)
    (height, width), *_ = inputs.pop("image_sizes")
    negative = processor(text=["blurry"] * len(PROMPTS), **options)

    def allowed(batch, input_ids):
        position = torch.nonzero(input_ids == tokenizer.image_wrapper_token_id, as_tuple=True)[0][0]
        offset = len(input_ids) - position
        if offset % (width + 1) == 0:
            return [tokenizer.eol_token_id]
        end = [tokenizer.eof_token_id, tokenizer.eoi_token_id, tokenizer.eos_token_id]
        past = offset - (width + 1) * height - 1
        return model.vocabulary_mapping.image_tokens if past < 0 else [end[past]]

    guidance = {} if scale == 1 else {"guidance_scale": scale, "negative_prompt_ids": negative.input_ids}
    made = model.generate(
        **inputs, **guidance, do_sample=False, max_new_tokens=height * (width + 1) + 3, prefix_allowed_tokens_fn=allowed
    )
    made = made[:, inputs.input_ids.shape[1] :]
    pixels = model.decode_image_tokens(image_tokens=made, height=height, width=width)
    lines = made[:, :-3].view(-1, height, width + 1)
    assert (lines[..., -1] == tokenizer.eol_token_id).all()
    return model.vocabulary_mapping.convert_bpe2img(lines), pixels


def janus_generate(own, scale, prompts=PROMPTS, **options):
    """As transformers' documentation of Janus has it."""
    model, processor = own.model, own.processor
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": prompt}]}], add_generation_prompt=True
        )
        for prompt in prompts
    ]
    inputs = processor(text=texts, padding=True, generation_mode="image", return_tensors="pt")
    made = model.generate(**inputs, generation_mode="image", guidance_scale=scale, **({"do_sample": False} | options))
    return made.view(-1, 3, 3), model.decode_image_tokens(made).permute(
        0, 3, 1, 2
    )  # else its processor needs torchvision


def chameleon_generate(own, scale):
    """With the codes left in the logits, out of which transformers takes them, and nothing else allowed."""
    model, processor = own.model, own.processor
    texts = [f"{prompt}<sep><racm3:break>" for prompt in PROMPTS]
    inputs = processor(text=texts, padding=True, return_for_text_completion=True, return_tensors="pt")
    mapping = model.model.vocabulary_mapping
    codes, mapping.__dict__["image_tokens"] = mapping.image_tokens, []
    begin = torch.tensor([[processor.tokenizer.bos_token_id, processor.image_start_token_id]] * len(PROMPTS))
    guidance = {} if scale == 1 else {"guidance_scale": scale, "negative_prompt_ids": begin}
    try:
        made = model.generate(
            **inputs, **guidance, do_sample=False, max_new_tokens=9, prefix_allowed_tokens_fn=lambda batch, ids: codes
        )
    finally:
        mapping.__dict__["image_tokens"] = codes
    made = made[:, inputs.input_ids.shape[1] :]
    return torch.tensor([[mapping.bpe2img[token] for token in row] for row in made.tolist()]).view(-1, 3, 3), None


GENERATE = {"emu3": emu3_generate, "janus": janus_generate, "chameleon": chameleon_generate}


@pytest.mark.parametrize(
    "family, scale", [("emu3", 1), ("emu3", 3.0), ("janus", 4.0), ("chameleon", 1), ("chameleon", 3.0)]
)
def test_codes_masks_and_pixels_are_those_of_transformers_generate(models, family, scale):
    own = models[family]
    rows = len(PROMPTS) * (2 if family == "janus" else 1)
    with masks_of(own, rows) as their_masks:
        theirs, their_pixels = GENERATE[family](own, scale)
    options = {"image_temperature": 0, "token_guidance_scale": scale, **size_of(own)}
    if family == "emu3" and scale != 1:
        options["negative_prompt"] = "blurry"
    with masks_of(own, len(PROMPTS) * (1 if scale == 1 else 2)) as masks:
        codes = own.sample(PROMPTS, **options)
    assert torch.equal(codes, theirs.long()) and len(codes.unique()) > 3
    assert len(masks) == codes[0].numel() and not masks[max(masks)][0].all()
    for total, mask in masks.items():
        assert torch.equal(mask[:rows], their_masks[total]), total
    if own.has_pixel_decoder:
        expected = own.processor.postprocess(list(their_pixels.float()), return_tensors="PIL.Image.Image")
        for image, other in zip(own.draw(PROMPTS, **options), expected["pixel_values"], strict=True):
            assert image.size == (6, 4 if own.any_size else 6) and len(image.getcolors()) > 4
            assert np.array_equal(image, other)


def test_samples_are_those_of_transformers(models):
    own = models["janus"]
    torch.manual_seed(5)
    theirs, _ = janus_generate(own, 2.0, PROMPTS[:1], do_sample=True, temperature=1.3, top_k=7, top_p=0.9)
    options = {"image_temperature": 1.3, "image_top_k": 7, "image_top_p": 0.9, "token_guidance_scale": 2.0}
    assert torch.equal(own.sample(PROMPTS[0], seed=5, **options), theirs)
    assert not torch.equal(own.sample(PROMPTS[0], seed=6, **options), theirs)


def test_a_picture_is_the_same_alone_and_in_company(own):
    told = []
    together = own.sample(PROMPTS, seed=[4, 9], callback=lambda *args: told.append(args), **size_of(own))
    alone = [own.sample(prompt, seed=seed, **size_of(own)) for prompt, seed in zip(PROMPTS, (4, 9), strict=True)]
    assert torch.equal(together, torch.cat(alone))
    total = together[0].numel()
    assert told == [(done, total) for done in range(1, total + 1)]
    assert not torch.equal(own.sample(PROMPTS, seed=4, **size_of(own))[1], together[1])


def test_options_are_the_folders(models, monkeypatch):
    own = models["chameleon"]
    plain = own.sample("a cat", token_guidance_scale=1, image_temperature=0)
    for name, value in {"guidance_scale": 1, "top_k": 1}.items():
        monkeypatch.setattr(own.model.generation_config, name, value)
    assert torch.equal(own.sample("a cat"), plain)
    assert not torch.equal(own.sample("a cat", token_guidance_scale=9), plain)


def test_a_pictures_codes_are_those_of_transformers(own):
    sizes = [(6, 6), (8, 4)] if own.any_size else [(6, 6), (6, 6)]
    shown = [picture(index).resize(size) for index, size in enumerate(sizes)]
    made = own.encode(shown)
    assert [codes.shape for codes in made] == [(height // 2, width // 2) for width, height in sizes]
    for codes, image in zip(made, shown, strict=True):
        inputs = own.processor.image_processor(images=[image], return_tensors="pt")
        if isinstance(own, Janus):
            theirs = own.model.model.vqmodel.encode(**inputs).image_tokens.flatten()
        else:
            mapping = own.model.model.vocabulary_mapping
            ids = own.model.model.get_image_tokens(**inputs).flatten().tolist()
            theirs = torch.tensor([mapping.bpe2img[token] for token in ids if token in mapping.bpe2img])
        assert torch.equal(codes.flatten(), theirs.long()) and len(codes.unique()) > 1


@pytest.mark.parametrize(
    "family, options, said",
    [
        ("emu3", {"prompt": " "}, "the prompt is empty"),
        ("emu3", {"prompt": []}, "the prompt is empty"),
        ("emu3", {"height": 5, "width": 6}, "multiples of 2, such as 4 x 6"),
        ("emu3", {"height": 40, "width": 40}, "20 x 20 codes take .* this model holds 96"),
        ("emu3", {}, "90 x 90 codes take"),
        ("emu3", {"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ("emu3", {"guidance_scale": 4.0}, "there are height, width.*token_guidance_scale"),
        ("emu3", {"negative_prompt": "bad", "token_guidance_scale": 1}, "take a greater one, such as 3.0"),
        ("emu3", {"prompt": "a <|visual token 000003|> cat"}, "visual token 000003|>', which is a control token"),
        ("emu3", {"negative_prompt": "<image>"}, "'<image>', which is a control token"),
        ("emu3", {"image_top_p": 0}, "image_top_p 0 must be in"),
        ("janus", {"height": 4, "width": 6}, "draws 6 x 6 pixels only, which are 3 x 3 codes"),
        ("janus", {"negative_prompt": "bad"}, "not guided by a negative prompt"),
        ("chameleon", {"height": 4, "width": 6}, "draws 6 x 6 pixels only"),
    ],
)
def test_requests_that_make_no_sense_are_refused(models, family, options, said):
    request = {"prompt": "a cat", "height": None, "width": None} | options
    with pytest.raises(ValueError, match=said):
        models[family].sample(**request)


def test_codes_that_make_no_sense_are_refused(models):
    codes = torch.zeros(1, 3, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=f"code {CODES} is not in the codebook"):
        models["emu3"].decode(codes + CODES)
    with pytest.raises(ValueError, match="code -1 is not in the codebook"):
        models["janus"].decode(codes - 1)
    with pytest.raises(ValueError, match="2 x 3 codes: Janus draws 6 x 6 pixels only"):
        models["janus"].decode(codes[:, :2])
    with pytest.raises(ValueError, match=r"must be \(pictures, rows, columns\)"):
        models["emu3"].decode(codes[0])
    for refused in (lambda: models["chameleon"].decode(codes), lambda: models["chameleon"].draw("a cat")):
        with pytest.raises(ValueError, match="no pixel decoder of Chameleon: sample gives"):
            refused()


def test_what_is_no_number_is_refused(models, monkeypatch):
    monkeypatch.setattr(
        models["janus"].model.model.generation_head.vision_head.bias, "data", torch.full([CODES], torch.nan)
    )
    with pytest.raises(NotFiniteError, match="scores of image tokens"):
        models["janus"].sample("a cat")


def test_folders_of_other_models_are_refused(folders, tmp_path):
    config = json.loads((folders["emu3"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="'llama'; there are emu3, janus, chameleon"):
        load(tmp_path)
    for path in folders["emu3"].iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    del config["vocabulary_map"][f"<|visual token {CODES - 1:06d}|>"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"names {CODES - 1} image tokens, and the codebook has {CODES} codes"):
        load(tmp_path)
