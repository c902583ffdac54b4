"""User texts that look like control tokens: none becomes one, in answering, training and plain generation alike.

Conversations of hostile texts are encoded with tokenizers of several families, each with the chat template of models that
have such a one. What a conversation of plain words gives is what a hostile one must give, but for the words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cases import Outcome, try_cases
from helpers import byte_tokenizer, picture, stream_config
from limner.inference.boxes import parse_boxes, strip_boxes
from limner.inference.model_folders import embedded
from limner.inference.parts import load_tokenizer
from limner.mllm.config import LimnerConfig
from limner.mllm.encoding import IGNORE_INDEX, Encoded, StreamEncoder
from limner.mllm.glyph_text import find_glyph_text
from limner.mllm.messages import Message
from limner.mllm.text_stream import TextStream
from limner.mllm.vocabulary import add_control_tokens, vocabulary_from_tokenizer
from limner.train.data import joint_batch

TITLE = "user texts full of control tokens, template pieces, other models' tokens: none becomes a control id"
CASES = 5000

LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'system' %}"
    "<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

MARKERS = [
    *("<img>", "</img>", "<img_00000>", "<img_00003>", "<img_99999>", "<patch>", "</patch>", "<loc_000>", "<loc-112>"),
    *("<shape_32x32>", "<shape_128x128>", "<vis_00000>", "<box_start>", "<image>", "<|image_pad|>", "<|vision_start|>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>system\n"),
    *("<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "[CLS]", "[SEP]", "[UNK]", "[PAD]", "<extra_id_0>"),
    *(
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<</SYS>>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|eot_id|>",
        "<|eom_id|>",
    ),
    *("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>", "<tool_call>"),
    *("<0x0A>", "<0xFF>", "▁", "▁▁", "Ġ", "##", "\n\n", "<table>", "<|fim_prefix|>", "<|channel|>", "<unused0>"),
]
PIECES = [
    *(
        "{{ 7*7 }}",
        "{% for m in messages %}",
        "{% endraw %}",
        "{# ",
        "{{ ''.__class__ }}",
        "{%- raise_exception('x') %}",
    ),
    *(
        '{"type": "image", "image": "/etc/passwd"}',
        '{"name": "draw", "arguments": {"n": 1}}',
        "<function=draw>",
        "\\u003cimg\\u003e",
    ),
    *(
        "a" * 24,
        "0123456789abcdef01234567",
        "\x00",
        "\ud800",
        "\udfff",
        "\ufeff",
        "\u200d",
        "\u200b",
        "\u2028",
        "\ufffd",
    ),
    *(
        "＜img＞",
        "＜ｉｍｇ＞",
        "<\u200dimg>",
        "<im\u0067\u0301>",
        "〈img〉",
        "﹤img﹥",
        "<IMG>",
        "&lt;img&gt;",
        "\ufdfa",
        "ﬁ",
    ),
    *(
        "<",
        ">",
        "<img",
        "img>",
        "<|im_",
        "start|>",
        "_00000>",
        "</",
        "[",
        "\r\n",
        "\t",
        " ",
        "  ",
        "…",
        "🐱",
        "猫",
        "고양이",
    ),
    *('"', "“", "a sign that says “OPEN”", '"' * 9, "«", "<loc_" + "9" * 5000 + ">" * 1),
]


@dataclass(frozen=True)
class Family:
    """A tokenizer with Limner's control tokens, and what is known of it."""

    encoder: StreamEncoder
    exact: bool
    """Whether every text can be read again from its ids"""
    markers: frozenset[int]
    """Ids that no text may become"""


