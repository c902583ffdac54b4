"""The options of a recipe: the parts of a model and the stages that train it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from transformers import CONFIG_MAPPING
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..detokenizer.condition import AdapterConfig
from ..detokenizer.glyphs import GlyphConfig
from ..detokenizer.mmdit_config import MMDiTConfig
from ..inference import precision
from ..inference.generation_config import GenerationConfig
from ..mllm.config import LimnerConfig
from .distill import DistillConfig
from .option_checks import check_choice, check_numbers, check_seed
from .stages import autoencoder, judge, reader, text, tokenizer, vision, visual_tokenizer
from .stages.joint_options import JointStage, LanguageStage


@dataclass(frozen=True)
class BackboneConfig:
    """A small language model made from scratch; ``model_type`` is any of transformers' causal ones."""

    model_type: str = "qwen3"
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    attn_implementation: str = "sdpa"
    """While training; a saved model runs with transformers' default."""

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "max_position_embeddings")
        check_numbers(self, *sizes, "num_attention_heads", "num_key_value_heads", least=1)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}; it must be a multiple of num_key_value_heads, "
                f"{self.num_key_value_heads}"
            )
        if self.model_type not in CONFIG_MAPPING:
            raise ValueError(f"model_type is {self.model_type!r}; transformers has none of this name (qwen3, llama, …)")
        if "/" not in self.attn_implementation:  # one of the hub's
            check_choice(self, "attn_implementation", ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()))


@dataclass(frozen=True)
class Recipe:
    name: str = "nano"
    seed: int = 1
    output: str = "runs/nano"
    warm_start: str = ""
    """A model folder to go on from; the stages before ``language`` are then its parts, of which the vision tower can be trained
    on (``--stages vision,language,joint``)."""
    new_queries: bool = False
    """Begin the warm start's queries and output resampler anew: for a comparison with visual tokens, which are new, too"""
    drop_prompt_source: bool = False
    """Take the prompt's hidden states, the second source of context, out of the warm start: it draws from its queries alone"""
    stages: tuple[str, ...] = ()
    """The stages to run if ``--stages`` names none; if empty, `DEFAULT_STAGES`"""
    device: str = "auto"
    dtype: str = "auto"
    """Of the weights while training: "auto" is what the machine computes faster, bfloat16 or float32. The optimizer's masters
    are fp32 in any case."""
    scale: float = 1.0
    """Every stage's steps and warm-up times this: 0.05 for a twentieth of the length"""
    batch_factor: int | Literal["auto"] = 1
    """Batches of the recipe's size in one, over as many conversations at a higher rate (`machine.with_batches`); "auto" is as
    many as a GPU's memory takes of nano's, and 1 on a CPU"""
    stream: LimnerConfig = field(default_factory=LimnerConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    mmdit: MMDiTConfig = field(default_factory=MMDiTConfig)
    glyphs: GlyphConfig = field(default_factory=GlyphConfig)
    """An encoder of the words that pictures carry; a warm start without one gains it"""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    tokenizer: tokenizer.TokenizerStage = field(default_factory=tokenizer.TokenizerStage)
    decoder: autoencoder.DecoderStage = field(default_factory=autoencoder.DecoderStage)
    """The autoencoder's decoder alone, at the end; the latents stay as they are"""
    autoencoder: autoencoder.AutoencoderStage = field(default_factory=autoencoder.AutoencoderStage)
    vision: vision.VisionStage = field(default_factory=vision.VisionStage)
    visual_tokenizer: visual_tokenizer.VisualTokenizerStage = field(
        default_factory=visual_tokenizer.VisualTokenizerStage
    )
    """Codes of pictures, by which the model then draws too"""
    text: text.TextStage = field(default_factory=text.TextStage)
    """The backbone on text alone, as many conversations as there is time for"""
    language: LanguageStage = field(default_factory=LanguageStage)
    detokenizer: JointStage = field(default_factory=lambda: JointStage(train=("detokenizer",)))
    """Features to pixels without the stream (SEED-X's first stage)"""
    align: JointStage = field(
        default_factory=lambda: JointStage(
            train=("mllm.queries", "mllm.input_resampler", "mllm.output_resampler", "detokenizer.adapter"),
            language_weight=0.0,
        )
    )
    """Backbone and MM-DiT are frozen; what connects them learns"""
    joint: JointStage = field(default_factory=JointStage)
    sft: JointStage = field(default_factory=JointStage)
    """Like ``joint``, on conversations of one's own"""
    judge: judge.JudgeStage = field(default_factory=judge.JudgeStage)
    reader: reader.ReaderStage = field(default_factory=reader.ReaderStage)
    student: DistillConfig = field(default_factory=DistillConfig)
    """A few-step student, which becomes a part of the model"""

    def __post_init__(self) -> None:
        precision.check_dtype(self.dtype)
        check_seed(self)
        if self.drop_prompt_source and not self.warm_start:
            raise ValueError(
                "drop_prompt_source is for a warm start; stream.prompt_tokens=0 makes a model without that source"
            )
        if self.new_queries and not self.warm_start:
            raise ValueError("new_queries is for a warm start; without one all that learns begins anew")
        check_numbers(self, "scale", above=0, most=100)
        if self.batch_factor != "auto":
            check_numbers(self, "batch_factor", least=1)
        for name, stage in vars(self).items():
            if name != "student" and hasattr(stage, "loop") and not stage.loop.learning_rate:
                raise ValueError(f"{name}.loop: learning_rate is 0, by which nothing is learned")
        if self.detokenizer.text_batch_size:
            raise ValueError("detokenizer: text_batch_size has no effect, the stream does not run")
        if not self.detokenizer.flow_weight and not self.detokenizer.align_weight:
            raise ValueError("detokenizer: flow_weight and align_weight are 0; the stage has no other losses")
