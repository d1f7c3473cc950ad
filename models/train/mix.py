"""Write training stories: fresh plans whose slots are filled from the bank of teacher sentences; saved as token shards.

Each worker expands its plans first and then waits for the bank, so this may start together with gen_corpus.py.
"""
import argparse
import json
import multiprocessing as mp
import os
import random
import re
import time

import numpy as np

import plots
from gen_corpus import SLOT, good, slot_key


def fill(plan, bank, r, rate):
    t, names, d = plan
    bare = SLOT.sub("", t)

    def sub(m):
        c = bank.get(slot_key(m.group(1), names, d))
        if not c or r.random() > rate:
            return ""
        s = r.choice(c)
        for n, x in zip("HFG", names):
            s = s.replace("{" + n + "}", x)
        s = re.sub(r"\{(\w+)\}", lambda k: str(d[k.group(1)]), s)
        s = s[0].upper() + s[1:]
        return s + " " if good(m.group(1), s, names, bare) else ""
    x = SLOT.sub(sub, t)
    return re.sub(r"  +", " ", re.sub(r" *\n\n *", "\n\n", x)).strip()


def worker(job):
    k, n, a = job
    plans = [plots.plan(900_000_000 + k * n + i) for i in range(n)]
    while not os.path.exists(a.bank):
        time.sleep(0.2)
    bank = json.load(open(a.bank))
    r = random.Random(k)
    texts = [fill(p, bank, r, a.rate) for p in plans]
    from tokenizers import Tokenizer
    tk = Tokenizer.from_file(a.tokenizer)
    bos, eos = tk.token_to_id("<s>"), tk.token_to_id("</s>")
    seqs = [[bos] + e.ids + [eos] for e in tk.encode_batch(texts)]
    np.savez(f"{a.out}/shard{k}.npz", tokens=np.concatenate([np.array(s, np.uint16) for s in seqs]), lens=np.array([len(s) for s in seqs]))
    if k == 0:
        json.dump(texts[:600], open(a.out + "/sample.json", "w"))
    return len(seqs)


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--bank", default="bank.json")
    ap.add_argument("--tokenizer", default="tokenizer.json")
    ap.add_argument("--out", default=".")
    ap.add_argument("--stories", type=int, default=150000)
    ap.add_argument("--workers", type=int, default=13)
    ap.add_argument("--rate", type=float, default=0.5, help="share of the slots that get a sentence")
    a = ap.parse_args()
    t0 = time.time()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with mp.Pool(a.workers) as p:
        n = sum(p.map(worker, [(k, a.stories // a.workers, a) for k in range(a.workers)], chunksize=1))
    open(a.out + "/ready", "w").write(str(n))
    print(f"mix: {n} stories, {time.time() - t0:.1f}s", flush=True)
