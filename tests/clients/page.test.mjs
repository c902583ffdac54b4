// The page at /ui as people use it: what they do, and what the model has said and drawn then.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { PNG } from "pngjs";

import { URL, launch, shot, visiting } from "./browser.mjs";
import { FIRST, QUESTION, SECOND, close, path, same, seed, text } from "./pictures.mjs";

const WITHIN = 60_000; // of milliseconds, on a machine that has much else to do
let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

const box = (page) => page.locator("#box textarea");
const last = (page, selector) => page.locator(`#chat ${selector}`).last();

// The page, with its parts there and the seed of the expected replies kept.
async function open(page, { own = true } = {}) {
  page.setDefaultTimeout(WITHIN);
  await page.goto(`${URL}/ui/`);
  await isEmpty(page);
  if (own) await settings(page, () => keepSeed(page));
}

async function settings(page, change) {
  await page.locator("#settings-button").click();
  await page.waitForSelector("#panel.open");
  await change();
  await page.locator("#panel .toggle-button").click();
  await page.waitForSelector("#panel:not(.open)");
}

async function keepSeed(page) {
  await page.locator("#seed input").fill(String(seed));
  await page.locator("#lock input").check();
}

// What is shown, in order: of each message who said it, its words and the names of its pictures, and which came first.
const messages = (page) =>
  page.evaluate(() =>
    [...document.querySelectorAll("#chat .message-row")].map((row) => ({
      who: row.classList.contains("user-row") ? "user" : "model",
      parts: [...row.querySelectorAll(".words, .picture")].map((part) =>
        part.matches(".words") ? part.innerText : { picture: part.value },
      ),
    })),
  );
const words = (message) => message.parts.filter((part) => typeof part === "string").join(" ");
const pictures = (message) => message.parts.filter((part) => part.picture).map((part) => part.picture);

const isEmpty = (page) => page.waitForSelector("#chat .example");

async function openPicture(page) {
  await last(page, ".picture").click();
  await page.waitForSelector("#picture[open]");
}

// What the dialog of a picture tells of it, by its titles.
const details = (page) =>
  page.evaluate(() =>
    Object.fromEntries([...document.querySelectorAll("#picture dt")].map((dt) => [dt.innerText, dt.nextSibling.innerText])),
  );

// Waits for the answer to the message of this number, from 1, and returns what is shown then.
async function answered(page, count) {
  await page.waitForFunction(
    (count) =>
      document.querySelectorAll("#chat .bot-row").length === count &&
      document.querySelector("#chat .message-row:last-child button[name=retry]") &&
      document.querySelector("#box .submit-button"),
    count,
  );
  return messages(page);
}

async function say(page, said, count) {
  await box(page).fill(said);
  await box(page).press("Enter");
  return answered(page, count);
}

// The file of a picture that is shown.
async function file(page, name) {
  const source = await page.locator(`#chat .picture[value="${name}"] img`).last().getAttribute("src");
  const reply = await page.request.get(`${URL}/ui/${source}`);
  assert.equal(reply.status(), 200);
  return reply.body();
}

// Pixel for pixel, or, after turns that left the model's cache in a state of their own, which rounds otherwise, in words.
async function looksLike(page, message, name, { exactly = true } = {}) {
  assert.equal(message.who, "model");
  assert.equal(words(message), text(name));
  assert.equal(pictures(message).length, 1);
  if (!exactly) return;
  assert.ok(await same(await file(page, pictures(message)[0]), name), `the picture is that of ${name}`);
}

const visit = (options, flow) => visiting(browser, options, flow);

test("draws, and edits the picture just drawn", () =>
  visit({}, async (page) => {
    await open(page);
    const [asked, drawn] = await say(page, FIRST, 1);
    assert.deepEqual(asked, { who: "user", parts: [FIRST] });
    await looksLike(page, drawn, "first");
    assert.deepEqual(drawn.parts.map((part) => typeof part), ["string", "object"], "the words came first");
    await page.waitForFunction(() => {
      const shown = [...document.querySelectorAll("#chat .picture img")].at(-1); // which the page may just have replaced
      return shown?.naturalWidth === 128 && shown.naturalHeight === 128;
    });
    const told = await last(page, ".picture img").getAttribute("alt");
    assert.ok(told.includes(text("first")), "the picture is told to who does not see it");
    const later = await say(page, SECOND, 2);
    assert.deepEqual(later.map(({ who }) => who), ["user", "model", "user", "model"]);
    await looksLike(page, later[3], "second");
    await shot(page, "page");
  }));

