"""Trains a byte-level BPE tokenizer on the world's conversations in English, Chinese and Korean."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...inference.output import atomic_folder
from ...world import talk
from ..option_checks import check_numbers

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
"""Every byte is a token"""


@dataclass(frozen=True)
class TokenizerStage:
    vocab_size: int = 2048
    num_lines: int = 40_000

    def __post_init__(self) -> None:
        check_numbers(self, "vocab_size", least=MIN_VOCAB_SIZE)
        check_numbers(self, "num_lines", least=1)


def corpus(stage: TokenizerStage, seed: int) -> Iterator[str]:
    rng = random.Random(f"{seed}/tokenizer")
    for _ in range(stage.num_lines):
        for message in talk.conversation(rng).messages:
            yield from (part["text"] for part in message["content"] if part["type"] == "text")


def run_tokenizer(stage: TokenizerStage, seed: int, folder: Path) -> PreTrainedTokenizerBase:
    done = folder / "model"
    if (done / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(done)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=stage.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(stage, seed), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = CHAT_TEMPLATE
    with atomic_folder(done) as fresh:
        fast.save_pretrained(fresh)
    return fast
