// Screenshots of the page for the documents, taken at LIMNER_URL into LIMNER_SHOTS: `python tests/clients/screenshots.py`.

import { URL, launch, shot } from "./browser.mjs";

const browser = await launch();

async function visit(options, flow) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  await page.goto(`${URL}/ui/`);
  await page.waitForSelector("#chat .example");
  await page.locator("#settings-button").click();
  await page.locator("#seed input").fill("4");
  await page.locator("#lock input").check();
  await page.locator("#panel .toggle-button").click();
  await page.waitForSelector("#panel:not(.open)");
  await page.mouse.move(5, 300);
  await flow(page, async (said, count) => {
    await page.locator("#box textarea").fill(said);
    await page.locator("#box textarea").press("Enter");
    await answered(page, count);
  });
  await context.close();
}

async function answered(page, count, what = "button[name=retry]") {
  await page.waitForFunction(
    ([count, what]) => document.querySelectorAll("#chat .bot-row").length === count && document.querySelector(`#chat ${what}`),
    [count, what],
  );
  await page.waitForFunction(() => [...document.querySelectorAll("#chat img")].every((img) => img.complete));
  await page.locator("#chat .bot-row").last().scrollIntoViewIfNeeded();
  await page.evaluate(() => document.querySelector("#chat .bubble-wrap").scrollTo(0, 1e6));
}

await visit({ viewport: { width: 960, height: 880 } }, async (page, say) => {
  await say("draw a blue car on grass", 1);
  await say("now make it yellow", 2);
  await shot(page, "page-chat");
});
await visit({ viewport: { width: 960, height: 720 }, colorScheme: "dark" }, async (page, say) => {
  await say("draw a blue car on grass", 1);
  await page.locator("#chat .picture").last().click();
  const place = await page.locator("#picture canvas").boundingBox();
  const at = (x, y) => [place.x + place.width * x, place.y + place.height * y];
  await page.mouse.move(...at(0.55, 0.06));
  await page.mouse.down();
  await page.mouse.move(...at(0.9, 0.38));
  await page.mouse.up();
  await page.locator("#change").fill("put a yellow kite there");
  await shot(page, "page-picture");
});
await visit({ viewport: { width: 390, height: 720 }, locale: "zh-CN" }, async (page, say) => {
  await say("画一个草地上的红色苹果", 1);
  await page.locator("#chat button[name=more]").click();
  await answered(page, 1, "button[name=choose]");
  await page.mouse.move(5, 40);
  await shot(page, "page-phone");
});
await browser.close();
