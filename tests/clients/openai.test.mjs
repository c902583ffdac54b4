// openai-node: chat, responses and images, and the stream of each.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { test } from "node:test";

import OpenAI from "openai";

import { FIRST, path, same, SECOND, seed, text, URL } from "./pictures.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "none" });
const tools = [{ type: "image_generation" }];

test("chat: the second picture is made from the first", async () => {
  const messages = [{ role: "user", content: FIRST }];
  for (const name of ["first", "second"]) {
    const reply = await client.chat.completions.create({ model: "nano", messages, seed });
    const message = reply.choices[0].message;
    assert.equal(message.content.trim(), text(name));
    assert.ok(await same(message.images[0].image_url.url, name));
    messages.push(message, { role: "user", content: SECOND });
  }
});

test("chat in a stream: the second picture is made from the first", async () => {
  const messages = [{ role: "user", content: FIRST }];
  for (const name of ["first", "second"]) {
    const message = { role: "assistant", content: "", images: [] };
    const stream = await client.chat.completions.create({ model: "nano", messages, seed, stream: true });
    for await (const chunk of stream) {
      const delta = chunk.choices[0].delta;
      message.content += delta.content ?? "";
      message.images.push(...(delta.images ?? []));
    }
    assert.equal(message.content.trim(), text(name));
    assert.ok(await same(message.images[0].image_url.url, name));
    messages.push(message, { role: "user", content: SECOND });
  }
});

test("responses: the second picture is made from the first", async () => {
  const first = await client.responses.create({ model: "nano", input: FIRST, tools, seed });
  const second = await client.responses.create({
    model: "nano", input: SECOND, tools, seed, previous_response_id: first.id,
  });
  for (const [response, name] of [[first, "first"], [second, "second"]]) {
    assert.deepEqual(response.output.map((item) => item.type), ["message", "image_generation_call"]);
    assert.equal(response.output_text.trim(), text(name));
    assert.ok(await same(response.output[1].result, name));
  }
});

test("responses in a stream", async () => {
  const stream = client.responses.stream({
    model: "nano", input: FIRST, tools: [{ ...tools[0], partial_images: 2 }], seed,
  });
  let words = "";
  let partial = 0;
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") words += event.delta;
    if (event.type === "response.image_generation_call.partial_image") partial += 1;
  }
  assert.equal(words.trim(), text("first"));
  assert.equal(partial, 2);
  const response = await stream.finalResponse();
  assert.ok(await same(response.output[1].result, "first"));
});

test("images: generate and edit", async () => {
  const drawn = await client.images.generate({ model: "nano", prompt: FIRST, seed });
  assert.ok(await same(drawn.data[0].b64_json, "first"));
  const edited = await client.images.edit({
    model: "nano", image: createReadStream(path("first")), prompt: SECOND, seed,
  });
  assert.ok(await same(edited.data[0].b64_json, "edited"));
});

test("images in a stream: generate and edit", async () => {
  const options = { model: "nano", seed, stream: true, partial_images: 1 };
  for (const [name, begin] of [
    ["first", () => client.images.generate({ ...options, prompt: FIRST })],
    ["edited", () => client.images.edit({ ...options, prompt: SECOND, image: createReadStream(path("first")) })],
  ]) {
    const events = [];
    for await (const event of await begin()) events.push(event);
    assert.deepEqual(events.map((event) => event.type.split(".")[1]), ["partial_image", "completed"]);
    assert.ok(await same(events.at(-1).b64_json, name));
  }
});

test("a mistake is refused by the field's name", async () => {
  await assert.rejects(
    client.images.generate({ model: "nano", prompt: FIRST, size: "1x1" }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "size",
  );
});

test("models", async () => {
  const models = await client.models.list();
  assert.deepEqual(models.data.map((model) => model.id), ["nano"]);
});
