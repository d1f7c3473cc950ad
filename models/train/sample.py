"""Samples, greedy reference and validation loss of the GGUF file by llama-cpp-python on the CPU."""
import argparse
import gzip
import json

import llama_cpp
import numpy as np

ap = argparse.ArgumentParser()
ap.add_argument("--gguf", default="stories.gguf")
ap.add_argument("--golden")
ap.add_argument("--validation", help="corpus_sample.json.gz")
ap.add_argument("--count", type=int, default=200, help="validation stories")
ap.add_argument("--samples", type=int, default=10)
ap.add_argument("--prompt", default="Once upon a time")
a = ap.parse_args()
# plain CPU buffers: the repacked (AMX) ones crash in some builds
_default = llama_cpp.llama_cpp.llama_model_default_params


def _plain():
    p = _default()
    p.use_extra_bufts = False
    return p


llama_cpp.llama_cpp.llama_model_default_params = llama_cpp.llama_model_default_params = _plain
m = llama_cpp.Llama(a.gguf, n_ctx=512, verbose=False, n_threads=2, logits_all=True)
bos, eos = m.token_bos(), m.token_eos()
enc = lambda s: [bos] + m.tokenize(s.encode(), add_bos=False, special=False)
if a.golden:
    out = []
    for p in ("Once upon a time", "Lily found a red kite", "One day, a small bear"):
        m.reset()
        ids, new = enc(p), []
        m.eval(ids)
        for _ in range(48):
            t = int(np.argmax(m.scores[m.n_tokens - 1]))
            new.append(t)
            if t == eos:
                break
            m.eval([t])
        out.append({"prompt": p, "prompt_ids": ids, "ids": new, "text": m.detokenize([t for t in new if t != eos]).decode()})
        print(out[-1])
    json.dump({"by": "llama-cpp-python " + llama_cpp.__version__ + ", CPU, greedy", "cases": out}, open(a.golden, "w"), indent=1)
if a.validation:
    tot = cnt = 0
    for s in json.load(gzip.open(a.validation, "rt"))["validation"][:a.count]:
        ids = (enc(s) + [eos])[:512]
        m.reset()
        m.eval(ids)
        z = m.scores[:len(ids) - 1].astype(np.float64)
        z = z - z.max(-1, keepdims=True)
        lp = z - np.log(np.exp(z).sum(-1, keepdims=True))
        tot -= lp[np.arange(len(ids) - 1), ids[1:]].sum()
        cnt += len(ids) - 1
    print("validation loss", tot / cnt, "tokens", cnt)
for seed in range(a.samples):
    m.reset()
    r = m.create_completion(enc(a.prompt), max_tokens=400, temperature=0.8, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0, seed=seed)
    print(f"\n### Seed {seed}\n\n{a.prompt}{r['choices'][0]['text']}")
