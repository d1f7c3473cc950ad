// The page: what a person chooses goes to the worker, what the worker says is shown.

const at = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

// ---- the worker

// How long a worker that is asked to stop may take, in milliseconds; then it is ended.
const PATIENCE = 1500;

let worker, hear, finish, opened;

function hire() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.ended) dismiss();
    if (data.idle) return finish?.();
    hear?.(data);
  };
  worker.onerror = (event) => {
    hear?.({ error: `the program cannot be loaded: ${event.message ?? "see the browser's console"}` });
    dismiss();
    finish?.();
  };
}

// Ends the worker; the next task gets a new one, where the model is opened again.
function dismiss() {
  worker?.terminate();
  worker = opened = undefined;
}

// Gives the worker something to do; `heard` hears all that it says.
function ask(message, heard) {
  if (!worker) hire();
  return new Promise((resolve) => {
    hear = heard;
    finish = () => { hear = finish = undefined; resolve(); };
    worker.postMessage(message);
  });
}

let stopping;

function stop() {
  stopping = true;
  worker?.postMessage({ stop: true });
  setTimeout(() => { if (finish && stopping) { dismiss(); finish(); } }, PATIENCE);
}

// ---- what is going on

function doing(what, done, all) {
  at("doing").textContent = what;
  at("progress").hidden = done === undefined;
  if (done !== undefined) Object.assign(at("progress"), { value: done, max: all });
}

function show(said) {
  if (said.progress) doing(said.progress.what, said.progress.done, said.progress.all);
  if (said.warning) complain(said.warning);
}

function complain(message) {
  at("missing").hidden = false;
  at("missing").className = "note bad";
  at("missing").textContent = message;
}

// Runs a task with the buttons that belong to it.
async function busy(task) {
  stopping = false;
  for (const id of ["generate", "verify", "file", "builtin"]) at(id).disabled = true;
  at("stop").hidden = false;
  let failed;
  try {
    if (await open()) await task();
  } catch (error) {
    failed = error;
  }
  for (const id of ["generate", "verify", "file", "builtin"]) at(id).disabled = false;
  at("stop").hidden = true;
  doing(stopping ? "Stopped" : failed ? `Error: ${failed.message}` : "Ready");
  at("doing").className = failed && !stopping ? "bad" : "";
}

// ---- the model

let file;

// Opens what is chosen, unless it is open; whether it is.
async function open() {
  const wanted = { webgpu: chosen("backend") === "webgpu", precise: chosen("precision") === "precise" };
  if (opened && opened.file === file && opened.webgpu === wanted.webgpu && opened.precise === wanted.precise) return true;
  opened = undefined;
  at("missing").hidden = true;
  doing("loading the program");
  let error;
  await ask({ file, request: { open: { file: Boolean(file), ...wanted } } }, (said) => {
    show(said);
    if (said.error) error ??= said.error;
    if (said.opened) opened = { ...said.opened, file, ...wanted };
  });
  if (stopping) return false;
  if (error) throw new Error(error);
  if (at("chat-row").hidden === opened.chat) at("chat").checked = opened.chat;
  at("chat-row").hidden = !opened.chat;
  at("model").textContent = `${opened.model || file?.name || "Unnamed model"}, ${(opened.parameters / 1e6).toFixed(1)} million parameters`;
  return true;
}

// Takes a file, or the built-in model, and opens it.
function take(chosen) {
  file = chosen;
  at("model").textContent = file ? file.name : "The built-in story model";
  at("builtin").hidden = !file;
  return busy(() => {});
}

at("file").onchange = () => { if (at("file").files[0]) take(at("file").files[0]); };
at("builtin").onclick = () => { at("file").value = ""; take(undefined); };
addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files[0] && !finish) take(event.dataTransfer.files[0]);
});

// ---- text

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

