// The page in headless Chromium, used as a person uses it: what it shows is what the native program computed.
//
//     node chromium.mjs SITE CASES SCREENSHOTS      (scripts/platforms web)

import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { check, report } from "./cases.mjs";

const [site, cases, screenshots] = process.argv.slice(2);
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

const server = http.createServer((request, response) => {
  const name = path.basename(new URL(request.url, "http://localhost").pathname) || "index.html";
  const file = path.join(site, name);
  if (!fs.existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": types[path.extname(name)] ?? "application/octet-stream" });
  fs.createReadStream(file).pipe(response);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const url = `http://127.0.0.1:${server.address().port}/`;

// ---- the browser, by its DevTools protocol

const profile = fs.mkdtempSync(path.join(os.tmpdir(), "samebits-chromium-"));
const flags = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", `--user-data-dir=${profile}`,
  "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--window-size=900,1250"];
const chromium = spawn("chromium", [...flags, "about:blank"], { stdio: ["ignore", "ignore", "pipe"] });
process.on("exit", () => { chromium.kill(); fs.rmSync(profile, { recursive: true, force: true }); });
const devtools = await new Promise((found, gone) => {
  let text = "";
  chromium.stderr.on("data", (data) => {
    text += data;
    const line = text.match(/DevTools listening on (ws:\S+)/);
    if (line) found(line[1]);
  });
  chromium.on("exit", () => gone(new Error(`Chromium ended:\n${text}`)));
});

const socket = new WebSocket(devtools);
await new Promise((open) => { socket.onopen = open; });
const waiting = new Map();
let id = 0, session;
socket.onmessage = ({ data }) => {
  const { id, result, error, method, params } = JSON.parse(data);
  if (method === "Runtime.exceptionThrown") console.log("the page throws:", params.exceptionDetails.exception?.description);
  if (id) waiting.get(id)(error ? Promise.reject(new Error(error.message)) : result);
};
const send = (method, params = {}) => new Promise((answer) => {
  waiting.set(++id, answer);
  socket.send(JSON.stringify({ id, method, params, sessionId: session }));
});
const { targetId } = await send("Target.createTarget", { url: "about:blank" });
session = (await send("Target.attachToTarget", { targetId, flatten: true })).sessionId;
await send("Runtime.enable");
await send("Page.enable");
const run = async (expression) => {
  const { result, exceptionDetails } = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
};
const sleep = (milliseconds) => new Promise((awake) => setTimeout(awake, milliseconds));

// ---- a person

const click = (selector) => run(`document.querySelector(${JSON.stringify(selector)}).click()`);
const type = (id, value) => run(`document.getElementById(${JSON.stringify(id)}).value = ${JSON.stringify(String(value))}`);
const text = (id) => run(`document.getElementById(${JSON.stringify(id)}).textContent`);

// Waits until the page has nothing to do; what it says then.
async function idle() {
  do await sleep(200); while (!(await run(`document.getElementById("stop").hidden`)));
  return text("doing");
}

// Chooses a file, or the built-in model, which is opened then.
async function choose(file) {
  if (!file) {
    await click("#builtin");
    return idle();
  }
  const { root } = await send("DOM.getDocument");
  const { nodeId } = await send("DOM.querySelector", { nodeId: root.nodeId, selector: "#file" });
  await send("DOM.setFileInputFiles", { nodeId, files: [path.resolve(file)] });
  await idle();
}

async function screenshot(name) {
  const { data } = await send("Page.captureScreenshot", { captureBeyondViewport: true });
  fs.writeFileSync(path.join(screenshots, `${name}.png`), Buffer.from(data, "base64"));
}

await send("Emulation.setDeviceMetricsOverride", { width: 820, height: 1480, deviceScaleFactor: 1, mobile: false });
await send("Page.navigate", { url });
await sleep(1500);
const { product } = await send("Browser.getVersion");
const note = await text("missing");
console.log(`${product}, WebGPU by SwiftShader${note ? `; the page says: ${note}` : ""}`);

let chosen;
for (const one of JSON.parse(fs.readFileSync(cases)).filter((c) => c.chromium)) {
  const started = performance.now();
  if (one.file !== chosen) await choose(one.file);
  chosen = one.file;
  await click(`input[value="${one.webgpu ? "webgpu" : "cpu"}"]`);
  await click(`input[value="${one.precise ? "precise" : "fast"}"]`);
  for (const field of ["prompt", "tokens", "temperature", "seed"]) if (field in one) await type(field, one[field]);
  await run(`document.getElementById("chat").checked = ${Boolean(one.chat)}`);
  await click(one.verify ? "#verify" : "#generate");
  const said = await idle();
  if (said !== "Ready") throw new Error(`${one.name}: ${said}`);
  const opened = { backend: one.webgpu ? "webgpu" : "cpu", device: one.webgpu ? "SwiftShader" : "wasm" };
  if (one.verify) {
    const rungs = await run(`[...document.querySelectorAll("#rungs li")].map((li) => ({ holds: !li.className, name: li.children[0].textContent, detail: li.children[1].textContent }))`);
    const [fingerprint, known, words] = [await text("here"), await text("native"), await text("verdict")];
    check(one, { rungs, fingerprint, known, holds: words === "Every rung holds." }, opened, started);
  } else {
    check(one, JSON.parse(await run(`document.getElementById("facts").dataset.made`)), opened, started);
  }
  if (one.screenshot) {
    for (const scheme of ["light", "dark"]) {
      await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
      await screenshot(`${one.screenshot}-${scheme}`);
    }
  }
}

// Stop ends a text in the middle, and the page goes on with the same model.
await choose(undefined);
await click('input[value="cpu"]');
await click('input[value="fast"]');
await type("temperature", 0.9);
await type("tokens", 2000);
await click("#generate");
for (let i = 0; i < 100 && (await text("doing")) !== "writing"; i++) await sleep(20);
await click("#stop");
const stopped = await idle();
const made = await run(`JSON.parse(document.getElementById("facts").dataset.made)`);
const good = stopped === "Stopped" && made.stop_reason === "interrupted" && made.tokens.length < 2000;
console.log(`${good ? "ok" : "FAILED"}  Stop ends a text: ${stopped}, ${made.stop_reason} after ${made.tokens.length} tokens`);
if (!good) process.exit(1);
report("chromium");
