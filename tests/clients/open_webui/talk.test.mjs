// A person signs up to Open WebUI, asks nano for a picture, has it edited, shows one of their own, and comes back later.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PNG } from "pngjs";

import { launch, shot } from "../browser.mjs";

const { OPEN_WEBUI_URL, LIMNER_URL } = process.env;
const drawn = (page) => page.locator(`img[src^="${LIMNER_URL}/pictures/"]`);

// Types a message and waits until the reply has come to its end.
async function say(page, words) {
  await page.locator("#chat-input").click();
  await page.keyboard.type(words);
  await page.keyboard.press("Enter");
  await page.waitForTimeout(300);
  await page.getByRole("button", { name: "Stop" }).waitFor({ state: "hidden", timeout: 60_000 });
}

// The pixels of the picture that was drawn last, when it has been loaded.
async function lastPicture(page, count) {
  await page.waitForFunction(
    ([start, wanted]) => {
      const found = [...document.querySelectorAll(`img[src^="${start}/pictures/"]`)];
      return found.length === wanted && found.every((image) => image.complete && image.naturalWidth > 0);
    },
    [LIMNER_URL, count],
    { timeout: 60_000 },
  );
  const address = await drawn(page).last().getAttribute("src");
  return PNG.sync.read(Buffer.from(await (await fetch(address)).arrayBuffer()));
}

// The share of pixels whose strongest channel is that one, by a margin; grass and sky are left out.
function share({ width, height, data }, channel) {
  let found = 0;
  for (let y = Math.round(height * 0.25); y < height * 0.75; y += 1) {
    for (let x = Math.round(width * 0.25); x < width * 0.75; x += 1) {
      const at = 4 * (y * width + x);
      const others = [0, 1, 2].filter((other) => other !== channel).map((other) => data[at + other]);
      if (data[at + channel] > Math.max(...others) + 60) found += 1;
    }
  }
  return found / (0.25 * width * height);
}

test("a person chats with nano in Open WebUI", async () => {
  const browser = await launch();
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  const foreign = [];
  context.on("request", (request) => {
    const url = request.url();
    if (![OPEN_WEBUI_URL, LIMNER_URL, "data:", "blob:"].some((start) => url.startsWith(start))) foreign.push(url);
  });
  try {
    await page.goto(OPEN_WEBUI_URL);
    await page.getByRole("button", { name: "Get started" }).click();
    await page.getByPlaceholder("Enter Your Full Name").fill("A Person");
    await page.getByPlaceholder("Enter Your Email").fill("person@example.com");
    await page.getByPlaceholder("Enter Your Password").fill("a-password");
    await page.locator("button[type=submit]").click();
    await page.getByRole("button", { name: "Okay, Let's Go!" }).click();
    await page.getByRole("button", { name: "Selected model: nano" }).waitFor();

    await say(page, "draw a red apple on a plain background");
    const red = await lastPicture(page, 1);
    await shot(page, "1-drawn");
    assert.ok(share(red, 0) > 0.3, `a red apple: ${share(red, 0)}`);

    await say(page, "make it green");
    const green = await lastPicture(page, 2);
    await shot(page, "2-edited");
    assert.ok(share(green, 1) > 0.3 && share(green, 0) < 0.1, `a green apple: ${share(green, 1)}, ${share(green, 0)}`);
    assert.match(await page.locator("body").innerText(), /The apple in green/);

    await page.reload();
    await lastPicture(page, 2);
    await shot(page, "3-came-back");
    await say(page, "make it blue");
    const blue = await lastPicture(page, 3);
    await shot(page, "4-went-on");
    assert.ok(share(blue, 2) > 0.3, `a blue apple: ${share(blue, 2)}`);

    await page.goto(OPEN_WEBUI_URL);
    await page.locator("input[type=file]").first().setInputFiles({
      name: "green.png", mimeType: "image/png", buffer: PNG.sync.write(green),
    });
    await page.waitForTimeout(2000);
    await say(page, "what do you see?");
    await page.getByText(/green apple/i).last().waitFor();
    await shot(page, "5-described");
  } catch (error) {
    await shot(page, "failed");
    throw error;
  } finally {
    await browser.close();
  }
  assert.deepEqual(foreign, [], "requests of the browser to other hosts");
});
