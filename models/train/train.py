"""Train the tokenizer (--only-tokenizer) or the model; the last part of the run sees quantised weights.

Master weights are float32.  Each step makes bfloat16 working weights from them (rounded to the GGUF formats in the
quantisation-aware phase), differentiates with respect to those, and hands the gradients to the masters
(straight-through), so both phases run the same compiled step.  The schedule follows the clock: it fills --seconds.
"""
import argparse
import csv
import glob
import gzip
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

BOS, EOS = "<s>", "</s>"


def build_tokenizer(texts, vocab):
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)      # the GPT-2 rule
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, special_tokens=[BOS, EOS], show_progress=False,
                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def shapes(a, vocab):
    d, kv = a.dim, a.kv * a.hd
    out = [("token_embd.weight", (vocab, d))]
    for i in range(a.layers):
        p = f"blk.{i}."
        out += [(p + "attn_norm.weight", (d,)), (p + "attn_q.weight", (a.heads * a.hd, d)), (p + "attn_k.weight", (kv, d)),
                (p + "attn_v.weight", (kv, d)), (p + "attn_output.weight", (d, a.heads * a.hd)), (p + "ffn_norm.weight", (d,)),
                (p + "ffn_gate.weight", (a.ff, d)), (p + "ffn_up.weight", (a.ff, d)), (p + "ffn_down.weight", (d, a.ff))]
    return out + [("output_norm.weight", (d,))]


def kind(name):
    """The GGUF format of each tensor."""
    if "norm" in name:
        return "F32"
    if "token_embd" in name:
        return "Q8_0"
    return "Q4_0" if "ffn_gate" in name or "ffn_up" in name else "Q5_0"


def fake_quant(x, k):
    if k == "F32":
        return x
    b = x.reshape(-1, 32)
    am = b.abs().amax(1, keepdim=True)
    if k == "Q8_0":
        d = am / 127
        q = torch.round(b / d.clamp_min(1e-12))
    else:
        h = 8 if k == "Q4_0" else 16
        m = torch.where(b.amax(1, keepdim=True) == am, am, -am)
        d = m / -h
        inv = torch.where(d == 0, torch.zeros_like(d), 1 / torch.where(d == 0, torch.ones_like(d), d))
        q = (torch.floor(b * inv + h + 0.5)).clamp(0, 2 * h - 1) - h
    return (q * d.half().float()).reshape(x.shape)


