"""Write the corpus: plans by plots.py, the open sentences by the teacher model (SmolLM2-135M-Instruct), on one GPU.

Every slot of every plan is one independent continuation: context = chat frame + story so far + opening words.
Slots of equal context length form a batch, so no padding and no mask is needed.
"""
import argparse
import gzip
import json
import multiprocessing as mp
import os
import random
import re
import time
import zlib
from collections import defaultdict

import numpy as np

import plots

FRAME = "<|im_start|>user\nWrite a short story for small children. Use simple words.<|im_end|>\n<|im_start|>assistant\n"
SLOT = re.compile(r"<([^<>]*)>")


def make_tokenizer(path):
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders, AddedToken
    j = json.load(gzip.open(path, "rt"))
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(j["tokens"])}, [tuple(m.split(" ")) for m in j["merges"]]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in j["special"]])
    return t


def context(pl):
    """The teacher's context for each slot: the story so far without the other slots, then the opening words."""
    t = pl[0]
    out = []
    for m in SLOT.finditer(t):
        so_far = SLOT.sub("", t[:m.start()])
        so_far = re.sub(r" *\n\n *", "\n\n", so_far).strip(" ")
        sep = "" if not so_far or so_far.endswith("\n") else " "
        out.append(FRAME + so_far + sep + m.group(1))
    return out


BAD = re.compile(r"\b(special|specials|kill|dead|die|died|death|blood|gun|beer|wine|sex\w*|drunk|hate|stupid|language|program|data|"
                 r"computer|internet|AI|model|pounds|dollars|percent|species|technology|environment\w*)\b", re.I)


def good(opening, sent, names, text):
    """Is this sentence fit for the story? `sent` includes the opening words and ends at its last stop mark."""
    w = re.findall(r"[A-Za-z']+", sent)
    if not 4 <= len(w) <= 24 or len(w) < len(opening.split()) + 2 or not re.fullmatch(r"[A-Za-z ,.!?'\"-]+", sent):
        return False
    if sent.count('"') % 2 or BAD.search(sent) or "  " in sent or ".." in sent:
        return False
    inner = re.sub(r'(^|["!?.] ?")\s*[A-Z]', lambda m: m.group(0).lower(), sent)
    if any(c not in names and c not in ("I", "I'm", "I'll", "I've", "I'd") for c in re.findall(r"\b[A-Z][A-Za-z']*", inner[1:])
           if c.rstrip("s").rstrip("'") not in names):
        return False
    low = [x.lower() for x in w]
    cont = [x for x in low if len(x) > 3]
    if len(set(cont)) < 0.85 * len(cont) or any(low[i:i + 2] in [low[j:j + 2] for j in range(i + 1, len(low))] for i in range(len(low) - 1)):
        return False
    return sent.lower() not in text.lower()


def load_teacher(path, dev):
    import torch
    b = open(path, "rb").read()
    n = int.from_bytes(b[:8], "little")
    h = json.loads(b[8:8 + n])
    pos, w = 8 + n, {}
    for t in h["tensors"]:
        ps = []
        for k in t["parts"]:
            ps.append(np.frombuffer(zlib.decompress(b[pos:pos + k]), np.uint8))
            pos += k
        sh = t["shape"]
        if t["kind"] == "F32":
            x = ps[0].view(np.float32).reshape(sh)
            w[t["name"]] = torch.from_numpy(x.copy()).to(dev)
            continue
        f16 = lambda lo, hi: torch.from_numpy(np.stack([lo, hi], 1).reshape(-1).view(np.float16).copy()).to(dev).float()[:, None]
        if t["kind"] == "Q4_1":
            q = torch.from_numpy(ps[4].reshape(-1, 16).copy()).to(dev)
            q = torch.cat([q & 15, q >> 4], 1).float()
            x = q * f16(ps[0], ps[1]) + f16(ps[2], ps[3])
        else:
            q = torch.from_numpy(ps[2].view(np.int8).reshape(-1, 32).copy()).to(dev).float()
            x = q * f16(ps[0], ps[1])
        w[t["name"]] = x.reshape(sh).to(torch.bfloat16 if dev != "cpu" else torch.float32)
    return w, np.array(h["keep"])


