// The program, as the page's worker and Node use it: one request at a time; what happens meanwhile is heard, the last is the answer.

import init from "./samebits_web.js";
import { bind, listen, suspends } from "./host.js";

let wasm;

// Loads the program: from beside this file, or its bytes.
export async function start(bytes) {
  wasm = await init(bytes && { module_or_path: bytes });
  bind(wasm.memory);
}

function put(bytes, at) {
  if (at === 0) throw new Error("this page has no memory left");
  new Uint8Array(wasm.memory.buffer).set(bytes, at);
}

// Does what is asked for, and gives the answer.
export async function request(what, hear) {
  let answer;
  listen((said) => { answer = said; hear(said); });
  const text = new TextEncoder().encode(JSON.stringify(what));
  put(text, wasm.request_room(text.length));
  await (suspends ? WebAssembly.promising(wasm.request) : wasm.request)();
  return answer;
}

// Copies a file into the program's memory.
export async function file(file, hear) {
  let at = wasm.file_room(file.size), done = 0;
  if (at === 0) throw new Error(`there is no memory for this file (${(file.size / 2 ** 30).toFixed(1)} GiB); a page has 4 GiB in all`);
  for (const reader = file.stream().getReader(); ;) {
    const { done: end, value } = await reader.read();
    if (end) break;
    put(value, at + done);
    done += value.length;
    hear({ progress: { what: "reading the file", done, all: file.size } });
  }
}

// Asks what runs to stop.
export const stop = () => wasm.stop();
