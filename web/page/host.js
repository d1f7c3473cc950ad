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

// A program that comes back at once still waits. For so many turns it is let on as soon as possible, then after a pause, so that it
// leaves the processor to others.
const PATIENCE = 1000;
let resumed = 0, turns = 0;
const turn = () => new Promise((resume) => {
  turns = performance.now() - resumed < 0.3 ? turns + 1 : 0;
  const go = () => { resumed = performance.now(); resume(); };
  if (turns < PATIENCE) {
    waiting.push(go);
    port2.postMessage(0);
  } else {
    setTimeout(go, 1);
  }
});

// The program waits for one turn of the event loop. Where it cannot, it goes on at once.
export const suspend = suspends ? new WebAssembly.Suspending(turn) : () => {};
