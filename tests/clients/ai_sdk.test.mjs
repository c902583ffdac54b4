// The AI SDK: by @ai-sdk/openai, whose Responses interface knows pictures, and by @ai-sdk/openai-compatible, which keeps a
// chat's words alone: there a picture comes as a link in them.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage, generateText, streamText } from "ai";

import { FIRST, path, QUESTION, same, SECOND, seed, text, URL, wordsAndLink } from "./pictures.mjs";

// the SDK has no place for the seed of a response: it is added to the body on its way
const seeded = (url, request) => fetch(url, { ...request, body: JSON.stringify({ ...JSON.parse(request.body), seed }) });

const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey: "none", fetch: seeded });
const compatible = createOpenAICompatible({
  name: "limner", baseURL: `${URL}/v1`, apiKey: "none", headers: { "X-Limner-Picture-Format": "markdown" },
});
const draws = { model: openai("nano"), tools: { image_generation: openai.tools.imageGeneration() } };

const user = (content) => ({ role: "user", content });
const picture = (results) => results.find((result) => result.toolName === "image_generation").output.result;

test("responses: the second picture is made from the first", async () => {
  const first = await generateText({ ...draws, prompt: FIRST });
  assert.equal(first.text.trim(), text("first"));
  assert.ok(await same(picture(first.staticToolResults), "first"));
  const messages = [user(FIRST), ...first.response.messages, user(SECOND)];
  const second = await generateText({ ...draws, messages });
  assert.equal(second.text.trim(), text("second"));
  assert.ok(await same(picture(second.staticToolResults), "second"));
});

test("responses in a stream: the second picture is made from the first", async () => {
  const messages = [user(FIRST)];
  for (const name of ["first", "second"]) {
    const stream = streamText({ ...draws, messages });
    let words = "";
    for await (const piece of stream.textStream) words += piece;
    assert.equal(words.trim(), text(name));
    assert.ok(await same(picture(await stream.staticToolResults), name));
    messages.push(...(await stream.response).messages, user(SECOND));
  }
});

test("chat by the compatible provider: words, and a picture of the user's", async () => {
  const asked = [user([{ type: "image", image: readFileSync(path("first")) }, { type: "text", text: QUESTION }])];
  const options = { model: compatible("nano"), messages: asked, seed };
  assert.equal((await generateText(options)).text, text("described"));
  let words = "";
  for await (const piece of streamText(options).textStream) words += piece;
  assert.equal(words, text("described"));
});

test("chat by the compatible provider: the second picture is made from the first", async () => {
  const messages = [user(FIRST)];
  for (const name of ["first", "second"]) {
    const reply = await generateText({ model: compatible("nano"), messages, seed });
    const { words, picture } = wordsAndLink(reply.text);
    assert.equal(words, text(name));
    assert.ok(await same(picture, name));
    messages.push(...reply.response.messages, user(SECOND));
  }
});

test("images by the compatible provider: the second picture is made from the first", async () => {
  const model = compatible.imageModel("nano");
  const first = await generateImage({ model, prompt: FIRST, providerOptions: { limner: { seed } } });
  assert.ok(await same(first.image.uint8Array, "first"));
  const second = await generateImage({
    model, prompt: { text: SECOND, images: [first.image.uint8Array] }, providerOptions: { limner: { seed } },
  });
  assert.ok(await same(second.image.uint8Array, "edited"));
});
