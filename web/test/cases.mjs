// What a run must give: the native program's tokens and hash, and its fingerprint.

let passed = 0, failed = 0;

function verdict(one, good, detail) {
  console.log(`${good ? "ok" : "FAILED"}  ${one.name}: ${detail}`);
  if (good) passed++; else failed++;
}

// Whether something else than a case is as it must be.
export const expect = (name, good, detail) => verdict({ name }, good, detail);

// Compares what a case gave with what it must give.
export function check(one, got, opened, started) {
  const where = `${opened.backend} (${opened.device}), ${((performance.now() - started) / 1000).toFixed(1)} s`;
  if (one.verify) {
    const bad = got.rungs.filter((rung) => !rung.holds).map((rung) => `${rung.name}: ${rung.detail}`);
    const good = bad.length === 0 && got.holds && got.fingerprint === one.expected.fingerprint && got.known === one.expected.fingerprint;
    return verdict(one, good && got.rungs.length > 0, `${got.rungs.length} rungs, fingerprint ${got.fingerprint}${bad.length ? `, ${bad.join("; ")}` : ""}, ${where}`);
  }
  const same = JSON.stringify(got.tokens) === JSON.stringify(one.expected.tokens) && got.logits_hash === one.expected.logits_hash;
  const rate = (n, seconds) => `${(n / seconds).toFixed(1)}/s`;
  verdict(one, same && got.tokens.length > 0, `${got.tokens.length} tokens, hash ${got.logits_hash.slice(0, 16)}…, ` +
    `${got.prompt_tokens} read at ${rate(got.prompt_tokens, got.prefill_seconds)}, written at ${rate(got.tokens.length - 1, got.decode_seconds)}, ${where}`);
}

// Ends the process: with 0 if every case gave what it must.
export function report(name) {
  console.log(`${name}: ${passed} passed, ${failed} failed`);
  process.exit(failed || !passed ? 1 : 0);
}
