"""Trains the visual tokenizer on the frozen vision tower's features of the pictures that conversations draw."""

from __future__ import annotations

import copy
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...detokenizer.files import load_module, save_module
from ...inference.adapters import digest
from ...inference.build import add_picture_tokens, config_with_tokens
from ...inference.model import Limner
from ...inference.output import atomic_folder
from ...mllm.visual_tokens.config import VisualTokenizerConfig
from ...mllm.visual_tokens.losses import codebook_use, contrastive_loss, cosine_loss, squared_error_loss
from ...mllm.visual_tokens.quantizers import FiniteScalarQuantizer
from ...mllm.visual_tokens.tokenizer import VisualTokenizer, VisualTokenizerOutput
from ...world.talk import PHRASINGS_SHARE
from ..data import JointBatch
from ..datasets.mixture import Mixture, load_sources
from ..flow_loss import flow_losses
from ..frozen_encoders import EncoderCache, encoders_fingerprint
from ..loop import LoopConfig, fit
from ..losses import Targets, add_weighted_sum
from ..objective import pool_vision_features, run_stream, target_features, vision_inputs
from ..option_checks import check_numbers, check_shares
from ..picture_features import FeatureBatch, KeptFeatures, first_features
from ..picture_shares import PictureShares
from ..random_choices import random_choices
from ..resume import check_same_run, default_settings, run_settings
from ..trainable import TrainableModel
from .joint_options import JointStage, check_data

POOL_BATCHES = 8
"""Conversations are told in pools of so many batches: their lengths do not matter here"""
CODE_ROW_LENGTH = 0.3
"""Of visual tokens' first rows in the backbone's tables, as a part of words'"""
DRAFT_BATCHES, DRAFT_BATCH = 16, 32
"""Conversations by whose pictures the draft begins"""
AFTERWARDS = ("query_lengths", "seen_images", "draft_by_queries", "image_temperature")
"""Options of what the model has when its tokenizer is trained, which may change without training it again"""
FEATURES = "features"
"""Folder in the stage's with those of its ``pictures``, as long as it trains"""
FLOW = JointStage(flow_samples=1, context_dropout=0.0)
"""What the flow loss takes from a stage: times and noises"""


@dataclass(frozen=True)
class VisualTokenizerStage:
    """It learns from every picture that a conversation draws; those of one process alone."""

    tokenizer: VisualTokenizerConfig = field(default_factory=VisualTokenizerConfig)
    """Its sizes; those of the vision tower and its features follow from the model"""
    pretrained: str = ""
    """Folder of a trained visual tokenizer, which is taken as it is: nothing is trained"""
    query_lengths: tuple[int, ...] = ()
    """How many queries a picture of the model may have afterwards; empty: always all of them"""
    seen_images: str = "features"
    """How pictures are in the model's context afterwards, as "features" or as "tokens" """
    draft_by_queries: bool = False
    """mlp: whether its pictures of visual tokens begin with a draft by the queries afterwards"""
    image_temperature: float = 1.0
    """At which the model samples visual tokens afterwards, unless it is asked for another"""
    data: tuple[str, ...] = ("world",)
    """Data sets, each with an optional weight: ("world:0.5", "pictures/:0.5")"""
    draw_share: float = 1.0
    """How often a captioned picture is drawn from its caption; one that is described teaches nothing here"""
    phrasings: float = PHRASINGS_SHARE
    """Share of the world's conversations that are in words which strangers wrote, where there are some for their kind"""
    precomputed: str = ""
    """A folder of `limner precompute`, with the outputs of the vision tower for the data's pictures"""
    pictures: int = 0
    """How many pictures to learn from, of which the tower's features are computed once and kept in memory, in bf16; 0: new ones
    in every step"""
    initial_pictures: int = 4096
    """mlp: of how many pictures it begins with the principal components"""
    cosine_weight: float = 1.0
    """Of 1 - cosine of each image feature"""
    squared_error_weight: float = 1.0
    """Of the squared error of the image features, in units of their variance over the batch"""
    caption_weight: float = 0.0
    """Of the contrastive loss with the words before a picture, where these are about no other one; it needs
    ``tokenizer.pooled_width``"""
    flow_weight: float = 0.0
    """Of the flow loss of pictures that the frozen MM-DiT draws from the decoded features: it costs what a joint step does"""
    all_tokens_share: float = 0.3
    """Share of the steps, at the beginning, that keep all tokens of every picture; after them each keeps one of ``lengths``"""
    validation_pictures: int = 256
    """About as many: conversations of the validation batch"""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_data(self.data)
        check_shares(self, "draw_share", "phrasings", "all_tokens_share")
        weights = ("cosine_weight", "squared_error_weight", "caption_weight", "flow_weight")
        check_numbers(self, *weights, "image_temperature", least=0)
        check_numbers(self, "validation_pictures", "initial_pictures", least=2)
        check_numbers(self, "pictures", least=0)
        if self.pictures and (self.caption_weight or self.flow_weight):
            raise ValueError(
                f"pictures is {self.pictures}, of which features alone are kept; caption_weight and flow_weight need the "
                "conversations and the pixels: set them or pictures to 0"
            )
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"{', '.join(weights)} are all 0: nothing is learned")
        if self.caption_weight and not self.tokenizer.pooled_width:
            raise ValueError(
                "caption_weight is set, and tokenizer.pooled_width is 0: give the width of the pooled output that is "
                "compared with captions"
            )


