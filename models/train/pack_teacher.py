"""Pack the teacher's GGUF (Q4_1 body, Q8_0 embedding) into a file that is small enough to carry about.

The embedding keeps only the rows of the tokens that plain English children's stories need, with 6 bits;
the 4-bit body is stored as it is (but for a few bits of the block scales) and entropy-coded.  Output: teacher.bin (zlib) + teacher_tok.json.gz.
"""
import argparse
import gzip
import json
import re
import zlib

import gguf
import numpy as np

import plots

ap = argparse.ArgumentParser()
ap.add_argument("--gguf", required=True)
ap.add_argument("--out", default=".")
ap.add_argument("--first", type=int, default=6000, help="keep the plain-ASCII tokens among the first N")
a = ap.parse_args()
r = gguf.GGUFReader(a.gguf)
toks = [bytes(r.fields["tokenizer.ggml.tokens"].parts[i]).decode() for i in r.fields["tokenizer.ggml.tokens"].data]
merges = [bytes(r.fields["tokenizer.ggml.merges"].parts[i]).decode() for i in r.fields["tokenizer.ggml.merges"].data]
types = [int(r.fields["tokenizer.ggml.token_type"].parts[i][0]) for i in r.fields["tokenizer.ggml.token_type"].data]
json.dump({"tokens": toks, "merges": merges, "special": [t for t, k in zip(toks, types) if k != 1]},
          gzip.open(a.out + "/teacher_tok.json.gz", "wt"))
from gen_corpus import make_tokenizer, context  # noqa: E402  (same tokenizer as at generation time)
tk = make_tokenizer(a.out + "/teacher_tok.json.gz")
ok = re.compile(r"^[\u0120\u010aA-Za-z',.!?\";:-]+$")     # space and newline are written as these two letters
keep = {0, 1, 2} | {i for i in range(a.first) if types[i] == 1 and ok.match(toks[i])}
for i in range(30000):
    for c in context(plots.plan(i)):
        keep |= set(tk.encode(c).ids)
keep |= {i for i, t in enumerate(toks) if len(t) == 1 and ok.match(t)}
keep = np.array(sorted(keep), np.int32)
print("tokens kept", len(keep))


def co(x):
    c = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    return c.compress(np.ascontiguousarray(x).tobytes()) + c.flush()


blobs, index = [], []
for t in r.tensors:
    shape = [int(x) for x in t.shape][::-1]
    name, kind = t.name, t.tensor_type.name
    if kind == "F32":
        parts = [t.data.astype(np.float32)]
    elif kind == "Q4_1":
        b = t.data.reshape(-1, 20).copy()
        h = np.ascontiguousarray(b[:, :4]).view(np.uint16)               # scale and minimum, rounded to 5 bits of fraction
        h[:, 0] = (h[:, 0] + 16) & 0xFFE0
        h[:, 1] = (h[:, 1] + 16) & 0xFFE0
        b[:, :4] = h.view(np.uint8)
        parts = [b[:, 0], b[:, 1], b[:, 2], b[:, 3], b[:, 4:]]
    else:
        assert kind == "Q8_0"
        b = t.data.reshape(shape[0], -1, 34)[keep]
        shape[0] = len(keep)
        q = np.clip((np.ascontiguousarray(b[..., 2:]).view(np.int8).astype(np.int16) + 2) & ~3, -128, 124).astype(np.int8)   # 6 bits
        parts = [b[..., 0], b[..., 1], q]
    cs = [co(p) for p in parts]
    index.append({"name": name, "kind": kind, "shape": shape, "parts": [len(c) for c in cs]})
    blobs += cs
head = json.dumps({"keep": keep.tolist(), "tensors": index}).encode()
with open(a.out + "/teacher.bin", "wb") as f:
    f.write(len(head).to_bytes(8, "little") + head)
    for b in blobs:
        f.write(b)
    print("bytes", f.tell())