def make_loss(a, names):
    def loss(ws, x, y, cos, sin):
        w = dict(zip(names, ws))
        B, T = x.shape
        h = F.embedding(x, w["token_embd.weight"])

        def norm(v, g):
            v32 = v.float()
            return (v32 * torch.rsqrt(v32.pow(2).mean(-1, keepdim=True) + 1e-5) * g).to(v.dtype)

        def rope(v):
            e, o = v[..., 0::2], v[..., 1::2]
            return torch.stack([e * cos - o * sin, e * sin + o * cos], -1).flatten(-2)
        for i in range(a.layers):
            p = f"blk.{i}."
            n = norm(h, w[p + "attn_norm.weight"])
            q = F.linear(n, w[p + "attn_q.weight"]).view(B, T, a.heads, a.hd).transpose(1, 2)
            k = F.linear(n, w[p + "attn_k.weight"]).view(B, T, a.kv, a.hd).transpose(1, 2)
            v = F.linear(n, w[p + "attn_v.weight"]).view(B, T, a.kv, a.hd).transpose(1, 2)
            k, v = (t.repeat_interleave(a.heads // a.kv, 1) for t in (rope(k), v))
            o = F.scaled_dot_product_attention(rope(q), k, v, is_causal=True)
            h = h + F.linear(o.transpose(1, 2).reshape(B, T, -1), w[p + "attn_output.weight"])
            n = norm(h, w[p + "ffn_norm.weight"])
            h = h + F.linear(F.silu(F.linear(n, w[p + "ffn_gate.weight"])) * F.linear(n, w[p + "ffn_up.weight"]), w[p + "ffn_down.weight"])
        z = F.linear(norm(h, w["output_norm.weight"]), w["token_embd.weight"])
        return F.cross_entropy(z.float().flatten(0, 1), y.flatten(), ignore_index=-1)
    return loss


def pack(lens, rng, ctx):
    """Rows of ctx+1 tokens that start with a story: returns index arrays into the flat token array."""
    order = rng.permutation(len(lens) - 1)
    n = (lens[1:] - lens[:-1])[order]
    start = np.concatenate([[0], np.cumsum(n)])
    flat = np.repeat(lens[:-1][order] - start[:-1], n) + np.arange(start[-1])
    rows, i = [], 0
    while i < len(start) - 1 and start[i] + ctx + 1 <= len(flat):
        rows.append(start[i])
        i = np.searchsorted(start, start[i] + ctx + 1, "left")
        # the story cut by the end of the row is dropped for this epoch
    return flat[np.array(rows)[:, None] + np.arange(ctx + 1)]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--corpus", default="corpus.jsonl")
    ap.add_argument("--shards", default=".")
    ap.add_argument("--tokenizer", default="tokenizer.json")
    ap.add_argument("--only-tokenizer", action="store_true", help="train the tokenizer on --corpus, write it and stop")
    ap.add_argument("--out", default=".")
    ap.add_argument("--seconds", type=float, default=240)
    for k, v in dict(vocab=4096, dim=384, layers=10, heads=6, kv=2, hd=64, ff=1024, ctx=512, batch=128, warmup=150, val=1000, seed=7).items():
        ap.add_argument("--" + k, type=int, default=v)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--wd", type=float, default=0.1)
    ap.add_argument("--qat", type=float, default=0.6, help="quantisation-aware from this share of the time on")
    ap.add_argument("--device", default="cuda")
    a = ap.parse_args()
    t0 = time.time()
    dev, cuda = a.device, a.device == "cuda"
    bf = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    if a.only_tokenizer:                                          # needs --corpus only
        build_tokenizer([json.loads(x) for x in open(a.corpus)][:60000], a.vocab).save(a.tokenizer)
        return
    from tokenizers import Tokenizer
    tk = Tokenizer.from_file(a.tokenizer)
    V = tk.get_vocab_size()
    bos, eos = tk.token_to_id(BOS), tk.token_to_id(EOS)

    sh = shapes(a, V)
    names = [n for n, _ in sh]
    master = []
    for n, s in sh:
        if len(s) == 1:
            p = torch.ones(s)
        else:
            p = torch.randn(s) * (0.02 if "embd" in n else s[1] ** -0.5)
            if "attn_output" in n or "ffn_down" in n:
                p = p / math.sqrt(2 * a.layers)
        master.append(p.to(dev))
    nparam = sum(p.numel() for p in master)
    decay = [p for p, n in zip(master, names) if p.dim() == 2 and "embd" not in n]
    rest = [p for p, n in zip(master, names) if not (p.dim() == 2 and "embd" not in n)]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": a.wd}, {"params": rest, "weight_decay": 0.0}],
                            lr=a.lr, betas=(0.9, 0.95), fused=cuda)
    f = 10000.0 ** (-torch.arange(0, a.hd, 2, dtype=torch.float64) / a.hd)
    ang = torch.arange(a.ctx + 1, dtype=torch.float64)[:, None] * f
    cos, sin = ang.cos().to(dev, bf), ang.sin().to(dev, bf)
    work = [m.to(torch.float32 if m.dim() == 1 else bf).clone().requires_grad_() for m in master]

    def set_work(q):
        with torch.no_grad():
            for w, m, n in zip(work, master, names):
                w.copy_(fake_quant(m, kind(n)) if q else m)

    loss_fn = make_loss(a, names)
    step_fn, set_q = loss_fn, set_work
    if cuda:
        step_fn = torch.compile(loss_fn, dynamic=False)
        fq = torch.compile(lambda ms: [fake_quant(m, kind(n)) for m, n in zip(ms, names)], dynamic=False)

        def set_q(q):
            with torch.no_grad():
                torch._foreach_copy_(work, fq(master) if q else master)

    def evaluate(q, bs=128):
        set_work(q)
        tot = cnt = 0
        with torch.no_grad():
            for i in range(0, len(vx), bs):
                b = torch.from_numpy(vx[i:i + bs]).to(dev)
                x, y = b[:, :-1].clamp_min(0), b[:, 1:]
                l = loss_fn(work, x, y, cos[:x.shape[1]], sin[:x.shape[1]])
                k = int((y >= 0).sum())
                tot, cnt = tot + float(l) * k, cnt + k
        return tot / cnt

    # compile before the clock starts
    b = torch.randint(V, (a.batch, a.ctx + 1), device=dev)
    for n in range(3):
        try:
            set_q(True)
            l = step_fn(work, b[:, :-1].contiguous(), b[:, 1:].contiguous(), cos[:a.ctx], sin[:a.ctx])
            l.backward()
        except Exception as e:                                    # no working compiler: go on without
            if n:
                raise
            print("torch.compile failed:", str(e)[:300], flush=True)
            step_fn, set_q = loss_fn, set_work
        for w in work:
            w.grad = None
    print(f"{nparam} parameters, compiled, {time.time() - t0:.1f}s", flush=True)
    # the data: shards written by mix.py; validation: every twentieth story of gen_corpus.py, in the teacher's own words
    while not os.path.exists(a.shards + "/ready"):
        time.sleep(0.2)
    sd = [np.load(f) for f in sorted(glob.glob(a.shards + "/shard*.npz"))]
    data = torch.from_numpy(np.concatenate([s["tokens"] for s in sd]).astype(np.int32)).to(dev)
    trl = np.concatenate([[0], np.cumsum(np.concatenate([s["lens"] for s in sd]))])
    val = [json.loads(x) for x in open(a.corpus)][::20][:a.val]
    vx = np.full((len(val), a.ctx + 1), -1, np.int64)
    for i, s in enumerate(val):                                  # one story a row, from its first token
        ids = ([bos] + tk.encode(s).ids + [eos])[:a.ctx + 1]
        vx[i, :len(ids)] = ids
    with gzip.open(a.out + "/corpus_sample.json.gz", "wt") as f:
        json.dump({"validation": val, "train_sample": json.load(open(a.shards + "/sample.json"))}, f)
    log = csv.writer(open(a.out + "/loss.csv", "w", newline=""))
    log.writerow(["step", "tokens", "seconds", "train_loss", "val_loss"])
    print(f"{len(trl) - 1} stories, {len(data)} tokens, vocabulary {V}, {time.time() - t0:.1f}s", flush=True)
    t1 = time.time()
    total = a.seconds - (t1 - t0) - 5
    step, epoch, acc, stop, prequant = 0, 0, [], False, None
    while not stop:
        rows = torch.from_numpy(pack(trl, rng, a.ctx)).to(dev)
        epoch += 1
        for i in range(0, len(rows) - a.batch + 1, a.batch):
            if step % 10 == 0:
                if cuda:
                    torch.cuda.synchronize()
                frac = (time.time() - t1) / total
                if frac >= 1:
                    stop = True
                    break
            if frac >= a.qat and prequant is None:
                prequant = [evaluate(False), evaluate(True)]
                print("before the quantisation-aware phase: validation f32, quantised =", prequant, flush=True)
            lr = a.lr * min(1, (step + 1) / a.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(frac, 1))))
            for g in opt.param_groups:
                g["lr"] = lr
            set_q(prequant is not None)
            b = data[rows[i:i + a.batch]].long()
            l = step_fn(work, b[:, :-1].contiguous(), b[:, 1:].contiguous(), cos[:a.ctx], sin[:a.ctx])
            l.backward()
            gs = [w.grad.float() for w in work]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gs)))
            torch._foreach_mul_(gs, (1.0 / (norm + 1e-6)).clamp(max=1.0))
            for m, g, w in zip(master, gs, work):
                m.grad, w.grad = g, None
            opt.step()
            acc.append(l.detach())
            step += 1
            if step % 100 == 0:
                tl = float(torch.stack(acc).mean())
                acc = []
                v = evaluate(prequant is not None) if step % 400 == 0 else ""
                log.writerow([step, step * a.batch * a.ctx, round(time.time() - t1, 1), round(tl, 4), v and round(v, 4)])
                if step % 400 == 0:
                    print(step, epoch, f"{time.time() - t1:.1f}s", tl, v, flush=True)
    fin = [evaluate(False), evaluate(True)]
    names_sh = [[n, list(p.shape)] for n, p in zip(names, master)]
    blob = b"".join(p.half().cpu().numpy().tobytes() for p in master)
    for k in range(3):
        n = -(-len(blob) // 3)
        open(f"{a.out}/ck.{k}", "wb").write(blob[k * n:(k + 1) * n])
    rep = dict(parameters=nparam, stories=len(trl) - 1, train_tokens=len(data), vocabulary=V, bos=bos, eos=eos, steps=step, epochs=epoch,
               tokens_seen=step * a.batch * a.ctx, train_seconds=round(time.time() - t1, 1), tensors=names_sh,
               device=torch.cuda.get_device_name() if cuda else "cpu",
               before_qat={"f32": prequant and prequant[0], "quantised": prequant and prequant[1]},
               final={"f32": fin[0], "quantised": fin[1]}, args=vars(a))
    json.dump(rep, open(a.out + "/report.json", "w"), indent=1)
    print({k: v for k, v in rep.items() if k not in ("tensors", "args")}, flush=True)


if __name__ == "__main__":
    main()
