// The program in a thread of its own, so that the page can be used while it computes. One message is one request.

import { file, request, start, stop } from "./engine.js";

const ready = start();

onmessage = async ({ data }) => {
  if (data.stop) return stop();
  try {
    await ready;
    if (data.file) await file(data.file, postMessage);
    await request(data.request, postMessage);
  } catch (error) {
    // The program has ended; what it said last may be the reason.
    postMessage({ error: String(error.message ?? error), ended: true });
  }
  postMessage({ idle: true });
};
