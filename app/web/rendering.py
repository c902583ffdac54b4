"""A conversation as HTML: the value of gradio's Chatbot, whose messages are shown as they are, without Markdown.

Whatever was said is escaped here, and gradio sanitizes it once more, which leaves no ARIA attributes. Buttons have their action
as ``name`` and what it is about as ``value``; page.js passes them on.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from ...inference.boxes import strip_boxes
from ...mllm.messages import Message
from .conversation import Conversation, LiveReply, Painting
from .examples import EXAMPLES, GROUPS, Example
from .texts import text

Part = str | Image.Image
ChatMessages = list[dict[str, str]]


def chat_messages(conversation: Conversation) -> ChatMessages:
    """All messages, with the turn that is being answered and the candidates that are to be chosen from."""
    live, candidates, chat = conversation.live, conversation.candidates, conversation.chat
    messages = chat.messages if live is None else chat.messages[: live.place]
    if candidates is not None and live is None:
        messages = messages[: candidates.place]
    open_end = live is not None or candidates is not None
    shown = [
        said(conversation, message, place, is_last=not open_end and place == len(messages) - 1)
        for place, message in enumerate(messages)
        if message["role"] != "system"
    ]
    if live is not None:
        shown.append(said(conversation, live.question))
        shown.append(bot("".join(choices(conversation, [living(conversation, reply) for reply in live.replies]))))
    elif candidates is not None:
        shown.append(said(conversation, chat.messages[candidates.place]))
        replies = ["".join(parts_html(conversation, reply.parts)) for reply in candidates.replies]
        shown.append(bot("".join(choices(conversation, replies, choosing=True))))
    return shown


def said(
    conversation: Conversation, message: Message, place: int | None = None, is_last: bool = False
) -> dict[str, str]:
    """A message; with its ``place`` it can be edited, the last reply tried again."""
    parts: list[Part] = [part.get("text", part.get("image")) for part in message["content"]]
    role = message["role"]
    html = parts_html(conversation, parts, drawn=role == "assistant")
    actions: list[str] = []
    if role == "user" and place is not None:
        actions = [button(conversation, "edit", place, "edit_message")]
    elif is_last and place:
        actions = [button(conversation, name, place - 1) for name in ("retry", "more", "undo")]
    if actions:
        html.append(f'<div class="acts">{"".join(actions)}</div>')
    return {"role": role, "content": "".join(html) or "<p></p>"}


def bot(html: str) -> dict[str, str]:
    return {"role": "assistant", "content": html}


def button(conversation: Conversation, name: str, value: object, label: str | None = None) -> str:
    """One that page.js passes on."""
    told = f' title="{text(label, conversation.language)}"' if label else ""
    return f'<button type="button" class="act" name="{name}" value="{value}"{told}>{text(name, conversation.language)}</button>'


def parts_html(conversation: Conversation, parts: Sequence[Part], drawn: bool = True) -> list[str]:
    """Words and pictures in their order; pictures that follow each other stand side by side."""
    html: list[str] = []
    words, row = "", False
    for part in parts:
        if isinstance(part, Image.Image):
            if drawn and words:
                label = text("drawn_picture", conversation.language, words=" ".join(words.split()))
            else:
                label = text("picture" if drawn else "shown_picture", conversation.language)
            html.append(("" if row else '<div class="pictures">') + picture_html(conversation, part, label))
            row = True
            continue
        if not (words := strip_boxes(part).strip()):
            continue
        html.append(("</div>" if row else "") + words_html(words))
        row = False
    return [*html, "</div>"] if row else html


def words_html(words: str) -> str:
    """Nothing in them is HTML; a line of its own for each of theirs."""
    return f'<p class="words">{"<br>".join(escape(line) for line in words.splitlines())}</p>'


def picture_html(conversation: Conversation, image: Image.Image, label: str) -> str:
    """A picture that can be opened."""
    source = f"pictures/{conversation.key}/{conversation.name(image)}.png"
    title = text("open_picture", conversation.language)
    return (
        f'<button type="button" class="picture" name="open" value="{conversation.name(image)}" title="{title}">'
        f'<img src="{source}" alt="{escape(label)}" width="{image.width}" height="{image.height}"></button>'
    )


def living(conversation: Conversation, reply: LiveReply) -> str:
    """A reply as far as it is there."""
    html = parts_html(conversation, reply.parts)
    if reply.painting is not None:
        html.append(painting_html(conversation, reply.painting))
    elif not reply.is_over and not reply.parts:
        html.append(f'<p class="waiting">{text("waiting", conversation.language)} …</p>')
    return "".join(html)


def painting_html(conversation: Conversation, painting: Painting) -> str:
    """A picture while it is painted, with how far it is."""
    height, width = painting.size
    label = text("painting", conversation.language)
    source = f' src="{sketch_uri(painting.image)}"' if painting.image is not None else ""
    return (
        f'<div class="pictures"><div class="painting"><img{source} alt="{label}" width="{width}" height="{height}">'
        f'<progress max="{painting.steps or 1}" value="{painting.step}" title="{label}"></progress></div></div>'
    )


def sketch_uri(image: Image.Image) -> str:
    """A small file of a picture that is shown for a moment."""
    small = image.copy()
    small.thumbnail((512, 512))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def choices(conversation: Conversation, replies: Sequence[str], choosing: bool = False) -> list[str]:
    """Several replies side by side, or the only one."""
    if len(replies) == 1 and not choosing:
        return list(replies)
    label = text("choices", conversation.language, n=len(replies))
    html = [f'<div class="choices" title="{label}">']
    for row, reply in enumerate(replies):
        take = button(conversation, "choose", row) if choosing else ""
        html.append(f'<div class="choice">{reply}{take}</div>')
    keep = f'<div class="acts">{button(conversation, "keep", "")}</div>' if choosing else ""
    return [*html, "</div>", keep]


def placeholder(language: str) -> str:
    """What an empty conversation shows: what the model can be asked for."""
    html = [f'<div class="welcome"><h2>{text("title", language)}</h2><p>{text("intro", language)}</p>']
    for group in GROUPS:
        own = [(index, example) for index, example in enumerate(EXAMPLES) if example.group == group]
        buttons = "".join(
            f'<li><button type="button" class="example" name="example" value="{index}">'
            f"{pictures_of(index, example)}{escape(example.said(language))}</button></li>"
            for index, example in own
        )
        html.append(f"<h3>{text(f'group_{group}', language)}</h3><ul>{buttons}</ul>")
    return "".join([*html, "</div>"])


def pictures_of(index: int, example: Example) -> str:
    """What is shown with an example; its words tell all that matters."""
    return "".join(
        f'<img src="examples/{index}/{n}.png" alt="" width="28" height="28">' for n in range(len(example.scenes))
    )
