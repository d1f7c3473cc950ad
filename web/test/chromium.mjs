// The page in headless Chromium, used as a person uses it: what it shows is what the native program computed.
//
//     node chromium.mjs SITE CASES SCREENSHOTS      (scripts/platforms web)

import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { check, expect, report } from "./cases.mjs";

const [site, cases, screenshots] = process.argv.slice(2);
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

// What every script begins with: it takes from the browser what the page shall do without, for which Chromium has no flags.
let taken = "";
const server = http.createServer((request, response) => {
  const name = path.basename(new URL(request.url, "http://localhost").pathname) || "index.html";
  const file = path.join(site, name);
  if (!fs.existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": types[path.extname(name)] ?? "application/octet-stream" });
  if (path.extname(name) === ".js") response.write(taken);
  fs.createReadStream(file).pipe(response);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const url = `http://127.0.0.1:${server.address().port}/`;

// ---- the browser, by its DevTools protocol

const profiles = fs.mkdtempSync(path.join(os.tmpdir(), "samebits-chromium-"));
const waiting = new Map();
let id = 0, launches = 0, chromium, socket, session;
process.on("exit", () => { chromium?.kill(); fs.rmSync(profiles, { recursive: true, force: true }); });

const send = (method, params = {}) => new Promise((answer) => {
  waiting.set(++id, answer);
  socket.send(JSON.stringify({ id, method, params, sessionId: session }));
});
const run = async (expression) => {
  const { result, exceptionDetails } = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
};
const sleep = (milliseconds) => new Promise((awake) => setTimeout(awake, milliseconds));

// Starts a browser in place of the one before, and opens the page in it.
async function browse(...flags) {
  if (chromium) {
    chromium.removeAllListeners("exit");
    const gone = new Promise((ended) => { chromium.on("exit", ended); });
    chromium.kill();
    await gone;
  }
  const always = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", `--user-data-dir=${profiles}/${launches++}`, "--window-size=900,1250"];
  chromium = spawn("chromium", [...always, ...flags, "about:blank"], { stdio: ["ignore", "ignore", "pipe"] });
  const devtools = await new Promise((found, gone) => {
    let text = "";
    chromium.stderr.on("data", (data) => {
      text += data;
      const line = text.match(/DevTools listening on (ws:\S+)/);
      if (line) found(line[1]);
    });
    chromium.on("exit", () => gone(new Error(`Chromium ended:\n${text}`)));
  });
  socket = new WebSocket(devtools);
  await new Promise((open) => { socket.onopen = open; });
  socket.onmessage = ({ data }) => {
    const { id, result, error, method, params } = JSON.parse(data);
    if (method === "Runtime.exceptionThrown") console.log("the page throws:", params.exceptionDetails.exception?.description);
    if (!id) return;
    waiting.get(id)(error ? Promise.reject(new Error(error.message)) : result);
    waiting.delete(id);
  };
  // Nobody answers any more.
  socket.onclose = () => {
    for (const answer of waiting.values()) answer(Promise.reject(new Error("Chromium ended")));
    waiting.clear();
  };
  session = undefined;
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  session = (await send("Target.attachToTarget", { targetId, flatten: true })).sessionId;
  await send("Runtime.enable");
  await send("Page.enable");
  await send("Emulation.setDeviceMetricsOverride", { width: 820, height: 1480, deviceScaleFactor: 1, mobile: false });
  await send("Page.navigate", { url });
  await sleep(1500);
}

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

// What a case computes on, before its file is opened.
async function set({ webgpu, precise }) {
  await click(`input[value="${webgpu ? "webgpu" : "cpu"}"]`);
  await click(`input[value="${precise ? "precise" : "fast"}"]`);
}

// The page does a case; what it says then. A text that it made is in `made()`.
async function generate(one) {
  for (const field of ["prompt", "tokens", "temperature", "seed"]) if (field in one) await type(field, one[field]);
  await run(`document.getElementById("chat").checked = ${Boolean(one.chat)}`);
  await click(one.verify ? "#verify" : "#generate");
  return idle();
}
const made = () => run(`JSON.parse(document.getElementById("facts").dataset.made)`);

const webgpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
await browse(...webgpu);
const { product } = await send("Browser.getVersion");
const note = await text("missing");
console.log(`${product}, WebGPU by SwiftShader${note ? `; the page says: ${note}` : ""}`);

const all = JSON.parse(fs.readFileSync(cases)).filter((c) => c.chromium);
let chosen;
for (const one of all) {
  const started = performance.now();
  await set(one);
  if (one.file !== chosen) await choose(one.file);
  chosen = one.file;
  const said = await generate(one);
  if (said !== "Ready") throw new Error(`${one.name}: ${said}`);
  const opened = { backend: one.webgpu ? "webgpu" : "cpu", device: one.webgpu ? "SwiftShader" : "wasm" };
  if (one.verify) {
    const rungs = await run(`[...document.querySelectorAll("#rungs li")].map((li) => ({ holds: !li.className, name: li.children[0].textContent, detail: li.children[1].textContent }))`);
    const [fingerprint, known, words] = [await text("here"), await text("native"), await text("verdict")];
    check(one, { rungs, fingerprint, known, holds: words === "Every rung holds." }, opened, started);
  } else {
    check(one, await made(), opened, started);
  }
  if (one.screenshot) {
    for (const scheme of ["light", "dark"]) {
      await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
      await screenshot(`${one.screenshot}-${scheme}`);
    }
  }
}

// Stop ends a text in the middle: for this reason, unless the program cannot hear it, and is ended or was done first.
async function stops(name, reason) {
  await run(`delete document.getElementById("facts").dataset.made`);
  await type("temperature", 0.9);
  await type("tokens", 2000);
  await click("#generate");
  for (let i = 0; i < 100 && (await text("doing")) !== "writing"; i++) await sleep(20);
  await click("#stop");
  const said = await idle();
  const made = JSON.parse(await run(`document.getElementById("facts").dataset.made ?? "null"`));
  expect(name, said === "Stopped" && (!reason || made?.stop_reason === reason) && !(made?.tokens.length >= 2000), `${said}, ${made ? `${made.stop_reason} after ${made.tokens.length} tokens` : "the program was ended"}`);
}
await set({ webgpu: false, precise: false });
await choose(undefined);
await stops("Stop ends a text", "interrupted");

// What a browser lacks is said, and the CPU does it.
const some = all.find((one) => !one.webgpu && !one.precise && !one.file && !one.verify);
for (const { lacks, words, flags = webgpu, take = "", stop = "interrupted" } of [
  { lacks: "WebGPU", words: "This browser has no WebGPU", take: "delete Object.getPrototypeOf(navigator).gpu;" },
  { lacks: "GPU", words: "no GPU for it", flags: ["--disable-features=WebGPU"] },
  { lacks: "JSPI", words: "cannot suspend WebAssembly (JSPI)", take: "delete WebAssembly.Suspending;", stop: null },
  { lacks: "WebAssembly", words: "This browser has no WebAssembly", flags: ["--js-flags=--jitless"] },
]) {
  taken = take;
  await browse(...flags);
  const note = await text("missing");
  const shown = await run(`!document.getElementById("missing").hidden && document.querySelector('input[value="webgpu"]').disabled`);
  const usable = !(await run(`document.getElementById("generate").disabled`));
  expect(`without ${lacks} the page says so`, shown && note.includes(words) && usable === (lacks !== "WebAssembly"), note);
  await screenshot(`without-${lacks.toLowerCase()}`);
  if (!usable) continue;
  const started = performance.now();
  const said = await generate(some);
  if (said !== "Ready") throw new Error(`without ${lacks}: ${said}`);
  check({ ...some, name: `without ${lacks}, ${some.name}` }, await made(), { backend: "cpu", device: "wasm" }, started);
  await stops(`without ${lacks}, Stop ends a text`, stop);
}
report("chromium");
