// Pictures as the clients get them, and what the conversation of expected.json has to give.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { PNG } from "pngjs";

export const URL = process.env.LIMNER_URL;
const folder = process.env.LIMNER_EXPECTED;
const expected = JSON.parse(readFileSync(join(folder, "expected.json"), "utf-8"));
export const { first: FIRST, second: SECOND, question: QUESTION, seed } = expected;

// The file of an expected reply's picture.
export const path = (name) => join(folder, `${name}.png`);

// The words of an expected reply.
export const text = (name) => expected.replies[name].text;

// An expected reply's picture as a data URI.
export const dataUri = (name) => `data:image/png;base64,${readFileSync(path(name)).toString("base64")}`;

// The bytes of base64, of a data URI or of an address of the server.
export async function bytes(picture) {
  if (typeof picture !== "string") return Buffer.from(picture);
  if (picture.startsWith(URL)) return Buffer.from(await (await fetch(picture)).arrayBuffer());
  return Buffer.from(picture.split(",").at(-1), "base64");
}

// Whether a picture is, pixel for pixel, that of the expected reply `name`, of the conversation read anew or continued.
export async function same(picture, name) {
  const got = PNG.sync.read(await bytes(picture));
  const forms = readdirSync(folder).filter((file) => file.startsWith(name) && file.endsWith(".png"));
  return forms.some((file) => {
    const wanted = PNG.sync.read(readFileSync(join(folder, file)));
    return got.width === wanted.width && got.height === wanted.height && got.data.equals(wanted.data);
  });
}

// Whether a picture is that of the expected reply `name` as far as one drawn in company is: at 45 dB or more.
export async function close(picture, name) {
  const [got, wanted] = [PNG.sync.read(await bytes(picture)).data, PNG.sync.read(readFileSync(path(name))).data];
  if (got.length !== wanted.length) return false;
  const squares = wanted.reduce((sum, value, index) => sum + (value - got[index]) ** 2, 0);
  return squares / ((wanted.length * 3) / 4) <= 255 ** 2 / 10 ** 4.5;
}

// Of a reply whose one picture is a link in Markdown: the words, and the picture's address.
export function wordsAndLink(content) {
  const [, words, picture] = content.match(/^(.*?)\s*!\[picture\]\(([^)]+)\)\s*$/s);
  return { words, picture };
}