test("looks at a picture that is uploaded, and at several", () =>
  visit({}, async (page) => {
    await open(page);
    await page.locator("#box input[type=file]").first().setInputFiles(path("first"));
    await page.waitForSelector("#box .thumbnail-item img");
    const [asked, said] = await say(page, QUESTION, 1);
    assert.equal(pictures(asked).length, 1);
    assert.equal(words(said), text("described"));
    await page.locator("#box input[type=file]").first().setInputFiles([path("first"), path("second")]);
    await page.waitForFunction(() => document.querySelectorAll("#box .thumbnail-item img").length === 2);
    const later = await say(page, QUESTION, 2);
    assert.equal(pictures(later[2]).length, 2);
    assert.equal(pictures(later[2])[0], pictures(asked)[0], "the order is kept");
  }));

test("changes only what is marked", () =>
  visit({}, async (page) => {
    await open(page);
    const [, drawn] = await say(page, FIRST, 1);
    await openPicture(page);
    const canvas = await page.locator("#picture canvas").boundingBox();
    const at = (x, y) => [canvas.x + canvas.width * x, canvas.y + canvas.height * y];
    await page.mouse.move(...at(0.25, 0.25));
    await page.mouse.down();
    await page.mouse.move(...at(0.75, 0.75));
    await page.mouse.up();
    await page.locator("#change").fill("fill the grey part with a yellow banana");
    await page.locator("#picture .main").click();
    const [, , asked, edited] = await answered(page, 2);
    assert.equal(pictures(asked).length, 1, "the model was shown the picture with the hidden part");
    const [old, fresh] = await Promise.all(
      [pictures(drawn)[0], pictures(edited)[0]].map(async (name) => PNG.sync.read(await file(page, name))),
    );
    let [inside, outside] = [0, 0];
    for (let y = 0; y < 128; y += 1) {
      for (let x = 0; x < 128; x += 1) {
        const differs = [0, 1, 2].some((c) => old.data[4 * (128 * y + x) + c] !== fresh.data[4 * (128 * y + x) + c]);
        if (x > 29 && x < 98 && y > 29 && y < 98) inside += differs;
        else outside += differs && (x < 31 || x > 96 || y < 31 || y > 96);
      }
    }
    assert.ok(inside > 500, `${inside} pixels of the marked part changed`);
    assert.equal(outside, 0, "nothing else changed");
  }));

test("chooses among other answers, and makes variations of a picture", () =>
  visit({}, async (page) => {
    await open(page);
    const [, drawn] = await say(page, FIRST, 1);
    await page.locator("#chat button[name=more]").click();
    await page.waitForFunction(() => document.querySelectorAll("#chat button[name=choose]").length === 4);
    const offered = pictures((await messages(page))[1]);
    assert.equal(new Set(offered).size, 4);
    assert.ok(await close(await file(page, offered[0]), "first"), "the first has the seed that is kept");
    await page.locator("#chat button[name=choose]").nth(2).click();
    const [, chosen] = await answered(page, 1);
    assert.deepEqual(pictures(chosen), [offered[2]]);
    await openPicture(page);
    await page.locator("#picture button[name=variations]").click();
    await page.waitForFunction(() => document.querySelectorAll("#chat button[name=choose]").length === 4);
    await page.locator("#chat button[name=keep]").click();
    assert.deepEqual(pictures((await answered(page, 1))[1]), [offered[2]]);
    assert.notDeepEqual(pictures(drawn), pictures(chosen));
  }));

test("takes back, tries again and says an earlier message anew", () =>
  visit({}, async (page) => {
    await open(page);
    await say(page, FIRST, 1);
    await say(page, SECOND, 2);
    await page.locator("#chat button[name=undo]").click();
    assert.equal((await answered(page, 1)).length, 2);
    const [, , , edited] = await say(page, SECOND, 2);
    await looksLike(page, edited, "second", { exactly: false });
    await page.locator("#chat button[name=retry]").click();
    await page.waitForFunction((old) => document.querySelector(`#chat .picture[value="${old}"]`) === null, pictures(edited)[0]);
    const again = await answered(page, 2);
    assert.deepEqual(again.slice(0, 3).map(words), [FIRST, text("first"), SECOND]);
    await page.locator("#chat button[name=edit]").first().click();
    await page.waitForFunction((said) => document.querySelector("#box textarea").value === said, FIRST);
    await page.waitForSelector("#banner button");
    const anew = await say(page, "draw a blue car", 1);
    assert.deepEqual(anew.map(({ who }) => who), ["user", "model"]);
    assert.equal(words(anew[0]), "draw a blue car");
    assert.equal(await page.locator("#banner button").count(), 0);
  }));