def model_sizes(model: Limner) -> dict[str, Any]:
    """What a visual tokenizer's configuration has of the model."""
    tower = model.mllm.vision_tower
    return {
        "patch_width": tower.width,
        "num_patches": tower.num_patches,
        "feature_width": tower.width,
        "feature_tokens": model.config.feature_tokens,
        "feature_pool": model.config.feature_pool,
    }


def tokenizer_config(stage: VisualTokenizerStage, model: Limner) -> VisualTokenizerConfig:
    """The stage's configuration with the sizes of the model. Raises ValueError where it has others of its own."""
    sizes = model_sizes(model)
    plain = {f.name: f.default for f in fields(VisualTokenizerConfig)}
    for name, value in sizes.items():
        given = getattr(stage.tokenizer, name)
        if given not in (plain[name], value):
            raise ValueError(
                f"visual_tokenizer.tokenizer.{name} is {given}; it follows from the model, which has {value}: leave it out"
            )
    return replace(stage.tokenizer, **sizes)


def load_tokenizer(folder: Path, model: Limner) -> VisualTokenizer:
    """A trained visual tokenizer in fp32, frozen. Raises ValueError for a folder that holds none, or one for other features."""
    tokenizer: VisualTokenizer = load_module(VisualTokenizer, VisualTokenizerConfig, folder)
    for name, value in model_sizes(model).items():
        if (own := getattr(tokenizer.config, name)) != value:
            raise ValueError(f"{folder} is for another vision tower: its {name} is {own}, the model's {value}")
    return tokenizer.float().eval().requires_grad_(False)


class TokenizerTraining(nn.Module):
    """The visual tokenizer and, if captions are compared with pictures, a projection of their words, discarded afterwards."""

    def __init__(self, tokenizer: VisualTokenizer, word_width: int, captions: bool) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        pooled = tokenizer.config.pooled_width
        self.caption_proj = nn.Sequential(nn.LayerNorm(word_width), nn.Linear(word_width, pooled)) if captions else None