class Teacher:
    """Plain llama forward pass, interleaved rotary pairs as in GGUF, eager, with a static KV cache per batch."""

    def __init__(self, w, dev, layers=30, heads=9, kv=3, hd=64, base=100000.0):
        import torch
        self.t, self.w, self.dev = torch, w, dev
        self.L, self.H, self.K, self.D = layers, heads, kv, hd
        f = base ** (-torch.arange(0, hd, 2, dtype=torch.float64) / hd)
        ang = torch.arange(1024, dtype=torch.float64)[:, None] * f
        self.cos, self.sin = (x.to(dev).to(w["token_embd.weight"].dtype) for x in (ang.cos().float(), ang.sin().float()))
        # fused projections; q and k rows reordered so that rotary pairs are halves (scores do not change)
        perm = torch.cat([torch.arange(0, hd, 2), torch.arange(1, hd, 2)]).to(dev)
        re = lambda x, n: x.view(n, hd, -1)[:, perm].reshape(n * hd, -1)
        for i in range(layers):
            p = f"blk.{i}."
            w[p + "qkv"] = torch.cat([re(w[p + "attn_q.weight"], heads), re(w[p + "attn_k.weight"], kv), w[p + "attn_v.weight"]])
            w[p + "gu"] = torch.cat([w[p + "ffn_gate.weight"], w[p + "ffn_up.weight"]])

    def rope(self, x, p0):
        T, c, s = x.shape[2], self.cos, self.sin
        c, s = c[p0:p0 + T], s[p0:p0 + T]
        a, b = x.chunk(2, -1)
        return self.t.cat([a * c - b * s, a * s + b * c], -1)

    def forward(self, ids, kc, vc, p0):
        F, w = self.t.nn.functional, self.w
        B, T = ids.shape
        h = F.embedding(ids, w["token_embd.weight"])
        norm = lambda x, g: F.rms_norm(x, (x.shape[-1],), g.to(x.dtype), 1e-5)
        for i in range(self.L):
            p = f"blk.{i}."
            x = F.linear(norm(h, w[p + "attn_norm.weight"]), w[p + "qkv"]).view(B, T, self.H + 2 * self.K, self.D).transpose(1, 2)
            q, k, v = x.split([self.H, self.K, self.K], 1)
            q, k = self.rope(q, p0), self.rope(k, p0)
            kc[i][:, :, p0:p0 + T] = k
            vc[i][:, :, p0:p0 + T] = v
            o = F.scaled_dot_product_attention(q, kc[i][:, :, :p0 + T], vc[i][:, :, :p0 + T], is_causal=T > 1, enable_gqa=True)
            h = h + F.linear(o.transpose(1, 2).reshape(B, T, -1), w[p + "attn_output.weight"])
            g, u = F.linear(norm(h, w[p + "ffn_norm.weight"]), w[p + "gu"]).chunk(2, -1)
            h = h + F.linear(F.silu(g) * u, w[p + "ffn_down.weight"])
        return F.linear(norm(h[:, -1], w["output_norm.weight"]), w["token_embd.weight"]).float()

    def generate(self, ids, n, stop, temp, minp, gen):
        """ids [B,T] -> tokens [B,n] (after `stop` tokens everything is -1) and the mean log-probability."""
        t = self.t
        with t.inference_mode():
            B, T = ids.shape
            dt = self.w["token_embd.weight"].dtype
            kc, vc = (t.empty(self.L, B, self.K, T + n, self.D, dtype=dt, device=self.dev) for _ in range(2))
            out = t.full((B, n), -1, dtype=t.int32, device=self.dev)
            done = t.zeros(B, dtype=t.bool, device=self.dev)
            lp, cnt = t.zeros(B, device=self.dev), t.zeros(B, device=self.dev)
            x, p0 = ids, 0
            for i in range(n):
                z = self.forward(x, kc, vc, p0)
                p0 += x.shape[1]
                full = z.log_softmax(-1)
                z = z / temp
                z = z.masked_fill(z < z.amax(-1, keepdim=True) + float(np.log(minp)), float("-inf"))
                e = t.empty_like(z).exponential_(generator=gen)
                nxt = (z.softmax(-1) / e).argmax(-1)
                out[:, i] = t.where(done, -1, nxt.int())
                lp += t.where(done, 0.0, full.gather(1, nxt[:, None])[:, 0])
                cnt += (~done).float()
                done |= stop[nxt]
                x = nxt[:, None]
                if i % 6 == 5 and bool(done.all()):
                    break
            return out.cpu().numpy(), (lp / cnt).cpu().numpy()


DROP = 0.3


def _plan(i):
    """Plan i, with some of its slots left out from the start."""
    t, names, d = plots.plan(i)
    r = random.Random(i + 1)
    return SLOT.sub(lambda m: "" if r.random() < DROP else m.group(0), t), names, d


ROLES = "obj ob food v mk brkn plant elder".split()


def slot_key(opening, names, d):
    """Slots with the same key may exchange sentences: same plot, same genders, same opening words but for the names."""
    for n, x in zip("HFG", names):
        opening = re.sub(rf"\b{x}\b", "{" + n + "}", opening)
    return f"{d['plot']} {d['genders']} {opening}"


def templated(s, names, d):
    """The sentence with the names and things of its story replaced by their roles."""
    for n, x in list(zip("HFG", names)) + [("inP", d["inP"]), ("P", d["P"])] + [(k, d[k]) for k in ROLES]:
        s = re.sub(rf"(?<![{{\w]){re.escape(x)}(?!\w)", "{" + n + "}", s)
    return s


