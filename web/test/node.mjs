// The page's program in Node, where WebGPU is Dawn: what it computes is what the native program computed.
//
//     node --experimental-wasm-jspi node.mjs SITE CASES      (scripts/platforms web)

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { check, expect, report } from "./cases.mjs";

const [site, cases] = process.argv.slice(2);

const { create, globals } = await import("webgpu");
Object.assign(globalThis, globals);
// wgpu asks whether it is in a window or in a worker; Node is neither.
globalThis.Window = function Window() {};
Object.defineProperty(globalThis, "navigator", { value: { gpu: create(["backend=vulkan"]) }, configurable: true });
const adapter = await navigator.gpu.requestAdapter();
console.log(`node ${process.version}, Dawn on ${adapter ? `${adapter.info.device}, ${adapter.info.description}` : "no adapter"}`);

const engine = await import(pathToFileURL(path.join(site, "engine.js")));
await engine.start(fs.readFileSync(path.join(site, "samebits_web_bg.wasm")));

let onCpu;
for (const one of JSON.parse(fs.readFileSync(cases)).filter((c) => c.node)) {
  const started = performance.now();
  const rungs = [];
  const hear = (said) => {
    if (said.rung) rungs.push(said.rung);
  };
  const ask = async (request) => {
    const answer = await engine.request(request, hear);
    if (answer.error) throw new Error(`${one.name}: ${answer.error}`);
    return answer;
  };
  if (one.file) await engine.file(await fs.openAsBlob(one.file), hear);
  const { opened } = await ask({ open: { file: Boolean(one.file), webgpu: one.webgpu, precise: one.precise } });
  if (!one.webgpu) onCpu ??= opened.device;
  if (one.verify) {
    const { verified } = await ask({ verify: {} });
    check(one, { ...verified, rungs }, opened, started);
  } else {
    const { prompt, chat = false, tokens, temperature, seed } = one;
    const { generated } = await ask({ generate: { prompt, chat, tokens, temperature, seed } });
    check(one, generated, opened, started);
  }
}
// Without memory for repacked weights there are no vectors either, which the device would say.
expect("CPU, vectors", onCpu === "1 threads, simd128", onCpu);
report("node");