at("generate").onclick = () => busy(async () => {
  const request = {
    prompt: at("prompt").value,
    chat: !at("chat-row").hidden && at("chat").checked,
    tokens: at("tokens").valueAsNumber,
    temperature: at("temperature").valueAsNumber,
    seed: at("seed").valueAsNumber,
  };
  for (const id of ["tokens", "temperature", "seed"]) if (!at(id).checkValidity() || Number.isNaN(request[id])) throw new Error(`${id}: ${at(id).validationMessage || "give a number"}`);
  const prompt = Object.assign(document.createElement("span"), { className: "prompt", textContent: request.prompt + (request.chat ? "\n\n" : "") });
  at("text").replaceChildren(prompt);
  at("facts").textContent = "";
  let error;
  await ask({ request: { generate: request } }, (said) => {
    show(said);
    if (said.text) at("text").append(said.text);
    if (said.error) error ??= said.error;
    if (said.generated) facts(said.generated, request);
  });
  if (error && !stopping) throw new Error(error);
});

function facts(made, request) {
  const rate = (n, seconds) => `${(seconds > 0 ? n / seconds : 0).toFixed(1)}/s`;
  const command = ["samebits generate", file && `-m ${quoted(file.name)}`, `-p ${quoted(request.prompt)}`, request.chat ? "--chat" : "--raw", `-n ${request.tokens}`,
    request.temperature > 0 && `--temp ${request.temperature} --seed ${request.seed}`, opened.precise && "--precision precise"];
  const code = (text) => Object.assign(document.createElement("code"), { textContent: text });
  at("facts").replaceChildren(
    `${made.prompt_tokens} prompt tokens at ${rate(made.prompt_tokens, made.prefill_seconds)}, ${made.tokens.length} new at ${rate(made.tokens.length - 1, made.decode_seconds)}, on ${opened.backend}${opened.device && ` (${opened.device})`}.`,
    document.createElement("br"), "logits hash ", code(made.logits_hash),
    document.createElement("br"), "The native program has the same: ", code(command.filter(Boolean).join(" ")));
  at("facts").dataset.made = JSON.stringify(made);
}

// ---- verify

at("verify").onclick = () => busy(async () => {
  at("rungs").replaceChildren();
  at("fingerprints").hidden = true;
  at("verdict").textContent = "";
  doing("verifying; on WebGPU this takes a while");
  let error;
  await ask({ request: { verify: {} } }, (said) => {
    show(said);
    if (said.rung) {
      const item = document.createElement("li");
      item.className = said.rung.holds ? "" : "bad";
      for (const text of [said.rung.name, said.rung.detail]) item.append(Object.assign(document.createElement("span"), { textContent: text }));
      at("rungs").append(item);
    }
    if (said.error) error ??= said.error;
    if (said.verified) verdict(said.verified);
  });
  if (error && !stopping) throw new Error(error);
});

function verdict({ holds, fingerprint, known }) {
  at("fingerprints").hidden = false;
  at("here").textContent = fingerprint;
  at("native").textContent = known ?? `run samebits verify -m ${file ? quoted(file.name) : "FILE"} and compare`;
  at("verdict").className = holds ? "facts" : "facts bad";
  at("verdict").textContent = holds ? "Every rung holds." : "Something does not hold: this device does not give the bits of other machines. Please tell us.";
}

// ---- what this browser has

at("stop").onclick = stop;

async function look() {
  const webgpu = document.querySelector('input[value="webgpu"]');
  const note = (text) => { at("missing").hidden = false; at("missing").textContent = text; webgpu.disabled = true; };
  if (typeof WebAssembly === "undefined") {
    at("generate").disabled = at("verify").disabled = true;
    return note("This browser has no WebAssembly; samebits needs it.");
  }
  if (!navigator.gpu) return note(isSecureContext ? "This browser has no WebGPU; the CPU does it, slower, with the same bits." : "WebGPU needs https or localhost; the CPU does it, slower, with the same bits.");
  if (typeof WebAssembly.Suspending !== "function") return note("This browser has WebGPU, but cannot suspend WebAssembly (JSPI), which samebits needs to wait for a GPU. The CPU does it, slower, with the same bits.");
  if (!(await navigator.gpu.requestAdapter().catch(() => null))) return note("This browser has WebGPU, but no GPU for it; the CPU does it, with the same bits.");
}
look();
