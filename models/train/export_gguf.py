"""Quantise the checkpoint (ck.0-2, report.json, tokenizer.json) and write the GGUF file."""
import argparse
import json

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType


def kind(name):
    if "norm" in name:
        return Q.F32
    if "token_embd" in name:
        return Q.Q8_0
    return Q.Q4_0 if "ffn_gate" in name or "ffn_up" in name else Q.Q5_0


ap = argparse.ArgumentParser()
ap.add_argument("--in", dest="src", default=".")
ap.add_argument("--out", default="stories.gguf")
a = ap.parse_args()
rep = json.load(open(a.src + "/report.json"))
tok = json.load(open(a.src + "/tokenizer.json"))["model"]
blob = b"".join(open(f"{a.src}/ck.{k}", "rb").read() for k in range(3))
flat, pos = np.frombuffer(blob, np.float16).astype(np.float32), 0
g = rep["args"]
w = gguf.GGUFWriter(a.out, "llama")
w.add_name("samebits stories")
w.add_license("apache-2.0")
w.add_description("a tiny model of children's stories")
w.add_context_length(g["ctx"])
w.add_embedding_length(g["dim"])
w.add_block_count(g["layers"])
w.add_feed_forward_length(g["ff"])
w.add_head_count(g["heads"])
w.add_head_count_kv(g["kv"])
w.add_key_length(g["hd"])
w.add_value_length(g["hd"])
w.add_rope_dimension_count(g["hd"])
w.add_rope_freq_base(10000.0)
w.add_layer_norm_rms_eps(1e-5)
w.add_vocab_size(rep["vocabulary"])
w.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
w.add_quantization_version(gguf.GGML_QUANT_VERSION)
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("gpt-2")
ids = sorted(tok["vocab"].items(), key=lambda x: x[1])
assert [i for _, i in ids] == list(range(rep["vocabulary"]))
w.add_token_list([t for t, _ in ids])
w.add_token_types([gguf.TokenType.CONTROL if i in (rep["bos"], rep["eos"]) else gguf.TokenType.NORMAL for _, i in ids])
w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tok["merges"]])
w.add_bos_token_id(rep["bos"])
w.add_eos_token_id(rep["eos"])
w.add_add_bos_token(True)
w.add_add_eos_token(False)
for name, shape in rep["tensors"]:
    n = int(np.prod(shape))
    x = flat[pos:pos + n].reshape(shape)
    pos += n
    k = kind(name)
    w.add_tensor(name, x if k == Q.F32 else gguf.quants.quantize(x, k), raw_dtype=k)
assert pos == len(flat)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
