"""An example as the model will see it, as text."""

from __future__ import annotations

import random
from functools import partial
from itertools import groupby

from ...detokenizer.files import printable
from ...inference.resizing import resize_to_shape
from ...mllm.encoding import StreamEncoder
from .example import CaptionedPicture, Example, open_picture, open_pictures

SHOWN_CHARACTERS = 2000


def preview(example: Example, encoder: StreamEncoder) -> str:
    """The example's tokens as text, the chat template's and the system prompt among them.

    A bracket stands for the tokens of a picture: whether it is seen or drawn, its size, and the size of the file's. The first
    line says where the example is from and how many tokens are learned. Raises ValueError for a picture that cannot be read.
    """
    sizes = [open_picture(source).size for source in example.pictures()]
    told = example.sample(random.Random(0), 1.0)
    encoded = encoder.encode(open_pictures(told, partial(resize_to_shape, config=encoder.config)), training=True)
    vocabulary, tokenizer = encoder.vocabulary, encoder.tokenizer
    slots, at = set(vocabulary.slots), {p.boi_index + 1: index for index, p in enumerate(encoded.pictures)}
    shown = ""
    for is_slot, run in groupby(enumerate(encoded.input_ids), key=lambda item: item[1] in slots):
        begin, ids = (found := list(run))[0][0], [token for _, token in found]
        if not is_slot:
            shown += tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        elif begin not in at:
            shown += "[tile]"
        else:
            picture, (width, height) = encoded.pictures[at[begin]], sizes[at[begin]]
            size = f"{picture.image.width} x {picture.image.height}"
            made = "" if size == f"{width} x {height}" else f" of {width} x {height}"
            shown += f"[a picture {'drawn' if picture.drawn else 'seen'}, {size}{made}]"
    learned = sum(label >= 0 for label in encoded.labels)
    drawn = sum(picture.drawn for picture in encoded.pictures)
    title = (
        f"{example.where}: {len(encoded.input_ids)} tokens, {learned} learned, {drawn} of {len(sizes)} pictures drawn"
    )
    if isinstance(example, CaptionedPicture):
        title += "; in another round it is asked for in other words, or described"
    more = len(shown) - SHOWN_CHARACTERS
    body = shown[:SHOWN_CHARACTERS] + (f" … {more} more characters" if more > 0 else "")
    return "\n    ".join(map(printable, [title, *body.rstrip("\n").split("\n")]))