test("tells how a picture was drawn, uses that again, takes it as a reference and downloads it", () =>
  visit({}, async (page) => {
    await open(page);
    await say(page, FIRST, 1);
    await openPicture(page);
    const { Prompt, Plan, Seed } = await details(page);
    assert.deepEqual([Prompt, Plan, Seed], [FIRST, text("first"), String(seed)]);
    const download = page.waitForEvent("download");
    await page.locator("#picture a[download]").click();
    const bytes = readFileSync(await (await download).path());
    assert.ok(await same(bytes, "first"));
    assert.ok(bytes.includes("parameters"), "the file says how it was drawn");
    await page.locator("#picture button[name=reference]").click();
    await page.waitForSelector("#box .thumbnail-item img");
    const later = await say(page, SECOND, 2);
    assert.equal(pictures(later[2]).length, 1);
    assert.ok(await same(await file(page, pictures(later[2])[0]), "first"));
    await page.locator("#new").click();
    await isEmpty(page);
    await settings(page, () => page.locator("#lock input").uncheck());
    await say(page, FIRST, 1);
    await openPicture(page);
    const own = await details(page);
    assert.notEqual(own.Seed, String(seed));
    await page.locator("#picture button[name=reuse]").click();
    await page.waitForFunction((said) => document.querySelector("#box textarea").value === said, FIRST);
    await box(page).press("Enter");
    await answered(page, 2);
    await openPicture(page);
    assert.deepEqual(await details(page), own);
  }));

test("shows the conversation again after a reload, and loads what it saved", () =>
  visit({}, async (page) => {
    await open(page);
    await say(page, FIRST, 1);
    await page.reload();
    const shown = await answered(page, 1);
    await looksLike(page, shown[1], "first");
    const download = page.waitForEvent("download");
    await page.locator("#save").click();
    const saved = join(mkdtempSync(join(tmpdir(), "limner-")), "conversation.zip");
    await (await download).saveAs(saved);
    await page.locator("#new").click();
    await isEmpty(page);
    assert.deepEqual(await messages(page), []);
    await page.locator("input[data-testid$=upload-button]").setInputFiles(saved);
    assert.deepEqual(await answered(page, 1), shown);
    await settings(page, () => keepSeed(page));
    await looksLike(page, (await say(page, SECOND, 2))[3], "second", { exactly: false });
  }));

test("shows a picture while it is painted, and stops", () =>
  visit({}, async (page) => {
    await open(page);
    await settings(page, () => page.locator("#steps input").fill("900"));
    await box(page).fill(FIRST);
    await box(page).press("Enter");
    await page.waitForFunction(() => document.querySelector("#chat .painting img[src^='data:']")?.naturalWidth === 128);
    const [done, steps] = await page.locator("#chat progress").evaluate((bar) => [bar.value, bar.max]);
    assert.equal(steps, 900);
    assert.ok(done >= 1 && done < 900, `${done} steps`);
    await page.keyboard.press("Escape");
    const [, cut] = await answered(page, 1);
    assert.deepEqual(cut.parts, [text("first")], "what was said stays, the picture that was not done does not");
    const measured = await (await page.request.get(`${URL}/metrics`)).text();
    assert.match(measured, /accepted[a-z_]* 0\.0/, "its place in the queue is free");
    await settings(page, () => page.locator("#steps input").fill(""));
    await page.locator("#chat button[name=undo]").click();
    await isEmpty(page);
    await looksLike(page, (await say(page, FIRST, 1))[1], "first", { exactly: false });
  }));

test("a tab that is closed frees its place", () =>
  visit({}, async (page) => {
    const other = await page.context().newPage();
    await open(other, { own: false });
    await settings(other, () => other.locator("#steps input").fill("900"));
    await box(other).fill(FIRST);
    await box(other).press("Enter");
    await other.waitForSelector("#chat .painting");
    await other.close();
    const accepted = async () => /accepted[a-z_]* (\d+)/.exec(await (await page.request.get(`${URL}/metrics`)).text())[1];
    const end = Date.now() + 5000; // 900 steps take longer
    while ((await accepted()) !== "0") assert.ok(Date.now() < end, "its picture is still painted");
  }));

