"""A saved chat: a line of JSON with the messages, and their pictures as PNG files beside it, called after the file.

``{"messages": [...], "chat": {...}}``: the messages are a training example and a prompt alike; ``chat`` is what else the next
reply depends on, and may be missing, as in a conversation that was written by hand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from ..mllm.messages import EmittedText, Message, normalize_messages
from ..mllm.picture_tokens import KEY as TOKENS_KEY
from ..mllm.picture_tokens import tokens_text
from .images import load_image
from .inputs import load_message_images
from .output import atomic_file, free_path, save_image, write_text
from .picture_metadata import KEY, read_metadata

logger = logging.getLogger(__name__)

FORMAT = 1
STATE_KEYS = ("format", "model", "fingerprint", "adapters", "options", "dropped", "forgotten", "token_ids")

MAX_ARCHIVE = 1 << 30
"""Bytes that the files of a zip archive may have"""

PictureFiles = dict[str, Path]
"""Of a chat's pictures, by `digest`"""


def digest(image: Image.Image) -> str:
    """Of a picture's size and pixels."""
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()


def normalized(messages: Sequence[Message], allow_urls: Sequence[str] = ()) -> list[Message]:
    """Messages with parts and pictures, whatever form they were given in. Pictures of replies go on saying how they were drawn.
    Raises ValueError for what is no message."""
    whole = [normalize_messages(load_message_images([message], allow_urls))[0] for message in messages]
    for message, own in zip(messages, whole, strict=True):
        if own["role"] == "assistant" and isinstance(message["content"], (list, tuple)):
            for given, part in zip(message["content"], own["content"], strict=True):
                image = given.get("image") if isinstance(given, Mapping) else given
                if isinstance(image, Image.Image) and KEY in image.info:
                    part["image"].info[KEY] = image.info[KEY]
    return whole


def write_chat(
    path: Path, messages: Sequence[Message], state: Mapping[str, Any], files: PictureFiles, metadata: bool = True
) -> PictureFiles:
    """Writes ``messages`` (`normalized`) and ``state``, with new files for pictures that have none in ``files`` or have lost it.
    Returns all of their files. When something cannot be written, what was there stays and nothing is added. ``metadata`` is that
    of `save_image`.

    Raises OSError for what cannot be written.
    """
    own: PictureFiles = {}
    lines, token_ids = [], []
    escaped = str(path.with_suffix("")).replace("{", "{{").replace("}", "}}")
    with ExitStack() as undo:
        for message in messages:
            content: list[dict[str, str]] = []
            ids: list[Sequence[int] | str | None] = []
            for part in message["content"]:
                if part["type"] == "text":
                    ids.append(getattr(part["text"], "ids", None))
                    content.append({"type": "text", "text": str(part["text"])})
                    continue
                ids.append(tokens_text(part["image"]))
                key = digest(part["image"])
                file = own.get(key) or files.get(key)
                if file is None or not file.exists():
                    file = free_path(f"{escaped}-{{:02d}}.png")
                    undo.callback(file.unlink, missing_ok=True)
                    save_image(part["image"], file, metadata)
                own[key] = file
                content.append({"type": "image", "image": file.name})
            lines.append({"role": message["role"], "content": content})
            token_ids.append(ids)
        chat = {"format": FORMAT, **state, "token_ids": token_ids}
        # numpy's numbers, which a seed may be, know their value as Python's
        text = json.dumps({"messages": lines, "chat": chat}, ensure_ascii=False, default=lambda number: number.item())
        write_text(path, text + "\n")
        undo.pop_all()
    return own