def _render(job):
    """Fill the slots of one plan with the accepted sentences and tidy the spaces."""
    (t, names, d), fills = job
    it = iter(fills)
    used = [0, 0]
    bank = []

    def sub(m):
        s = next(it)
        used[1] += 1
        if s is None or not good(m.group(1), s, names, SLOT.sub("", t)):
            return ""
        used[0] += 1
        bank.append((slot_key(m.group(1), names, d), templated(s, names, d)))
        return s + " "
    x = SLOT.sub(sub, t)
    x = re.sub(r" *\n\n *", "\n\n", x)
    return re.sub(r"  +", " ", x).strip(), used[0], used[1], bank


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--teacher", default="teacher.bin")
    ap.add_argument("--tok", default="teacher_tok.json.gz")
    ap.add_argument("--out", default="corpus.jsonl")
    ap.add_argument("--bank", default="bank.json", help="role templates of the accepted sentences, by slot")
    ap.add_argument("--stories", type=int, default=100000, help="plans per block")
    ap.add_argument("--blocks", type=int, default=10)
    ap.add_argument("--seconds", type=float, default=170, help="stop starting new batches after this long")
    ap.add_argument("--batch", type=int, default=4096)
    ap.add_argument("--new", type=int, default=28)
    ap.add_argument("--temp", type=float, default=0.8)
    ap.add_argument("--minp", type=float, default=0.08)
    ap.add_argument("--worst", type=float, default=0.4, help="share of sentences dropped for low likelihood")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--device", default="cuda")
    a = ap.parse_args()
    t0 = time.time()
    pool = mp.Pool(max(1, mp.cpu_count() - 1))
    import torch
    torch.backends.cuda.matmul.allow_tf32 = True
    w, keep = load_teacher(a.teacher, a.device)
    tk = make_tokenizer(a.tok)
    new_id = np.full(tk.get_vocab_size() + 1, -1, np.int64)
    new_id[keep] = np.arange(len(keep))
    strs = [tk.decode([int(i)], skip_special_tokens=False) for i in keep]
    stop = torch.tensor([bool(re.search(r"[.!?]\"?$|\n|<", s)) for s in strs], device=a.device)
    T = Teacher(w, a.device)
    gen = torch.Generator(a.device).manual_seed(a.seed)
    print(f"teacher ready {time.time() - t0:.1f}s, vocabulary {len(keep)}", flush=True)
    f = open(a.out, "w")
    bank = defaultdict(list)
    tot = [0, 0, 0, 0]
    for blk in range(a.blocks):
        if time.time() - t0 > a.seconds:
            break
        plans = pool.map(_plan, range(a.seed * 10_000_000 + blk * a.stories, a.seed * 10_000_000 + (blk + 1) * a.stories), chunksize=500)
        ctx, own = [], []
        for i, c in enumerate(pool.map(context, plans, chunksize=500)):
            own += [(i, j) for j in range(len(c))]
            ctx += c
        enc = [np.array(e.ids) for e in tk.encode_batch(ctx)]
        groups = defaultdict(list)
        for k, e in enumerate(enc):
            e = new_id[e]
            if (e >= 0).all():
                groups[len(e)].append((k, e))
        batches = [g[i:i + a.batch] for g in groups.values() for i in range(0, len(g), a.batch)]
        random.Random(blk).shuffle(batches)
        print(f"block {blk}: {len(ctx)} slots in {len(batches)} batches, {time.time() - t0:.1f}s", flush=True)
        fills = [[None] * len(SLOT.findall(p[0])) for p in plans]
        got, lps = {}, {}
        for n, bt in enumerate(batches):
            ids = torch.from_numpy(np.stack([e for _, e in bt])).to(a.device)
            out, lp = T.generate(ids, a.new, stop, a.temp, a.minp, gen)
            for (k, _), o, l in zip(bt, out, lp):
                got[k], lps[k] = o, l
            if n % 20 == 0:
                print(f"  {n} {len(got)} {time.time() - t0:.1f}s", flush=True)
            if time.time() - t0 > a.seconds:
                break
        cut = np.quantile(np.array(list(lps.values())), a.worst)
        for k, o in got.items():
            o = o[o >= 0]
            if lps[k] < cut or not len(o):
                continue
            i, j = own[k]
            opening = SLOT.findall(plans[i][0])[j]
            s = (opening + "".join(strs[x] for x in o)).rstrip()
            if s.count('"') % 2 == 1 and s[-1] in ".!?":
                s += '"'
            if re.search(r"[.!?]\"?$", s):
                fills[i][j] = s
        for text, u, n, b in pool.map(_render, list(zip(plans, fills)), chunksize=200):
            if tot[0] % 20:                    # every twentieth story is for validation: its sentences stay out of the bank
                for k, x in b:
                    bank[k].append(x)
            f.write(json.dumps(text) + "\n")
            tot[0] += 1
            tot[1] += u
            tot[2] += n
            tot[3] += len(text)
        f.flush()
        print(f"block {blk} done: stories, sentences kept, slots, characters = {tot}, {time.time() - t0:.1f}s", flush=True)
    f.close()
    json.dump(bank, open(a.bank + ".part", "w"))
    os.replace(a.bank + ".part", a.bank)


if __name__ == "__main__":
    main()