class TokenizerObjective:
    """Reconstruction of the tower's pooled features from a prefix of the codes, the quantizer's own loss and, where the stage has
    a weight for them, the contrastive and the flow loss. The unit is a drawing; a batch of fewer than two teaches nothing, since
    the normalisation before the quantizer is over a batch."""

    def __init__(
        self,
        learned: TokenizerTraining,
        trainable: TrainableModel,
        stage: VisualTokenizerStage,
        seed: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """All weights stay in fp32, since codes are decisions; products are in ``dtype``."""
        self.learned, self.trainable, self.stage, self.seed, self.dtype = learned, trainable, stage, seed, dtype

    def __call__(self, batch: JointBatch | FeatureBatch, step: int) -> dict[str, Tensor]:
        device = next(self.learned.parameters()).device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.losses(batch.to(device), step)

    def losses(self, batch: JointBatch | FeatureBatch, step: int) -> dict[str, Tensor]:
        """The losses of a batch on the tokenizer's device."""
        stage = self.stage
        weights = {
            "cosine": stage.cosine_weight,
            "squared_error": stage.squared_error_weight,
            "quantizer": 1.0,
            "caption": stage.caption_weight,
            "flow": stage.flow_weight,
        }
        if isinstance(batch, FeatureBatch):
            return add_weighted_sum(self.reconstruction(batch.features.float(), step)[0], weights)
        drawings = len(batch.target)
        if drawings < 2:
            return {"loss": torch.zeros(())}
        with torch.no_grad():
            features = target_features(self.trainable, batch)
        losses, output = self.reconstruction(features, step)
        if self.learned.caption_proj is not None:
            words, has_caption = caption_words(self.trainable, batch)
            assert output.pooled is not None
            losses["caption"] = contrastive_loss(output.pooled, self.learned.caption_proj(words.float()), has_caption)
        if stage.flow_weight:
            losses["flow"] = self.flow_loss(batch, output.features, step)
        share = drawings / batch.counts()[1]  # of the drawings of all batches that make a step
        return {name: share * value for name, value in add_weighted_sum(losses, weights).items()}

    def reconstruction(self, features: Tensor, step: int) -> tuple[dict[str, Tensor], VisualTokenizerOutput]:
        """Losses of what is known of a picture from the tower's ``features`` (pictures, patches, width) alone."""
        target = pool_vision_features(self.trainable, features).float()
        output = self.learned.tokenizer(features, self.lengths(len(features), step))
        losses = {
            "cosine": cosine_loss(output.features, target),
            "squared_error": squared_error_loss(output.features, target) / target.var(0).mean(),
            "quantizer": output.quantizer_loss,
        }
        return losses, output

    def lengths(self, drawings: int, step: int) -> Tensor | None:
        """How many tokens each drawing of a step keeps (drawings,); None for all."""
        if step < self.stage.all_tokens_share * self.stage.loop.steps * self.stage.loop.gradient_accumulation_steps:
            return None
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{step}/lengths".encode()))
        return self.learned.tokenizer.draw_lengths(drawings, generator)

    def flow_loss(self, batch: JointBatch, features: Tensor, step: int) -> Tensor:
        """Of the frozen MM-DiT, steered by decoded features alone."""
        inputs = vision_inputs(self.trainable, batch)
        assert inputs is not None
        inputs = replace(inputs, features=features.to(inputs.features.dtype))
        choices = random_choices(FLOW, batch, self.seed, step)
        return flow_losses(self.trainable, FLOW, batch, inputs, choices, Targets())["flow"] / len(batch.target)


def caption_words(trainable: TrainableModel, batch: JointBatch) -> tuple[Tensor, Tensor]:
    """The mean of the backbone's embeddings of the words before each drawing (drawings, width), and which of the drawings they
    are a caption of (drawings,): not where another picture comes before, nor where an earlier drawing has the same words."""
    stream, given = trainable.stream, batch.stream
    rows = given.input_ids[given.drawing_row]
    before = torch.arange(rows.shape[1], device=rows.device) < given.drawing_boi[:, None]
    no_words = torch.tensor([*stream.vocabulary.control, stream.vocabulary.pad], device=rows.device)
    is_word = before & ~torch.isin(rows, no_words)
    with torch.no_grad():
        words = stream.embed_tokens(rows) * is_word[..., None]
        mean = words.sum(1) / is_word.sum(1, keepdim=True).clamp(min=1)
    shown = torch.where(is_word, rows, stream.vocabulary.pad)
    repeated = (shown[:, None] == shown).all(2).tril(-1).any(1)
    alone = torch.tensor([not earlier for earlier in batch.references], device=rows.device)
    return mean, alone & is_word.any(1) & ~repeated


@torch.no_grad()
def reconstruction_figures(tokenizer: VisualTokenizer, features: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Of pictures' features (pictures, patches, width) and their pooled features (pictures, feature_tokens, width): the cosine of
    what each prefix decodes to (``cosine_8``), the share of the codebook that they use, and as ``"loss"`` 1 - cosine, averaged
    over the lengths."""
    codes = tokenizer.encode(features)
    figures = {}
    for length in tokenizer.config.lengths:
        decoded = tokenizer.decode(codes[:, :length], check=False)
        figures[f"cosine_{length}"] = F.cosine_similarity(decoded.float(), target.float(), dim=-1).mean()
    loss = 1 - torch.stack(list(figures.values())).mean()
    return {"loss": loss, **figures, "codebook_used": codebook_use(codes, tokenizer.config.num_codes)}


def run_visual_tokenizer(
    stage: VisualTokenizerStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> Limner:
    """The model that draws by the tokens of a trained visual tokenizer too (`add_picture_tokens`), whose new rows are begun by
    `spread_code_rows`. The tokenizer is ``stage.pretrained``, or is trained by `train_visual_tokenizer`.

    Raises ValueError as that does, and for a tokenizer that does not fit the model.
    """
    done = folder / "model"
    ways: dict[str, Any] = {
        "query_lengths": stage.query_lengths,
        "seen_images": stage.seen_images,
        "draft_by_queries": stage.draft_by_queries,
    }
    if stage.pretrained:
        done = Path(stage.pretrained)
    else:
        config_with_tokens(model.config, tokenizer_config(stage, model), **ways)  # not to be refused after hours
        train_visual_tokenizer(stage, model, seed, folder, device, dtype)
    tokenizer = load_tokenizer(done, model)
    torch.manual_seed(seed + 13)
    made = add_picture_tokens(model, tokenizer, **ways)
    made.defaults = replace(made.defaults, image_temperature=stage.image_temperature)
    spread_code_rows(made)
    if stage.draft_by_queries:
        initialize_draft(stage, made, seed + 14, device, dtype)
    return made


def train_visual_tokenizer(
    stage: VisualTokenizerStage, model: Limner, seed: int, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Train a visual tokenizer for ``model``, or go on with it, and save it to ``folder/model``; the model stays as it is.

    Every ``sample_every`` steps `reconstruction_figures` of a fixed batch go to ``validation.jsonl``. Raises ValueError for a run
    of other data, from another base or by other settings in ``folder``, and for sizes that do not fit.
    """
    torch.manual_seed(seed + 10)
    config = tokenizer_config(stage, model)
    sources = load_sources(
        stage.data, model.encoder, model.mllm.max_position_embeddings, stage.draw_share, stage.phrasings
    )
    batches = Mixture(sources, model.encoder, stage.loop.batch_size, seed + 11, pool=POOL_BATCHES)
    batches.keys = bool(stage.precomputed) or not all(source.kept for source in batches.sources)
    base = [model.mllm.vision_tower, *([model.detokenizer] if stage.flow_weight else [])]
    plain = VisualTokenizerStage()
    afterwards = {name: getattr(plain, name) for name in AFTERWARDS}
    settings = {
        "stage": run_settings(replace(stage, tokenizer=config, **afterwards)),
        "seed": seed,
        "base": digest(*base),
        "data": batches.fingerprints,
    }
    check_same_run(folder, settings, default_settings(stage))
    if (folder / "model" / "config.json").exists():
        return
    tokenizer = VisualTokenizer(config)
    model.requires_grad_(False)
    model.mllm.vision_tower.to(device)
    if stage.caption_weight:
        model.mllm.llm.get_input_embeddings().to(device)
    if stage.flow_weight:
        model.detokenizer.to(device)
    trainable = TrainableModel(model.mllm, model.detokenizer if stage.flow_weight else None)
    if stage.precomputed:
        trainable.frozen_encoders.cache = EncoderCache(stage.precomputed, encoders_fingerprint(model))
    learned = TokenizerTraining(tokenizer, model.mllm.width, stage.caption_weight > 0).to(device)
    fixed = Mixture(sources, model.encoder, stage.validation_pictures, seed + 12, pool=1)(0).to(device)
    if not fixed.target:
        raise ValueError(
            f"visual_tokenizer.data {list(stage.data)}: none of {stage.validation_pictures} conversations draws"
        )
    with torch.no_grad():
        features = target_features(trainable, fixed)
        target = pool_vision_features(trainable, features)
    make_batch: Callable[[int], JointBatch | FeatureBatch] = batches
    loop = stage.loop
    first = features.cpu()
    if stage.pictures:
        kept = first_features(trainable, batches, stage.pictures, loop.num_workers, folder / FEATURES)
        make_batch, loop = KeptFeatures(kept, loop.batch_size, seed), replace(loop, num_workers=0)
        first = kept[: stage.initial_pictures]
    elif config.architecture == "mlp":
        first = first_features(trainable, batches, stage.initial_pictures, loop.num_workers)
    tokenizer.initialize(first.to(device, torch.float32))
    fit(
        "visual_tokenizer",
        learned,
        make_batch,
        TokenizerObjective(learned, trainable, stage, seed, dtype),
        loop,
        folder,
        validation=partial(reconstruction_figures, tokenizer, features, target),
    )
    trainable.frozen_encoders.report_misses()
    for parameter in tokenizer.parameters():  # as they will be stored with the model: codes are decisions
        parameter.data = parameter.data.to(model.stored_dtype)
    with atomic_folder(folder / "model") as fresh:
        save_module(tokenizer.cpu(), fresh)
    if stage.pictures:
        shutil.rmtree(folder / FEATURES)
    model.cpu().requires_grad_(True)


@torch.no_grad()
def spread_code_rows(model: Limner) -> None:
    """Begin the rows of visual tokens in the backbone's tables as a random projection of what their codes stand for, shorter than
    words' rows, and that of what begins a picture of them as that of what begins one of queries.

    Codes that decode alike are alike, and what is learned of one is learned of its neighbours. Of FSQ the projection is of each
    dimension's level too: of the vectors alone a hidden state could say at first that a level is high or low, but not which.
    Rows as long as words' would make confident guesses of all codes, and of codes where words come.
    """
    mllm = model.mllm
    config, codes = mllm.visual_tokenizer.config, mllm.vocabulary.codes
    quantizer, numbers = mllm.visual_tokenizer.quantizer, torch.arange(config.num_codes)
    described = [quantizer.codes_to_vectors(numbers).float()]
    if isinstance(quantizer, FiniteScalarQuantizer):
        described.append(quantizer.one_hot_digits(numbers))
    parts = [(part - part.mean(0)) / (part.std(0) * part.shape[1] ** 0.5) for part in described]
    vectors = torch.cat(parts, dim=1) / len(parts) ** 0.5
    tables = [mllm.llm.get_input_embeddings().weight]
    if not mllm.has_tied_embeddings:
        tables.append(mllm.llm.get_output_embeddings().weight)
    for table in tables:
        table[mllm.vocabulary.vis] = table[mllm.vocabulary.boi]
        words = table[: codes.start].float()
        rows = vectors @ torch.randn(vectors.shape[1], table.shape[1])
        table[codes.start : codes.stop] = (words.mean(0) + CODE_ROW_LENGTH * rows * words.std(0)).to(table.dtype)


@torch.no_grad()
def initialize_draft(
    stage: VisualTokenizerStage, model: Limner, seed: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Begin the draft of a model's codes by what it says of the codes of pictures that conversations draw."""
    mllm, stored = model.mllm, model.mllm.dtype
    assert mllm.draft is not None
    tokenizer_as_stored = copy.deepcopy(mllm.visual_tokenizer)  # another precision and back would round its statistics
    trainable = TrainableModel(mllm.to(device, torch.promote_types(stored, dtype)), None)
    sources = load_sources(stage.data, model.encoder, mllm.max_position_embeddings, stage.draw_share, stage.phrasings)
    by_tokens = PictureShares(token_share=1.0, token_dropout=0.0)
    batches = Mixture(sources, model.encoder, DRAFT_BATCH, seed, pool=POOL_BATCHES, shares=by_tokens)
    to_vectors = mllm.visual_tokenizer.quantizer.codes_to_vectors
    drafted: list[Tensor] = []
    true: list[Tensor] = []
    for number in range(DRAFT_BATCHES):
        output, _ = run_stream(trainable, batches(number).to(device))
        if output.codes is not None:
            assert output.draft_features is not None
            drafted.append(mllm.visual_tokenizer.image_vectors(output.draft_features))
            true.append(to_vectors(output.codes))
    if not true:
        raise ValueError(f"visual_tokenizer.data {list(stage.data)} draws nothing that a draft could be compared with")
    mllm.draft.initialize(torch.cat(drafted), torch.cat(true))
    mllm.to("cpu", stored).visual_tokenizer = tokenizer_as_stored