def write_archive(path: Path, messages: Sequence[Message], state: Mapping[str, Any], metadata: bool = True) -> None:
    """What `write_chat` writes as one zip archive. Raises OSError as it does."""
    with tempfile.TemporaryDirectory() as folder, atomic_file(path) as fresh:
        write_chat(Path(folder, f"{path.stem}.jsonl"), messages, state, {}, metadata)
        with zipfile.ZipFile(fresh, "w") as archive:
            for file in sorted(Path(folder).iterdir()):
                archive.write(file, file.name)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The ``.jsonl`` of a zip archive, with the pictures beside it, in a temporary folder. Raises ValueError for an archive that
    is no saved chat; errors of the body about that file name the archive."""
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            chats = [name for name in names if name.endswith(".jsonl")]
            if len(chats) != 1 or any(
                Path(name).name != name or "\\" in name or entry.is_dir()
                for name, entry in zip(names, entries, strict=True)
            ):
                raise ValueError(f"{path} is no saved chat: expected one .jsonl with its pictures, and no folders")
            if (size := sum(entry.file_size for entry in entries)) > MAX_ARCHIVE:
                raise ValueError(f"{path} unpacks to {size:,} bytes; a chat may have {MAX_ARCHIVE:,}")
            archive.extractall(folder)
            inner = Path(folder, chats[0])
            try:
                yield inner
            except ValueError as error:
                raise ValueError(str(error).replace(str(inner), str(path)).replace(folder, str(path))) from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:  # broken, encrypted
        raise ValueError(f"{path} is no saved chat: {error}") from None


def read_chat(path: Path) -> tuple[list[Message], dict[str, Any], PictureFiles]:
    """The messages with their pictures, the state that was saved with them (empty where there is none) and the pictures' files.

    Texts have their token ids as a list beside them, pictures what they say of their tokens, in ``state["token_ids"]``, for
    `with_ids`. Raises ValueError for a file that holds no conversation, pictures that are missing or broken, and paths that leave
    the file's folder.
    """
    try:
        # not splitlines: it also splits at characters that JSON leaves as they are, such as U+2028
        lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        saved = json.loads(lines[0]) if len(lines) == 1 else None
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a saved chat") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of 10,000 digits
        raise ValueError(f"{path} is no saved chat: {error}") from None
    if saved is None:
        raise ValueError(f"{path} is no saved chat: it has {len(lines)} lines; a chat is one line of JSON")
    if not isinstance(saved, dict) or not isinstance(saved.get("messages"), list) or set(saved) - {"messages", "chat"}:
        raise ValueError(f"{path} is no saved chat: expected the keys messages and chat")
    files: PictureFiles = {}
    messages = []
    for number, message in enumerate(saved["messages"]):
        try:
            messages += normalize_messages([with_pictures(message, path.parent, files)])
        except ValueError as error:
            raise ValueError(f"{path}, message {number}: {str(error).removeprefix('message 0: ')}") from None
    roles = [message["role"] for message in messages if message["role"] != "system"]
    systems = [i for i, message in enumerate(messages) if message["role"] == "system"]
    if systems not in ([], [0]) or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(
            f"{path} is no chat: a system message may come first, then user and assistant take turns and the assistant is last"
        )
    return messages, checked_state(saved.get("chat", {}), messages, path), files


def with_pictures(message: Any, folder: Path, files: PictureFiles) -> Any:
    """The message with its pictures loaded from ``folder``, whose files are noted. Raises ValueError as `read_chat` does."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    content = []
    for part in message["content"]:
        if not isinstance(part, dict) or set(part) not in ({"type", "text"}, {"type", "image"}):
            raise ValueError(f"a part of a chat is a text or a picture, not {part!r:.80}")
        if "image" in part:
            if not isinstance(name := part["image"], str):
                raise ValueError(f"a picture is named by its file, not by {name!r:.80}")
            windows = PureWindowsPath(name)
            if windows.drive or windows.root or ".." in (*windows.parts, *PurePosixPath(name).parts):
                raise ValueError(f"the picture {name!r} is not in the chat's own folder")
            file = folder / name
            image = load_image(file)
            files[digest(image)] = file
            if message.get("role") == "assistant":
                keep_metadata(image, file)
            part = {**part, "image": image}
        content.append(part)
    return {**message, "content": content}


def keep_metadata(image: Image.Image, file: Path) -> None:
    """Lets a picture that was loaded from a file say how it was drawn, as far as the file says anything that makes sense."""
    try:
        said = read_metadata(file)
    except ValueError as error:
        logger.info("%s", error)
    else:
        if said is not None:
            said.attach(image)


def checked_state(state: Any, messages: Sequence[Message], path: Path) -> dict[str, Any]:
    """Raises ValueError for what is no state of a chat of these messages."""
    if state == {}:
        return {}
    turns = len(messages) // 2
    good = (
        isinstance(state, dict)
        and set(state) == set(STATE_KEYS)
        and state["format"] == FORMAT
        and isinstance(state["model"], str)
        and isinstance(state["fingerprint"], str | None)
        and all(isinstance(state[name], dict) for name in ("adapters", "options"))
        and "callback" not in state["options"]
        and all(type(state[name]) is int and 0 <= state[name] <= turns for name in ("dropped", "forgotten"))
        and isinstance(state["token_ids"], list)
        and len(state["token_ids"]) == len(messages)
    )
    if not good:
        raise ValueError(
            f"{path} cannot be read: expected format {FORMAT} of a chat with the keys {', '.join(STATE_KEYS)}"
        )
    return state


def with_ids(message: Message, token_ids: Any, spells: Any) -> Message:
    """The message with the token ids that its texts were written in, as far as ``spells(ids, text)``: a text that was edited in
    the file counts as it is. Its pictures say what they are drawn by (`tokens_text`), which holds for their pixels alone."""
    content = message["content"]
    if not isinstance(token_ids, list) or len(token_ids) != len(content):
        return message
    for part, said in zip(content, token_ids, strict=True):
        if part["type"] == "image" and isinstance(said, str):
            part["image"].info[TOKENS_KEY] = said
    return {
        "role": message["role"],
        "content": [
            {"type": "text", "text": EmittedText(part["text"], ids)}
            if part["type"] == "text" and isinstance(ids, list) and spells(ids, part["text"])
            else part
            for part, ids in zip(content, token_ids, strict=True)
        ],
    }
