"""Options of the stages that train the backbone (`joint.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ...detokenizer.flow import DENSITIES
from ...world.talk import PHRASINGS_SHARE
from ..loop import LoopConfig
from ..option_checks import check_choice, check_numbers, check_shares
from ..picture_shares import SHARES, PictureShares

MAX_MODE_SCALE = 2 / (math.pi - 2)
"""Largest scale of the density with heavy tails: beyond it times leave [0, 1] (section 3.1 of arXiv:2403.03206)"""


def check_data(data: tuple[str, ...]) -> None:
    """Raises ValueError where there is none."""
    if not data:
        raise ValueError("data is empty; it names one data set or more, such as [world]")


@dataclass(frozen=True)
class LanguageStage(PictureShares):
    feature_weight: float = 1.0
    code_weight: float = 1.0
    word_dropout: float = 0.0
    """Share of the assistant's input tokens about a picture that are replaced by others, so that the next token is predicted
    from the picture and not from the text before (word dropout; Bowman et al. 2016, arXiv:1511.06349)"""
    data: tuple[str, ...] = ("world",)
    """Data sets, each with an optional weight: ("world:0.5", "pictures/:0.5")"""
    draw_share: float = 0.8
    """How often a captioned picture is drawn from its caption; else it is described."""
    phrasings: float = PHRASINGS_SHARE
    """Share of the world's conversations that are in words which strangers wrote, where there are some for their kind"""
    text_batch_size: int = 0
    """Conversations of text alone beside every batch, of ``text_data``, by which nothing is rendered, seen or painted"""
    text_data: tuple[str, ...] = ("world",)
    validation: tuple[str, ...] = ()
    """Data sets of the validation loss, which is measured at every sample; if empty, those of ``data`` with another seed"""
    compile: bool | Literal["auto"] = False
    """Compile the layers of the backbone; "auto" is where torch has a compiler and the stage is long enough"""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_data(self.data)
        check_data(self.text_data)
        check_numbers(self, "feature_weight", "code_weight", "text_batch_size", least=0)
        check_shares(self, "word_dropout", "draw_share", "phrasings", *SHARES)


@dataclass(frozen=True)
class JointStage(PictureShares):
    data: tuple[str, ...] = ("world",)
    """Data sets, each with an optional weight: ("world:0.5", "pictures/:0.5")"""
    draw_share: float = 0.8
    """How often a captioned picture is drawn from its caption; else it is described."""
    phrasings: float = PHRASINGS_SHARE
    """Share of the world's conversations that are in words which strangers wrote, where there are some for their kind"""
    text_batch_size: int = 0
    """Conversations of text alone beside every batch, of ``text_data``, by which nothing is rendered, seen or painted"""
    text_data: tuple[str, ...] = ("world",)
    validation: tuple[str, ...] = ()
    """Data sets of the validation loss, which is measured at every sample; if empty, those of ``data`` with another seed"""
    train: tuple[str, ...] = ("mllm", "detokenizer")
    """Prefixes of the names of parameters that learn; the vision tower and the autoencoder never do."""
    language_weight: float = 1.0
    feature_weight: float = 0.5
    code_weight: float = 1.0
    """Of the visual tokens' cross entropy, in models that have them"""
    flow_weight: float = 1.0
    align_weight: float = 0.0
    align_block: int = 2
    """MM-DiT block after which the image tokens are aligned with the vision tower's features."""
    layout_weight: float = 4.0
    """Of the error in where words stand, which is a fraction of the picture's side and so a small number"""
    flow_samples: int = 2
    """Timesteps and noises for every picture of a batch; they share the backbone's forward."""
    density: str = "logit_normal"
    density_mean: float = 0.0
    density_std: float = 1.0
    context_dropout: float = 0.1
    reference_dropout: float = 0.1
    prompt_dropout: float = 0.0
    """Share of the drawings whose condition is the queries' features alone: beside the prompt's hidden states the MM-DiT might
    never learn to use them."""
    precomputed: str = ""
    """A folder of `limner precompute`, with the outputs of vision tower and autoencoder for the data's pictures"""
    compile: bool | Literal["auto"] = False
    """Compile the blocks; "auto" is where torch has a compiler and the stage is long enough"""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time."""
    sample_prompts: tuple[str, ...] = (
        "a photo of a red apple",
        "draw a blue cat on grass",
        "draw three yellow cars",
        "a photo of a green clock",
        "draw a dog left of a chair",
        "a photo of a pink bus and a black kite",
        "draw a white sheep at night",
        "a photo of two purple cups",
        "draw an orange boat on sand",
        "a photo of a bicycle",
        "draw four elephants",
        "a photo of a brown teddy bear above a tv",
        "draw a umbrella",
        "a photo of a red banana and a blue cake",
        "draw a small black bird in the sky",
        "draw a yellow train, wide",
    )
    judge: str = ""
    """A judge's folder: at every sample it looks at drawings from the queries alone and from both sources (``sources.jsonl``)"""
    judged_drawings: int = 24
    """Of each"""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_data(self.data)
        check_data(self.text_data)
        check_numbers(self, "text_batch_size", least=0)
        check_numbers(self, "judged_drawings", least=1)
        if not self.train:
            raise ValueError("train is empty; it lists what learns, such as [mllm, detokenizer]")
        check_numbers(
            self,
            "language_weight",
            "feature_weight",
            "code_weight",
            "flow_weight",
            "align_weight",
            "layout_weight",
            "align_block",
            least=0,
        )
        if not (self.language_weight or self.feature_weight or self.flow_weight or self.align_weight):
            raise ValueError(
                "language_weight, feature_weight, flow_weight and align_weight are all 0: nothing is learned"
            )
        check_numbers(self, "flow_samples", least=1)
        check_shares(self, "draw_share", "phrasings", "context_dropout", "reference_dropout", "prompt_dropout", *SHARES)
        check_choice(self, "density", DENSITIES)
        check_numbers(self, "density_mean")
        check_numbers(self, "density_std", above=0)
        if self.density == "mode":
            check_numbers(self, "density_mean", least=-1, most=MAX_MODE_SCALE)