test("works by keyboard alone", () =>
  visit({}, async (page) => {
    await open(page, { own: false });
    await page.waitForFunction(() => document.activeElement.matches("#box textarea"));
    await page.keyboard.type("draw a red");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("apple on grass");
    assert.equal((await messages(page)).length, 0, "Shift and Enter begin a line");
    await page.keyboard.press("Enter");
    const [asked] = await answered(page, 1);
    assert.deepEqual(asked.parts, ["draw a red\napple on grass"]);
    const reach = async (selector, key, most = 30) => {
      for (let i = 0; i < most; i += 1) {
        await page.keyboard.press(key);
        if (await page.evaluate((own) => document.activeElement.matches(own), selector)) return;
      }
      assert.fail(`${key} does not reach ${selector}`);
    };
    await reach("#chat .picture", "Shift+Tab");
    const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(ring, "solid", "the focus is seen");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.id === "change");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.activeElement.matches("#chat .picture"));
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.id === "change");
    await reach("#picture canvas", "Shift+Tab");
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("Shift+ArrowDown");
    await reach("#change", "Tab");
    await page.keyboard.type("fill the grey part with a yellow banana");
    await page.keyboard.press("Enter");
    const later = await answered(page, 2);
    assert.equal(pictures(later[2]).length, 1);
    assert.equal(pictures(later[3]).length, 1);
    await page.waitForFunction(() => document.activeElement.matches("#box textarea"));
    await reach("#settings-button", "Shift+Tab");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.closest("#panel.open"));
    await page.keyboard.press("Escape");
    await page.waitForSelector("#panel:not(.open)");
    await page.waitForFunction(() => document.activeElement.id === "settings-button");
    for (let i = 0; i < 40; i += 1) {
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.closest("#panel") === null), true, "the closed panel");
    }
  }));

test("fits a phone", () =>
  visit({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true }, async (page) => {
    const fits = async (what) => {
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= 390, `${what} is ${width} pixels wide`);
    };
    await open(page, { own: false });
    await fits("the empty page");
    const example = page.locator("#chat .example").first();
    assert.ok(await example.evaluate((button) => button.getBoundingClientRect().top > 0), "it begins at its top");
    await example.tap();
    await answered(page, 1);
    await fits("a reply");
    await last(page, ".picture").tap();
    const dialog = await page.locator("#picture").boundingBox();
    assert.ok(dialog.width <= 390);
    await page.locator("#picture .close").tap();
    await page.locator("#chat button[name=more]").tap();
    await page.waitForFunction(() => document.querySelectorAll("#chat button[name=choose]").length === 4);
    await fits("a choice");
    const choice = await last(page, ".choice").boundingBox();
    assert.ok(choice.x + choice.width <= 390);
    await page.locator("#settings-button").tap();
    await page.waitForSelector("#panel.open");
    await fits("the settings");
  }));

for (const [locale, placeholder, button, example] of [
  ["en-GB", "Ask for a picture, or show one …", "Retry", "draw a red apple on grass"],
  ["zh-CN", "想画什么？也可以放入图片……", "重试", "画一个草地上的红色苹果"],
  ["ko-KR", "그림을 부탁하거나 보여 주세요…", "다시 시도", "잔디 위에 있는 빨간 사과 그려 줘"],
]) {
  test(`speaks ${locale}`, () =>
    visit({ locale }, async (page) => {
      await open(page, { own: false });
      assert.equal(await box(page).getAttribute("placeholder"), placeholder);
      const first = page.locator("#chat .example").first();
      assert.equal(await first.innerText(), example);
      await first.click();
      const [asked, drawn] = await answered(page, 1);
      assert.equal(words(asked), example);
      assert.equal(pictures(drawn).length, 1);
      assert.equal(await page.locator("#chat button[name=retry]").innerText(), button);
    }));
}

test("two tabs do not mix", () =>
  visit({}, async (page) => {
    const other = await page.context().newPage();
    await Promise.all([open(page), open(other, { own: false })]);
    const [mine, theirs] = await Promise.all([say(page, FIRST, 1), say(other, "draw a blue car", 1)]);
    assert.equal(words(mine[0]), FIRST);
    assert.equal(words(theirs[0]), "draw a blue car");
    const [, , , edited] = await say(page, SECOND, 2);
    assert.match(words(edited), /apple/);
    await other.reload();
    assert.deepEqual(await answered(other, 1), theirs);
    const [, , , changed] = await say(other, SECOND, 2);
    assert.match(words(changed), /car/);
    assert.equal((await messages(page)).length, 4);
  }));

test("a picture of another conversation is not given out", () =>
  visit({}, async (page) => {
    await open(page);
    const [, drawn] = await say(page, FIRST, 1);
    const source = await last(page, ".picture img").getAttribute("src");
    const foreign = source.replace(/pictures\/[^/]+/, "pictures/another");
    assert.equal((await page.request.get(`${URL}/ui/${foreign}`)).status(), 404);
    assert.equal((await page.request.get(`${URL}/ui/${source.replace(pictures(drawn)[0], "0")}`)).status(), 404);
  }));
