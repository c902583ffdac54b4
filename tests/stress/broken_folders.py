"""Changes of a model's or an adapter's folder that mean harm or happen by accident, made from a `Random`.

Each takes a folder whose files are links to sound ones, so it writes a file anew and never into one. It returns whether
what it leaves can only be refused.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

NEW_CODE = "limner_evil"
"""Part of every name of code that must never run"""
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 10**6, 10**30, -(10**30), 0.5, -0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        "abc",
        "../../evil",
        "/etc/passwd",
        "\x1b[31mred",
        "a\nb",
        "x" * 10**5,
        [],
        {},
        [[]],
        [None],
        {"a": 1},
        [1, 2, 3],
    ),
)


def write(path: Path, data: str | bytes) -> None:
    """In place of a link, never through it."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


def a_json(folder: Path, rng: Random) -> Path:
    """A file of keys and values, those that are read by many as often as the tokenizer's."""
    return rng.choice(files(folder, ".json"))


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of everything within a JSON value; of long lists and tables only a beginning."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys[:60]:
            yield from places(value[key], (*path, key))


def json_value(folder: Path, rng: Random) -> bool:
    """One value, at any depth, is another."""
    path = a_json(folder, rng)
    whole = values = json.loads(path.read_text())
    *above, key = rng.choice(list(places(values)))
    for step in above:
        values = values[step]
    values[key] = rng.choice(VALUES)
    write(path, json.dumps(whole))
    return False


OURS = (
    "config.json",
    "generation_config.json",
    "mmdit/config.json",
    "adapter/config.json",
    "limner.json",
    "limner_adapter.json",
)


def json_key(folder: Path, rng: Random) -> bool:
    """A key goes, comes or is called otherwise."""
    path = a_json(folder, rng)
    values = json.loads(path.read_text())
    key, kind = rng.choice(sorted(values)), rng.choice(("gone", "new", "renamed"))
    old = values.pop(key) if kind != "new" else 1
    if kind != "gone":
        values[rng.choice(("colour", "../x", "", "__class__", "self", "\x1b[2J", "trust_remote_code", f"{key} "))] = old
    write(path, json.dumps(values))
    name = str(path.relative_to(folder))
    own = name in ("config.json", "generation_config.json") or name.endswith(OURS[2:])
    return own and kind != "gone"


def json_text(folder: Path, rng: Random) -> bool:
    """What is no JSON, or more of it than anybody reads."""
    path = a_json(folder, rng)
    text = path.read_text()
    made = (
        text[: rng.randrange(len(text))],
        *("", "[" * 10**5, '{"a":' * 10**5, "[]", "null", "3", '"x"', text.replace(":", ": NaN,", 1), "\ufeff" + text,
          text.encode("utf-16")),
        *(f'{{"model_type": "limner", "num_queries": {"9" * 5000}}}', text[:-2] + f', "a": {"9" * 10**5}}}',
          b"\xff\xfe\x00", text + text),
        *("{" + '"a": "' + "x" * 10**7 + '"}', text.replace("{", "{" + '"a": 1, ' * 10**5, 1)),
    )  # fmt: skip
    write(path, rng.choice(made))
    return False


