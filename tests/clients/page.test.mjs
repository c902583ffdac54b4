// The page at /ui, as a person uses it: in Chromium, with the mouse, with a finger on 390 pixels, by the keyboard alone.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { PNG } from "pngjs";

import { launch, shot, URL, visiting } from "./browser.mjs";
import { bytes, FIRST, path, QUESTION, same, SECOND, seed, text } from "./pictures.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const box = (page) => page.locator("#box textarea");
const pictures = (page) => page.locator("#chat .picture img");
const button = (page, name) => page.locator(`#chat button[name=${name}]`);

// Opens the page and waits until it can be used.
async function open(page) {
  await page.goto(`${URL}/ui/`);
  await page.locator("#chat .example").first().waitFor();
}

// Keeps the seed that the expected replies have.
async function keepSeed(page) {
  await page.locator("#settings-button").click();
  await page.locator("#seed input").fill(String(seed));
  await page.locator("#lock input").check();
  await page.locator("#settings-button").click();
}

// Waits until the reply is there: only the last one can be tried again.
async function answered(page, count) {
  await page.waitForFunction((wanted) => {
    const loaded = [...document.querySelectorAll("#chat .picture img")].filter((image) => image.complete && image.naturalWidth);
    return loaded.length === wanted && document.querySelector("#chat button[name=retry]");
  }, count);
}

// Says something and waits for the reply; then there are so many pictures.
async function say(page, words, count) {
  await box(page).fill(words);
  await page.keyboard.press("Enter");
  await page.locator("#chat .words", { hasText: words }).last().waitFor();
  await answered(page, count);
}

const source = (page, index) => pictures(page).nth(index).evaluate((image) => image.src);
const isSame = async (page, index, name) => same(await source(page, index), name);
const lines = (page) => page.locator("#chat .words").allInnerTexts();

test("draw, and edit the picture just drawn", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await shot(page, "empty");
    await keepSeed(page);
    await say(page, FIRST, 1);
    await say(page, SECOND, 2);
    await shot(page, "edited");
    assert.deepEqual(await lines(page), [FIRST, text("first"), SECOND, text("second")]);
    assert.ok(await isSame(page, 0, "first"));
    assert.ok(await isSame(page, 1, "second"));
  }));

test("undo, a reload, an earlier message said otherwise", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await keepSeed(page);
    await say(page, FIRST, 1);
    await say(page, SECOND, 2);
    await button(page, "undo").click();
    await answered(page, 1);
    assert.deepEqual(await lines(page), [FIRST, text("first")]);
    await page.reload();
    await answered(page, 1);
    assert.ok(await isSame(page, 0, "first"));
    await button(page, "edit").first().click();
    await page.locator("#banner button").waitFor();
    assert.equal(await box(page).inputValue(), FIRST);
    await say(page, "draw a blue car", 1);
    assert.ok(!(await lines(page)).includes(FIRST));
  }));

test("upload a picture and have it described", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await page.locator("#box input[type=file]").setInputFiles(path("first"));
    await page.locator("#box .thumbnail-item, #box .thumbnails img").first().waitFor();
    await say(page, QUESTION, 1);
    await shot(page, "described");
    assert.deepEqual(await lines(page), [QUESTION, text("described")]);
  }));

test("what lies outside of the marked region stays", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await keepSeed(page);
    await say(page, FIRST, 1);
    await pictures(page).first().click();
    const place = await page.locator("dialog#picture canvas").boundingBox();
    await page.mouse.move(place.x, place.y);
    await page.mouse.down();
    await page.mouse.move(place.x + place.width, place.y + place.height / 2, { steps: 5 });
    await page.mouse.up();
    await shot(page, "marked");
    await page.locator("#change").fill(SECOND);
    await page.keyboard.press("Enter");
    await answered(page, 2);
    const [was, is] = await Promise.all([0, 1].map(async (index) => PNG.sync.read(await bytes(await source(page, index)))));
    const lower = (picture) => picture.data.subarray((picture.data.length * 3) / 4);
    assert.ok(lower(was).equals(lower(is)), "the lower quarter");
    assert.ok(!was.data.equals(is.data), "the marked half");
  }));

test("other answers, and one of them taken", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await say(page, FIRST, 1);
    await button(page, "more").click();
    await button(page, "choose").first().waitFor();
    await shot(page, "choices");
    const number = await button(page, "choose").count();
    assert.ok(number >= 2);
    await page.waitForFunction((wanted) => document.querySelectorAll("#chat .choice .picture img").length === wanted, number);
    const offered = await Promise.all([...Array(number).keys()].map((index) => source(page, index)));
    assert.equal(new Set(offered).size, number);
    await button(page, "choose").nth(1).click();
    await answered(page, 1);
    assert.equal(await source(page, 0), offered[1]);
  }));

