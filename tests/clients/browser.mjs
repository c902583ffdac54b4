// A Chromium for the tests of the page: every request is recorded, and one to another host fails the test.

import assert from "node:assert/strict";
import { join } from "node:path";

import { chromium } from "playwright-core";

export const URL = process.env.LIMNER_URL;
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";

// Launches the browser: headless, without what Chromium asks of its maker's hosts.
export const launch = () =>
  chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-background-networking"] });

// Runs `visit(page)` in a fresh profile, then checks what went over the network and the console.
export async function visiting(browser, options, visit) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const foreign = [];
  const errors = [];
  // requests of workers and frames are the context's; a blob or a data URI leaves the machine as little as the server does
  context.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${URL}/`) && !/^(blob|data|about):/.test(url)) foreign.push(url);
  });
  page.on("websocket", (socket) => {
    if (!socket.url().startsWith(URL.replace("http", "ws"))) foreign.push(socket.url());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  try {
    await visit(page);
  } catch (error) {
    await shot(page, "failed");
    throw error;
  } finally {
    await context.close();
  }
  assert.deepEqual(foreign, [], "requests to other hosts");
  assert.deepEqual(errors, [], "errors of the page's scripts");
}

// Saves a screenshot under a name into the run's folder.
export const shot = (page, name) => page.screenshot({ path: join(process.env.LIMNER_SHOTS, `${name}.png`) });
