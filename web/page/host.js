// What the program imports. Two things only: to say something, and to wait.

let memory;
let hear = () => {};

// Binds the program's memory.
export const bind = (m) => { memory = m; };
// Who hears what the program says.
export const listen = (f) => { hear = f; };

// The program says something: JSON of so many bytes at an address.
export const say = (at, bytes) => hear(JSON.parse(new TextDecoder().decode(new Uint8Array(memory.buffer, at, bytes))));

// Whether the browser can suspend a program (WebAssembly's JavaScript Promise Integration).
export const suspends = typeof WebAssembly.Suspending === "function";

const { port1, port2 } = new MessageChannel();
const waiting = [];
port1.onmessage = () => waiting.shift()();
const turn = () => new Promise((resume) => { waiting.push(resume); port2.postMessage(0); });

// The program waits for one turn of the event loop. Where it cannot, it goes on at once.
export const suspend = suspends ? new WebAssembly.Suspending(turn) : () => {};
