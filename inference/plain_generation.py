"""A model's words and pictures by the ``generate()`` of transformers, token by token: sampling, beams, batches, processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import LogitsProcessorList, PreTrainedModel

from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.drawing_options import DrawingOptions
from ..mllm.encoding import Encoded
from ..mllm.glyph_text import find_glyph_text
from ..mllm.messages import EmittedText
from ..mllm.picture_grammar import PictureGrammar, picture_rules
from ..mllm.picture_tokens import PictureTokens
from ..mllm.processor import ImageTokenLogitsProcessor
from ..mllm.rows import DrawRequest
from ..mllm.stream import StreamModel, collate
from .drawing import build_condition
from .inputs import ContextLengthError, Messages, as_batch, load_message_images, seeds_per_row
from .isolation import isolated
from .lora import view_of
from .model import Limner
from .reply import Reply


class PlainInputs(dict[str, Any]):
    """Keyword arguments of ``generate()``, and what `PlainGeneration.replies` has to know of the prompts."""

    encoded: list[Encoded]
    size: tuple[int, int] | None
    """Height and width in pixels of the pictures; None where their shape tokens say it"""


@dataclass(frozen=True)
class EmittedPicture:
    """A picture in a returned sequence."""

    boi: int
    """Index of the token that begins it in the ids"""
    size: tuple[int, int]
    """Height and width in pixels, as its shape token says"""
    tokens: PictureTokens
    """What it is drawn by"""


@dataclass(frozen=True)
class EmittedReply:
    """A returned sequence in parts."""

    parts: list[EmittedText | EmittedPicture]
    finish_reason: str

    @property
    def pictures(self) -> list[EmittedPicture]:
        return [part for part in self.parts if isinstance(part, EmittedPicture)]


class PlainGeneration:
    """Prepares a model for ``generate()`` of transformers, and makes replies of what comes out.

        plain = limner.PlainGeneration(model)
        inputs = plain.prepare(["draw a red cat", "a blue house"])
        output = plain.llm.generate(**inputs, num_beams=3)
        replies = plain.replies(output, inputs)

    ``llm`` is the backbone with modules of its own that share every tensor with the model. It embeds emitted slots as the
    learned queries, and an adapter's change of BOI acts in it. Its ``generation_config`` is the backbone's, with the ids that
    stop, room for a picture, and the hidden states that pictures are drawn from. It may be changed; the model's own may not.

    The queries of a picture take one forward each, where `Limner.generate` runs them in one, and give the same features.
    They stay in the stream, as visual tokens do: what follows a picture is `Limner.generate`'s for models with
    ``drawn_images="queries"`` or ``seen_images="tokens"`` alone. Another one would have to see its picture before it goes on, so
    its replies end with their first ``</img>``. Visual tokens are sampled as words are; a model that drafts them by queries draws
    by queries alone here.

    ``adapters`` are used at these weights, or as they are switched on now. Make it after the model was moved to its device.
    Raises ValueError for an unknown adapter and for a model that is offloaded or has weights of 8 bits.
    """

    @isolated
    def __init__(self, model: Limner, adapters: Mapping[str, float] | None = None) -> None:
        if model.offload is not None:
            raise ValueError("offload moves the backbone away while a picture is drawn: load the model without it")
        if model.bits == 8:
            # bitsandbytes moves a weight's scales into the first of the layers that share it, and the other one computes noise
            raise ValueError("layers of 8 bits cannot share their weights: load the model with bits=4 or all of them")
        self.model, self.config = model, model.config
        self.weights = model.adapters.weights(adapters)
        self.mllm: StreamModel = model.adapters.view("mllm", self.weights)
        self.llm: PreTrainedModel = view_of(self.mllm, ["llm"]).llm
        self.llm.eval()  # a view's own modules
        self.llm.generate = isolated(self.llm.generate)
        self.llm.set_input_embeddings(FunctionModule(self.mllm.embed_emitted))
        self.llm.set_output_embeddings(FunctionModule(self.mllm.head))
        self.vocabulary = vocabulary = self.mllm.vocabulary
        self.grammar, self.control = PictureGrammar(self.config, vocabulary), vocabulary.control
        self.stop_ids = [*vocabulary.end_of_turn, *([vocabulary.eoi] if self.config.has_branches else [])]
        generation = self.llm.generation_config
        generation.eos_token_id = self.stop_ids
        generation.pad_token_id = vocabulary.pad
        generation.max_length = None
        # a shape token, a length token, what begins a picture, its queries or visual tokens, EOI
        picture_tokens = self.config.max_drawing + 3 + bool(self.config.lengths)
        generation.max_new_tokens = model.defaults.max_new_tokens + picture_tokens
        generation.return_dict_in_generate = True
        generation.output_hidden_states = -1  # the last layer's only

    @isolated
    def prepare(
        self,
        messages: Messages | Sequence[Messages],
        *,
        images: str | None = None,
        height: int | None = None,
        width: int | None = None,
        image_mode: str | None = None,
        image_tokens: int | None = None,
    ) -> PlainInputs:
        """Keyword arguments of ``llm.generate`` for a prompt, a conversation, or a batch of either, pictures included.

        ``images`` ("auto", "force", "never"), ``height``, ``width``, ``image_mode`` and ``image_tokens`` are `Limner.generate`'s.
        A processor of your own is appended to ``inputs["logits_processor"]``. The prompts are given as ``inputs_embeds``, so
        ``sequences`` hold new tokens only. Raises ValueError for messages and options that make no sense.
        """
        model, mllm, config = self.model, self.mllm, self.config
        given = {
            "images": images,
            "height": height,
            "width": width,
            "image_mode": image_mode,
            "image_tokens": image_tokens,
        }
        if config.draft_by_queries:
            if image_mode == "tokens":
                raise ValueError(
                    "image_mode is 'tokens', and this model samples visual tokens around a draft by its queries, which "
                    "transformers' generate() does not know: take Limner.generate, or image_mode 'queries'"
                )
            given["image_mode"] = "queries"
        options = model.defaults.updated(given)
        if options.size is not None:
            model.detokenizer.check_size(*options.size)
        rules = picture_rules(options, config)
        encoded = [
            model.encoder.encode(
                load_message_images(m, model.allow_urls),
                add_generation_prompt=True,
                images=options.images,
                boxes=options.boxes,
            )
            for m in as_batch(messages)[0]
        ]
        batch = collate(encoded, self.vocabulary, config, padding_side="left").to(mllm.device)
        length = batch.input_ids.shape[1]
        if length >= mllm.max_position_embeddings:
            raise ContextLengthError(
                f"the conversation takes {length} tokens; this model holds {mllm.max_position_embeddings}, with the reply"
            )
        vocab_size = self.llm.config.get_text_config().vocab_size
        inputs = PlainInputs(
            inputs_embeds=mllm.embed_stream(batch, mllm.vision_tower(batch.pixel_values)),
            attention_mask=(torch.arange(length, device=mllm.device) >= length - batch.lengths[:, None]).long(),
            logits_processor=LogitsProcessorList(
                [ImageTokenLogitsProcessor(self.grammar, vocab_size, options.images, rules)]
            ),
        )
        inputs.encoded, inputs.size = encoded, options.size
        return inputs

    @isolated
    def features(self, output: Any) -> list[Tensor]:
        """Image features (pictures, feature_tokens, vision width) of each returned sequence, from the output resampler or, where
        a picture has visual tokens, from the visual tokenizer.

        ``output`` is what ``llm.generate`` returned for inputs of `prepare`; a picture that a limit cut is left out. Raises
        ValueError for an output without hidden states or from other inputs.
        """
        found = []
        for row, ids in zip(chosen_from(output), output.sequences.tolist(), strict=True):
            pictures = self._split(ids).pictures
            of_queries = iter(self._query_features(row, [p for p in pictures if not p.tokens.codes]))
            of_codes = iter(self.mllm.decode_codes([p.tokens.codes for p in pictures if p.tokens.codes]))
            own = [next(of_codes if picture.tokens.codes else of_queries) for picture in pictures]
            width = self.mllm.vision_tower.width
            found.append(torch.stack(own) if own else row.new_zeros(0, self.config.feature_tokens, width))
        return found

    def _query_features(self, states: Tensor, pictures: Sequence[EmittedPicture]) -> Tensor:
        """Features of a sequence's pictures of queries, from what its tokens were chosen from (tokens, width)."""
        if not pictures:
            return states[:0]
        n, lengths = self.config.num_queries, [picture.tokens.length for picture in pictures]
        # a query's state is what the next slot or, after the last query, EOI was chosen from
        blocks = [states[p.boi + 2 : p.boi + 2 + p.tokens.length] for p in pictures]
        padded = torch.stack([F.pad(block, (0, 0, 0, n - len(block))) for block in blocks])
        return self.mllm.query_features(padded, torch.tensor(lengths, device=states.device))

    @isolated
    def replies(
        self, output: Any, inputs: PlainInputs, *, seed: int | Sequence[int] = 0, **options: Any
    ) -> list[Reply]:
        """Text and drawn pictures of each returned sequence; several of one prompt stand together.

        ``inputs`` are those that ``output`` was generated from. ``seed`` is `Limner.generate`'s: several sequences of a prompt
        take ``seed``, ``seed + 1``, …; ``options`` are the fields of `DrawingOptions`. The finish reason is "length" where a
        limit, or a "seen" model's first picture, cut the reply. Raises ValueError for options that make no sense, and for an
        output that is not of these inputs.
        """
        if unknown := sorted(set(options) - {field.name for field in fields(DrawingOptions)}):
            raise ValueError(f"{unknown[0]} is no option of drawing; prepare and generate take those of writing")
        prompts, adapters = inputs.encoded, self.model.adapters
        emitted = [self._split(ids) for ids in output.sequences.tolist()]
        returned, rest = divmod(len(emitted), len(prompts))
        if rest:
            raise ValueError(f"{len(emitted)} sequences are not those of {len(prompts)} prompts")
        seeds = [own + k for own in seeds_per_row(seed, len(prompts)) for k in range(returned)]
        config, weights = adapters.resolve_options(options, adapters.weights(self.weights))
        detokenizer: Detokenizer = adapters.view("detokenizer", weights)
        requests = self._requests(output, inputs, emitted)
        images: dict[tuple[int, int], Image.Image] = {}
        # the first pictures of all replies, then the second ones, of which the first are references
        for index, size in sorted({(request.index, request.size) for request in requests}):
            group = [request for request in requests if (request.index, request.size) == (index, size)]
            for request in group:
                earlier = [images[request.row, k] for k in reversed(range(index))]
                request.previous_images[:0] = earlier
            pixels = detokenizer.draw(
                build_condition(detokenizer, group, self.config, size),
                *size,
                seeds=[(seeds[request.row], index) for request in group],
                options=config,
            )
            for request, drawn in zip(group, pixels, strict=True):
                images[request.row, index] = Image.fromarray(drawn.numpy())
                tokens = emitted[request.row].pictures[index].tokens
                if self.config.lengths_of(tokens.mode):
                    tokens.attach(images[request.row, index], self.config.visual_codes)
        return [
            Reply(
                [part if isinstance(part, str) else images[row, own.pictures.index(part)] for part in own.parts],
                own.finish_reason,
            )
            for row, own in enumerate(emitted)
        ]

    def _requests(self, output: Any, inputs: PlainInputs, emitted: Sequence[EmittedReply]) -> list[DrawRequest]:
        """What each picture is drawn from, but for the reply's own pictures before it."""
        returned = len(emitted) // len(inputs.encoded)
        features, states, rows = self.features(output), chosen_from(output), hidden_rows(output)
        made = []
        for row, reply in enumerate(emitted):
            conversation = inputs.encoded[row // returned]
            is_token = inputs["attention_mask"][row // returned].bool()
            read = output.hidden_states[0][-1][rows[row, 0]]
            for index, picture in enumerate(reply.pictures):
                stream = torch.cat([read, states[row, 1 : picture.boi + 2]])
                prompt, prompt_mask = self._prompt(stream, F.pad(is_token, (0, picture.boi + 1), value=True))
                before = reply.parts[: reply.parts.index(picture)]
                text = before[-1] if before and isinstance(before[-1], str) else ""
                made.append(
                    DrawRequest(
                        row,
                        index,
                        features[row][index],
                        prompt,
                        prompt_mask,
                        inputs.size or picture.size,
                        [shown.image for shown in reversed(conversation.pictures)],
                        find_glyph_text(text, conversation.last_request),
                    )
                )
        return made

    def _prompt(self, stream: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """The last ``prompt_tokens`` of the states (tokens, width) up to BOI, and where they are none of padding."""
        p = self.config.prompt_tokens
        if not p:
            return None, None
        padding = (max(p - len(stream), 0), 0)
        mask = is_token[-p:]
        # what a backbone computes for padding may be NaN, which no mask takes away
        prompt = stream[-p:].masked_fill(~mask[:, None], 0)
        return F.pad(prompt, (0, 0, *padding)), F.pad(mask, padding)

    def _split(self, ids: list[int]) -> EmittedReply:
        """The ids of a returned sequence in parts, up to the one that stopped it."""
        vocabulary = self.vocabulary
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        reason = "stop" if stop < len(ids) and ids[stop] in vocabulary.end_of_turn else "length"
        ids = ids[: stop + 1]
        parts: list[EmittedText | EmittedPicture] = []
        previous = 0
        for picture in [*filter(None, (self._picture_at(ids, i) for i in range(len(ids)))), None]:
            end = len(ids) if picture is None else picture.boi
            if text := [t for t in ids[previous:end] if t not in self.control and t not in self.stop_ids]:
                parts.append(EmittedText(self.model.tokenizer.decode(text), text))
            if picture is not None:
                parts.append(picture)
            previous = end
        return EmittedReply(parts, reason)

    def _picture_at(self, ids: list[int], begin: int) -> EmittedPicture | None:
        """The whole picture that begins there; None where there is none."""
        config, vocabulary = self.config, self.vocabulary
        modes = {token: mode for mode, token in vocabulary.begins.items()}
        if (mode := modes.get(ids[begin])) is None:
            return None
        announced = self.grammar.length_of.get(ids[begin - 1]) if begin else None
        length = announced or config.num_queries
        block = ids[begin + 1 : begin + 2 + length]
        if len(block) <= length or block[-1] != vocabulary.eoi:  # a limit cut it
            return None
        codes = tuple(token - vocabulary.codes.start for token in block[:-1]) if mode == "tokens" else ()
        size = config.default_size
        if config.shapes:
            size = config.shapes[vocabulary.shapes.index(ids[begin - (2 if announced else 1)])]
        return EmittedPicture(begin, size, PictureTokens(mode, length, codes))


class FunctionModule(nn.Module):
    """A function in the place of a layer. What it is a method of does not become a submodule."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def hidden_rows(output: Any) -> Tensor:
    """(sequences, tokens): the row of each step's hidden states that a token was chosen from; beams change their rows."""
    if (beams := getattr(output, "beam_indices", None)) is not None:
        return beams.clamp(min=0).long()  # -1 after the end of a beam
    rows, length = output.sequences.shape
    return torch.arange(rows, device=output.sequences.device)[:, None].expand(-1, length)


def chosen_from(output: Any) -> Tensor:
    """(sequences, tokens, width): the last layer's state that each new token was chosen from, which is the state of the token
    before it. Raises ValueError for an output without hidden states, or whose prompt was given as ids."""
    if not getattr(output, "hidden_states", None):
        raise ValueError(
            "the output has no hidden states: leave return_dict_in_generate and output_hidden_states as they are"
        )
    length = output.sequences.shape[1]
    if length > len(output.hidden_states):
        raise ValueError(
            f"{length} ids of {len(output.hidden_states)} steps: give the prompt as prepare does, not as ids"
        )
    last = torch.stack([step[-1][:, -1] for step in output.hidden_states])
    return last[torch.arange(length, device=last.device), hidden_rows(output)]