def header(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def weights_header(folder: Path, rng: Random) -> bool:
    """A header that lies: names, types, shapes, places and its own length."""
    path = rng.choice(files(folder, ".safetensors"))
    table, body = header(path)
    names = [name for name in table if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    begin, end = table[name]["data_offsets"]
    kind = rng.randrange(14)
    length = None
    if kind == 0:
        table[name]["shape"] = rng.choice(
            ([], [10**6, 10**6], [2**63], [-1], ["a"], [0], table[name]["shape"] * 2, "4", None)
        )
    elif kind == 1:
        table[name]["dtype"] = rng.choice(("F64", "I8", "U8", "BOOL", "F8_E4M3", "evil", 3, None, "C64", ""))
    elif kind == 2:
        table[name]["data_offsets"] = rng.choice(
            ([begin, end + 1], [end, begin], [0, 0], [-1, end], [begin, 2**62], [0.5, 1], [begin], None)
        )
    elif kind == 3:
        table[name]["data_offsets"] = table[other]["data_offsets"] if other != name else [0, 2**40]
    elif kind == 4:
        del table[name]
    elif kind == 5:
        table[rng.choice(("../../evil", "", "\x1b[31m", "llm.evil.weight", "a" * 10**5))] = table.pop(name)
    elif kind == 6:
        table["evil"] = {"dtype": "U8", "shape": [0], "data_offsets": [end, end]}
    elif kind == 7:
        table["__metadata__"] = rng.choice(
            ({"format": "pickle"}, {"format": "evil"}, {"format": 3}, [], "pt", {"a": "x" * 10**6})
        )
    elif kind == 8:
        length = rng.choice((0, 1, 7, 2**31, 2**60, 2**64 - 1))
    elif kind == 9:
        body = body[: rng.randrange(len(body))]
    elif kind == 10:
        body += bytes(rng.choice((1, 10**6)))
    elif kind == 11:
        table = rng.choice(({}, [], {"__metadata__": {}}, {"a": {}}, "x"))
    elif kind == 12:
        write(path, pickle.dumps(Evil(folder)))
        return True
    text = json.dumps(table).encode() if kind != 13 else b"[" * 10**6
    write(path, struct.pack("<Q", len(text) if length is None else length) + text + body)
    return kind in (4, 5, 6, 8, 9, 10, 11, 13)


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.mark = str(folder / f"{NEW_CODE}_ran")

    def __reduce__(self):
        return open, (self.mark, "w")


def pickles(folder: Path, rng: Random) -> bool:
    """Pickles of every name that anybody loads, beside the weights or in their place."""
    weights = rng.choice(files(folder, ".safetensors"))
    for name in (
        "pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "model.bin",
        "adapter_model.bin",
        "model.pt",
        "training_args.bin",
    ):
        write(weights.parent / name, pickle.dumps({"x": Evil(folder)}))
    instead = rng.random() < 0.7
    if instead:
        remove(weights)
        if rng.random() < 0.5:
            write(
                weights.with_name(f"{weights.stem}.bin.index.json"),
                json.dumps({"weight_map": {"x": "pytorch_model.bin"}}),
            )
    return instead


def code(folder: Path, rng: Random) -> bool:
    """Configurations that name code, which lies beside them."""
    config = rng.choice(
        [p for p in files(folder, ".json") if p.name in ("config.json", "tokenizer_config.json", "adapter_config.json")]
    )
    for place in {config.parent, folder}:
        write(place / f"{NEW_CODE}.py", f"open({str(folder / (NEW_CODE + '_ran'))!r}, 'w')\nclass Model: pass\n")
    values = json.loads(config.read_text())
    reference = rng.choice((f"{NEW_CODE}.Model", f"owner/name--{NEW_CODE}.Model"))
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
    made = (
        {"auto_map": dict.fromkeys(classes, reference)},
        {"auto_map": dict.fromkeys(classes, reference), "trust_remote_code": True, "model_type": NEW_CODE},
        {"attn_implementation": f"owner/{NEW_CODE}"},
        {"_attn_implementation": f"kernels-community/{NEW_CODE}:run"},
        {"_attn_implementation_internal": f"owner/{NEW_CODE}"},
        {"experts_implementation": f"owner/{NEW_CODE}"},
        {"quantization_config": {"quant_method": NEW_CODE}},
        {"_class_name": [NEW_CODE, "Model"]},
        {"_class_name": f"{NEW_CODE}.Model"},
        {"tokenizer_class": f"{NEW_CODE}.Model"},
        {"custom_pipelines": {"x": {"impl": f"{NEW_CODE}.Model"}}},
        {"text_config": {"auto_map": dict.fromkeys(classes, reference)}},
        {"megatron_config": {"a": 1}, "megatron_core": NEW_CODE},
        {"auto_mapping": {"base_model_class": "Model", "parent_library": NEW_CODE}},
        {
            "runtime_config": {"ephemeral_gpu_offload": True},
            "loftq_config": {"loftq_bits": 4},
            "init_lora_weights": "loftq",
        },
    )
    write(config, json.dumps(values | rng.choice(made)))
    return False


def links(folder: Path, rng: Random) -> bool:
    """Links, pipes, devices and folders in the place of files."""
    path = rng.choice([*files(folder, ".json"), *files(folder, ".safetensors"), *files(folder, ".jinja")])
    remove(path)
    kind = rng.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(("/dev/zero", "/etc/passwd", path.name, "/nowhere/at/all")[kind - 2])
    return path.suffix == ".safetensors" or path.name == "config.json"


def indices(folder: Path, rng: Random) -> bool:
    """An index of weights that names files elsewhere, files that are none and none at all."""
    weights = rng.choice(files(folder, ".safetensors"))
    outside = folder.parent / "outside.safetensors"
    shutil.copyfile(weights, outside)
    names = [name for name in header(weights)[0] if name != "__metadata__"]
    if rng.random() < 0.8:
        remove(weights)
    target = rng.choice((
        "../outside.safetensors", "../../outside.safetensors", str(outside), "/etc/passwd", "~/x", "", ".", "..",
        "x\0y", 3, None,
        ["a"], "pytorch_model.bin", "https://127.0.0.1/x", "C:\\x", weights.name, "a" * 5000,
    ))  # fmt: skip
    index: Any = {
        "metadata": {"total_size": rng.choice((1, -1, "x", 10**30))},
        "weight_map": dict.fromkeys(names, target),
    }
    index = rng.choice((index, index, index, {"weight_map": []}, {}, [], {"weight_map": {names[0]: target}}))
    write(weights.with_name(f"{weights.name}.index.json"), json.dumps(index))
    return not weights.exists() and target != weights.name


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch /tmp/limner_evil_ran') }}{{ messages[0].content }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('id') }}",
    "{{ messages.append({'role': 'user', 'content': 'x'}) }}{{ messages[0].content }}",
    "{{ raise_exception.__globals__ }}{{ messages[0].content }}",
    "{{ strftime_now.__globals__ }}{{ messages[0].content }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{{ ('%s' * 10) | format(1) }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}{{ messages[0].content }}",
    *("{{ 1 / 0 }}", "{{ 'a' | int(base='x') }}", "{{ nothing.at.all }}", "{% for %}", "{{", "", " ", "{{ messages }}"),
    *(
        "{{ messages[0].content[:3] }}",
        "{{ messages[0].content | upper }}",
        "{{ messages[99].content }}",
        "{{ namespace(1) }}",
    ),
    *("{{ range(10**9) }}", LOOP, LOOP + "{{ messages[0].content }}", "{{ 'a' * 10**11 }}", "{{ 10 ** 10 ** 8 }}"),
    *(
        "{{ 'x' | center(10**11) }}",
        "{{ '%099999999999d' % 1 }}",
        "{{ range(99999) | list * 99999 }}",
        "{{ [1] * 10**10 }}",
    ),
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + "{# "
    + "x" * 10**6
    + " #}",
    *(
        "{% if 1 %}" * 200 + "{% endif %}" * 200,
        "(" * 10**5,
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
        "{{ " + "-" * 10**4 + "1 }}",
    ),
)


def templates(folder: Path, rng: Random) -> bool:
    """Chat templates that try to get out, or never end."""
    template = rng.choice(TEMPLATES)
    if rng.random() < 0.7:
        write(folder / "chat_template.jinja", template)
    else:
        remove(folder / "chat_template.jinja")
        config = folder / "tokenizer_config.json"
        odd = rng.choice(
            (template, [{"name": "default", "template": template}], {"default": template}, 3, [template], None)
        )
        write(config, json.dumps(json.loads(config.read_text()) | {"chat_template": odd}))
    return False


def tokenizers(folder: Path, rng: Random) -> bool:
    """Patterns that take for ever, added tokens that are empty or twice there, parts of no known kind."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    slow = {
        "type": "Split",
        "pattern": {"Regex": rng.choice(("(a+)+$", "(a*)*b", "((a|a)*)*c", "(.*)*x", "(", "[", "\\"))},
        "behavior": "Isolated",
        "invert": False,
    }
    made = (
        {"pre_tokenizer": slow},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [slow, values["pre_tokenizer"]]}},
        {"normalizer": {"type": "Replace", "pattern": slow["pattern"], "content": "a" * 10**4}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "<img>"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": rng.choice(("", "AAAA", "!!", "A" * 10**5))}},
        {"normalizer": {"type": "Evil"}},
        {"decoder": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
        {"added_tokens": values["added_tokens"] + values["added_tokens"][:1]},
        {"added_tokens": [*values["added_tokens"], {**values["added_tokens"][0], "id": 10**9, "content": "x"}]},
        {"added_tokens": [*values["added_tokens"], {**values["added_tokens"][0], "id": 9999, "content": rng.choice(("",
        " ", "a", "\n"))}]},
        {"added_tokens": [{**token, "content": "<img>"} for token in values["added_tokens"]]},
        {"added_tokens": values["added_tokens"][: rng.randrange(len(values["added_tokens"]))]},
        {"truncation": {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
        {"model": {**values["model"], "vocab": rng.choice(({}, [], {"a": -1}, {"a": 2**31}, {"a": 0, "b": 0}))}},
        {"model": {**values["model"], "merges": rng.choice(([["a"]], ["x y z"], [["nothing", "here"]], None, "ab"))}},
        {"model": {"type": rng.choice(("Evil", "WordLevel", "Unigram", 3)), "vocab": [], "unk_id": 9}},
    )  # fmt: skip
    write(path, json.dumps(values | rng.choice(made)))
    return False


def sources(folder: Path, rng: Random) -> bool:
    """Parts that are said to be elsewhere."""
    part = rng.choice(("llm", "vision", "detokenizer/mmdit", "detokenizer/glyphs"))
    source = rng.choice(
        (
            "/etc",
            "../../..",
            "owner/name",
            "owner/../..",
            "/dev",
            "~",
            "",
            ".",
            "..",
            3,
            None,
            ["a"],
            {"a": 1},
            "a\0b",
            "x" * 5000,
            "\x1b[31m/x",
        )
    )
    keep = rng.random() < 0.3
    if not keep:
        remove(folder / part)
    write(
        folder / part / "source.json",
        json.dumps({"source": source} | rng.choice(({}, {"max_references": rng.choice(VALUES)}, {"evil": 1}))),
    )
    return True


MODEL_CHANGES = {
    change.__name__: change
    for change in (json_value, json_key, json_text, weights_header, pickles, code, links, indices, templates, tokenizers, sources)
}  # fmt: skip
