"""Eight users at once who chat in streams, draw, describe and continue; a failed request or a broken stream fails the run.

How long the first word of a stream took is listed as "first word".
"""

import json
import time

from locust import HttpUser, between, task

from pictures import FIRST, QUESTION, SECOND, data_uri


class Person(HttpUser):
    wait_time = between(0.2, 1.0)

    @task(3)
    def chat(self):
        self.stream([{"role": "user", "content": FIRST}])

    @task(1)
    def describe(self):
        picture = {"type": "image_url", "image_url": {"url": data_uri("first")}}
        self.stream([{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}])

    @task(1)
    def draw(self):
        self.client.post("/v1/images/generations", json={"model": "nano", "prompt": FIRST, "n": 2})

    @task(1)
    def continue_a_response(self):
        asked = {"model": "nano", "tools": [{"type": "image_generation"}]}
        first = self.client.post("/v1/responses", json=asked | {"input": FIRST}).json()
        self.client.post("/v1/responses", json=asked | {"input": SECOND, "previous_response_id": first["id"]})

    def stream(self, messages):
        begun, first_word = time.monotonic(), None
        body = {"model": "nano", "messages": messages, "stream": True}
        with self.client.post("/v1/chat/completions", json=body, stream=True, catch_response=True) as reply:
            data = None
            for line in reply.iter_lines(chunk_size=1):
                if not line.startswith(b"data: ") or (data := line[6:]) == b"[DONE]":
                    continue
                delta = json.loads(data)["choices"][0]["delta"]
                if delta.get("content") and first_word is None:
                    first_word = time.monotonic() - begun
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}")
            elif data != b"[DONE]":
                reply.failure("the stream broke off")
        self.environment.events.request.fire(
            request_type="SSE",
            name="first word",
            response_time=1000 * (first_word or 0),
            response_length=0,
            exception=None,
        )
