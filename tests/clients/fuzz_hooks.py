"""What schemathesis would not find out of the OpenAPI document: the model's name and what a picture is. And limits, since one
request of a thousand steps would take the time of a thousand requests."""

import zlib

import schemathesis

from pictures import data_uri

LIMITS = {"num_inference_steps": 3, "n": 2, "max_tokens": 24, "max_completion_tokens": 24, "max_output_tokens": 24}
LIMITS |= {"max_images": 2, "partial_images": 3}


@schemathesis.hook
def map_body(context, body):
    """Three of four bodies that name a model name ours, and three of four of their pictures are one."""
    return helped(body) if isinstance(body, dict) and isinstance(body.get("model"), str) else body


def often(value: object) -> bool:
    """True for three of four values, always the same ones."""
    return zlib.crc32(repr(value).encode("utf-8", "replace")) % 4 > 0


def helped(value, key=None):
    if isinstance(value, dict):
        return {name: helped(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [helped(part, key) for part in value]
    if isinstance(value, str) and often(value):
        if key == "model":
            return "nano"
        if key in ("url", "image_url", "b64_json", "result"):
            return data_uri("first")
        if key == "size":
            return "64x64"
    if isinstance(value, int) and not isinstance(value, bool) and key in LIMITS and often(value):
        return min(value, LIMITS[key])
    return value