def with_special(
    tokenizer: Tokenizer, names: list[str], template: str, words: tuple[str, ...] = (), **roles
) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers with special tokens of these names and other added tokens, ``words``."""
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    fast.chat_template = template
    return fast


def letters(*first: str) -> dict[str, int]:
    """A vocabulary of these words, every byte's token and the letters of ASCII."""
    tokens = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *(chr(c) for c in range(33, 127))]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def byte_level() -> PreTrainedTokenizerFast:
    """Of Qwen's and Llama 3's kind, with an added token that is not special and one that takes spaces."""
    fast = byte_tokenizer()
    fast.add_special_tokens(
        {"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]}, False
    )
    fast.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<|end|>", rstrip=True, special=True)])
    fast.bos_token, fast.eos_token = "<|endoftext|>", "<|eot_id|>"
    fast.chat_template = LLAMA3
    return fast


def metaspace() -> PreTrainedTokenizerFast:
    """Of Llama 2's kind: every run of text begins with a space, and the vocabulary can make its own special tokens."""
    words = letters("<unk>", "<s>", "</s>", "s>", "</")
    model = models.BPE(
        words, [("s", ">"), ("<", "s>"), ("<", "/"), ("</", "s>")], byte_fallback=True, unk_token="<unk>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    return with_special(tokenizer, ["<unk>", "<s>", "</s>"], LLAMA2, **roles)


def gemma() -> PreTrainedTokenizerFast:
    """Line breaks and runs of spaces are words of the vocabulary and added tokens at once."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    words = letters(*names, "\n", "\n\n", "▁▁", "<table>")
    tokenizer = Tokenizer(models.BPE(words, [("\n", "\n"), ("▁", "▁")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    roles = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>"}
    return with_special(tokenizer, names, GEMMA, ("\n", "\n\n", "▁▁", "<table>"), **roles)


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's: its special tokens are words like others, and NFKC makes ``<pad>`` of full-width letters."""
    names = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    scores = [(token, -1.0 if number < len(names) else -5.0) for token, number in letters(*names).items()]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    roles = {"unk_token": "<unk>", "eos_token": "<|end|>", "pad_token": "<pad>"}
    return with_special(tokenizer, names, PHI, **roles)


def word_pieces() -> PreTrainedTokenizerFast:
    """BERT's: whole words, lower case, no accents, unknown ones lost."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    small = [
        *names,
        *"abcdefghijklmnopqrstuvwxyz0123456789<>_/[]",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
    ]
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(small)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    roles = {"unk_token": "[UNK]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    return with_special(
        tokenizer, names, "{{ '[CLS]' }}{% for m in messages %}{{ m.content }}[SEP]{% endfor %}", **roles
    )


MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "metaspace": metaspace,
    "gemma": gemma,
    "unigram": unigram,
    "word_pieces": word_pieces,
}


@cache
def family(name: str) -> Family:
    """nano's own, or one of `MAKERS`."""
    if name == "nano":
        folder = embedded("nano")
        tokenizer, config = load_tokenizer(folder), LimnerConfig.load(folder)
        vocabulary = vocabulary_from_tokenizer(tokenizer, config)
    else:
        tokenizer, config = MAKERS[name](), stream_config(shapes=((32, 32), (16, 32)))
        vocabulary = add_control_tokens(tokenizer, config)
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}
    markers = frozenset(special | vocabulary.control | set(vocabulary.end_of_turn))
    return Family(StreamEncoder(tokenizer, config, vocabulary), name in ("nano", "byte_level"), markers)


def full_width(text: str) -> str:
    """What NFKC makes ``text`` of."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


@cache
def texts(name: str) -> st.SearchStrategy[str]:
    """Pieces one after another, half of them the family's own added tokens, whole, full-width or cut."""
    own = st.sampled_from([token.content for token in family(name).encoder.tokenizer.added_tokens_decoder.values()])
    changed = own | own.map(full_width) | own.map(lambda token: token[:-1]) | own.map(lambda token: token[1:])
    foreign = st.sampled_from(MARKERS) | st.sampled_from(PIECES)
    repeated = st.builds(str.__mul__, own | st.sampled_from([*MARKERS, *PIECES[:-1]]), st.integers(2, 300))
    piece = changed | foreign | st.text(st.characters(), max_size=12) | repeated
    return st.lists(piece, min_size=1, max_size=6).map("".join)


PICTURES = st.builds(lambda number: {"type": "image", "image": picture(number, (32, 32))}, st.integers(0, 3))


def turn(role: str, content: list) -> Message:
    return {"role": role, "content": content}


@st.composite
def conversations(draw) -> tuple[str, list[Message], str]:
    """A family; system, user and assistant in their order, of texts in one or several parts, and pictures; a stop string."""
    name = draw(st.sampled_from(["nano", *MAKERS]))
    parts = st.builds(lambda text: {"type": "text", "text": text}, texts(name))
    content = st.lists(parts | parts | PICTURES, min_size=1, max_size=3)
    asked = content.filter(lambda parts: any(p["type"] == "image" or p["text"].strip() for p in parts))
    messages = [turn("system", draw(st.lists(parts, min_size=1, max_size=2)))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        messages += [turn("user", draw(asked)), turn("assistant", draw(content))]
    stop = draw(texts(name)).encode("utf-8", "replace").decode()[:40]
    return name, [*messages, turn("user", draw(asked))], stop or "stop"


def in_plain_words(messages: list[Message]) -> list[Message]:
    """The same conversation, every text replaced by a word."""
    return [
        turn(m["role"], [{"type": "text", "text": "cat"} if p["type"] == "text" else p for p in m["content"]])
        for m in messages
    ]


def check(case: tuple[str, list[Message], str]) -> None:
    name, messages, stop = case
    own = family(name)
    encoder, tokenizer = own.encoder, own.encoder.tokenizer
    encoded = encoder.encode(messages, add_generation_prompt=True)
    plain = encoder.encode(in_plain_words(messages), add_generation_prompt=True)

    found, expected = ([t for t in e.input_ids if t in own.markers] for e in (encoded, plain))
    assert found == expected, f"control tokens {tokenizer.convert_ids_to_tokens(found)}"
    check_labels(encoder, messages, encoded)
    training = encoder.encode(messages, add_generation_prompt=True, training=True)
    assert (training.input_ids, training.labels) == (encoded.input_ids, encoded.labels), "training sees another stream"
    batch = joint_batch([messages], encoder)
    assert (
        batch.stream.input_ids[0].tolist()[: len(encoder.encode(messages).input_ids)]
        == encoder.encode(messages).input_ids
    )

    texts = [p["text"] for m in messages for p in m["content"] if p["type"] == "text"]
    if own.exact:
        body = tokenizer.decode([t for t in encoded.input_ids if t not in own.markers])
        for text in texts:
            assert text.encode("utf-8", "replace").decode() in body, f"lost: {text!r:.80}"
            check_stop(encoder, text, stop)
    for text in texts:
        parse_boxes(text), strip_boxes(text), find_glyph_text(text, stop)


def check_labels(encoder: StreamEncoder, messages: list[Message], encoded: Encoded) -> None:
    """The assistant's texts, pictures' beginnings and ends of turn are learned, and nothing else."""
    vocabulary, expected = encoder.vocabulary, []
    for message in messages:
        for part in message["content"] if message["role"] == "assistant" else ():
            shape = [vocabulary.shapes[0], vocabulary.boi]
            expected += shape if part["type"] == "image" else encoder.text_ids(part["text"])
        expected += [vocabulary.end_of_turn[0]] * (message["role"] == "assistant")
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))
    assert [label for label in encoded.labels if label != IGNORE_INDEX] == expected, "the labels are others"


def check_stop(encoder: StreamEncoder, text: str, stop: str) -> None:
    """A reply of this text ends before the stop string, wherever tokens cut it."""
    kept = text.encode("utf-8", "replace").decode()
    stream = TextStream(encoder.tokenizer, (stop,))
    given = ""
    for token in encoder.text_ids(text):
        given += stream.add(token)
        if stream.stopped:
            break
    given += stream.end()[0]
    assert given == kept.partition(stop)[0], (
        f"a reply of {kept!r:.80} with the stop string {stop!r:.40} gave {given!r:.80}"
    )


def run(cases: int, seed: int) -> Outcome:
    return try_cases(conversations(), check, cases, seed)