test("a picture's dialog: how it was drawn, its options again, as a reference, variations, a download", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await keepSeed(page);
    await say(page, FIRST, 1);
    await pictures(page).first().click();
    const dialog = page.locator("dialog#picture");
    const told = await dialog.locator("dl").innerText();
    for (const each of [FIRST, text("first"), String(seed)]) assert.ok(told.includes(each), `${each}: ${told}`);
    await shot(page, "dialog");
    const [saved] = await Promise.all([page.waitForEvent("download"), dialog.locator("a[download]").click()]);
    assert.ok(await same(await readFile(await saved.path()), "first"));
    await dialog.locator("button[name=reuse]").click();
    await page.waitForFunction((said) => document.querySelector("#box textarea").value === said, FIRST);
    await pictures(page).first().click();
    await dialog.locator("button[name=reference]").click();
    await page.locator("#box .thumbnail-item, #box .thumbnails img").first().waitFor();
    await pictures(page).first().click();
    await dialog.locator("button[name=variations]").click();
    await button(page, "choose").first().waitFor();
    await button(page, "keep").click();
    await answered(page, 1);
    assert.ok(await isSame(page, 0, "first"));
  }));

test("save and load the conversation", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await keepSeed(page);
    await say(page, FIRST, 1);
    const [saved] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
    const file = join(process.env.LIMNER_SHOTS, "conversation.zip");
    await saved.saveAs(file);
    await page.locator("#new").click();
    await page.locator("#chat .example").first().waitFor();
    const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.locator("#load").click()]);
    await chooser.setFiles(file);
    await answered(page, 1);
    assert.deepEqual(await lines(page), [FIRST, text("first")]);
    assert.ok(await isSame(page, 0, "first"));
    await say(page, SECOND, 2);
    assert.ok(await isSame(page, 1, "second"));
  }));

test("a reply that is stopped comes to its end", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    await page.locator("#settings-button").click();
    await page.locator("#steps input").fill("1000");
    await page.locator("#settings-button").click();
    await box(page).fill(FIRST);
    await page.keyboard.press("Enter");
    await page.locator("#chat .painting progress").waitFor();
    await shot(page, "painting");
    await page.keyboard.press("Escape");
    await page.locator("#chat .painting").waitFor({ state: "detached" });
    await page.locator("#settings-button").click();
    await page.locator("#steps input").fill("");
    await page.locator("#settings-button").click();
    await say(page, FIRST, 1);
  }));

test("on a phone's width nothing lies beside the screen", () =>
  visiting(browser, PHONE, async (page) => {
    await open(page);
    await shot(page, "phone-empty");
    await say(page, FIRST, 1);
    await shot(page, "phone-drawn");
    const fits = () => page.evaluate(() => document.scrollingElement.scrollWidth <= innerWidth);
    assert.ok(await fits(), "the conversation");
    await pictures(page).first().tap();
    await page.locator("#change").fill(SECOND);
    await shot(page, "phone-dialog");
    assert.ok(await fits(), "the dialog");
    await page.locator("dialog#picture form button").tap();
    await answered(page, 2);
    await page.locator("#settings-button").tap();
    await page.locator("#seed input").waitFor();
    await shot(page, "phone-panel");
    assert.ok(await fits(), "the panel");
  }));

test("by the keyboard alone", () =>
  visiting(browser, {}, async (page) => {
    await open(page);
    // goes on with Tab, or backwards, until what has the focus fits
    const go = async (selector, key = "Tab") => {
      for (let press = 0; press < 60; press += 1) {
        if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
        await page.keyboard.press(key);
      }
      assert.fail(`${selector} cannot be reached`);
    };
    await page.waitForFunction(() => document.activeElement.matches("#box textarea"));
    await page.keyboard.type(FIRST);
    await page.keyboard.press("Enter");
    await answered(page, 1);
    await go("#box textarea");
    await go("#chat .picture", "Shift+Tab");
    await page.keyboard.press("Enter");
    await page.locator("dialog#picture").waitFor();
    await go("dialog#picture canvas", "Shift+Tab");
    await page.keyboard.press("ArrowDown");
    await go("#change");
    await page.keyboard.type(SECOND);
    await page.keyboard.press("Enter");
    await answered(page, 2);
    await go("#chat button[name=undo]", "Shift+Tab");
    await page.keyboard.press("Space");
    await answered(page, 1);
    await go("#settings-button", "Shift+Tab");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.closest("#panel.open"));
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.activeElement.id === "settings-button");
  }));

for (const [locale, drawn, asked] of [["zh-CN", "新对话", "画一个红苹果"], ["ko-KR", "새 대화", "빨간 사과를 그려 줘"]]) {
  test(`in ${locale}`, () =>
    visiting(browser, { locale }, async (page) => {
      await open(page);
      await page.locator("#new", { hasText: drawn }).waitFor();
      await say(page, asked, 1);
      await shot(page, locale);
    }));
}
