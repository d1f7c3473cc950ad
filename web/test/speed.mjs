// How fast the page's program reads and writes on the CPU, in Node: texts of about 120 tokens, each with another beginning.
//
//     node speed.mjs SITE [FILE]

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [site, file] = process.argv.slice(2);
const engine = await import(pathToFileURL(path.join(site, "engine.js")));
await engine.start(fs.readFileSync(path.join(site, "samebits_web_bg.wasm")));
const ask = async (request) => {
  const answer = await engine.request(request, () => {});
  if (answer.error) throw new Error(answer.error);
  return answer;
};
if (file) await engine.file(await fs.openAsBlob(file), () => {});
const { opened } = await ask({ open: { file: Boolean(file), webgpu: false, precise: false } });
const sentence = " upon a time the little dog ran over the green hill and saw a big red ball near the old house.";
for (const first of ["Once", "Now", "Today", "Here", "Soon"]) {
  const { generated } = await ask({ generate: { prompt: first + sentence.repeat(5), chat: false, tokens: 17, temperature: 0, seed: 0 } });
  const rate = (n, seconds) => `${(n / seconds).toFixed(1)}/s`;
  console.log(`${opened.device}: ${generated.prompt_tokens} read at ${rate(generated.prompt_tokens, generated.prefill_seconds)}, ` +
    `${generated.tokens.length} written at ${rate(generated.tokens.length - 1, generated.decode_seconds)}, hash ${generated.logits_hash.slice(0, 16)}…`);
}
process.exit();
