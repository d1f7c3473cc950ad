//! Files changed at random, in their structure and in their bytes, through everything that reads a file: the container, the
//! model, its plan and a forward pass, the tokenizer, `inspect`. Whatever comes out is an error or works; memory stays within
//! a multiple of the file.
//!
//! `SAMEBITS_FUZZ_SECONDS` is the time to spend (default 45), `SAMEBITS_FUZZ_SEED` the first seed. A failure names its seed
//! and leaves the file in the target folder.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::mini::{CONTROL, Mini, NORMAL, USER_DEFINED};
use common::{Random, data, samebits, sizes, thread_time, variable};
use samebits::backend::cpu::{Cpu, Isa};
use samebits::engine::Session;
use samebits::gguf::{Array, Gguf, Value, type_name, write_string, write_value};
use samebits::model::Model;
use samebits::numerics::Precision;
use samebits::tokenizer::{EncodeOptions, Tokenizer};

/// Bytes in use now, and at most since the last reset.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s conditions, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `place` came from `alloc` above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `f` gives, and the bytes that it needed at most at a time.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = f();
    (result, PEAK.load(Ordering::Relaxed) - before)
}

/// A file as its parts, which may contradict each other.
#[derive(Clone)]
struct Parts {
    version: u32,
    counts: [Option<u64>; 2],
    metadata: Vec<(Vec<u8>, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone)]
struct Tensor {
    name: Vec<u8>,
    dims: Vec<u64>,
    type_id: u32,
    offset: Option<u64>,
    data: Vec<u8>,
}

impl Parts {
    fn of(bytes: Vec<u8>) -> Self {
        let gguf = Gguf::from_bytes(bytes).unwrap();
        let tensor = |t: &samebits::gguf::TensorInfo| Tensor {
            name: t.name.clone().into_bytes(),
            dims: t.dims.clone(),
            type_id: t.type_id,
            offset: None,
            data: gguf.data(t).to_vec(),
        };
        Self {
            version: 3,
            counts: [None; 2],
            metadata: gguf.metadata().iter().map(|(k, v)| (k.clone().into_bytes(), v.clone())).collect(),
            tensors: gguf.tensors().iter().map(tensor).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.counts[0].unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.counts[1].unwrap_or(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_string(&mut out, key);
            write_value(&mut out, value);
        }
        let mut at = 0;
        for t in &self.tensors {
            write_string(&mut out, &t.name);
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.type_id.to_le_bytes());
            out.extend(t.offset.unwrap_or(at).to_le_bytes());
            at += t.data.len().next_multiple_of(32) as u64;
        }
        out.resize(out.len().next_multiple_of(32), 0);
        for t in &self.tensors {
            out.extend(&t.data);
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out
    }
}

/// Keys that something reads, or must refuse.
const KEYS: &[&str] = &[
    "general.architecture",
    "general.name",
    "general.type",
    "general.alignment",
    "split.count",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scale_linear",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.low_freq_factor",
    "llama.expert_count",
    "llama.attention.sliding_window",
    "llama.unheard_of",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
];

const TEXTS: &[&str] = &[
    "",
    " ",
    "▁",
    "llama",
    "gpt2",
    "gemma4",
    "default",
    "qwen2",
    "superbpe",
    "linear",
    "llama3",
    "yarn",
    "none",
    "a",
    "ab",
    "<0x00>",
    "<0xFF>",
    "<0xGG>",
    "<unk>",
    "<s>",
    "</s>",
    "<|im_end|>",
    "<|end|>",
    "a b",
    "Ġ",
    "é",
    "\u{1b}[31m",
    "\u{9b}",
    "\0",
    "rope_freqs.weight",
    "token_embd.weight",
    "blk.0.attn_q.weight",
    "blk.99999999999.x",
];

const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    31,
    32,
    33,
    48,
    64,
    255,
    256,
    1 << 16,
    (1 << 24) - 1,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

const FLOATS: &[f32] =
    &[0.0, -0.0, 1.0, -1.0, 0.5, 4.0, 1e-30, 1e30, 1e-45, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 10000.0];

fn pick<'a, T>(random: &mut Random, list: &'a [T]) -> &'a T {
    &list[random.word() as usize % list.len()]
}

fn number(random: &mut Random) -> u64 {
    match random.word() % 4 {
        0 => u64::from(random.word()) << 32 | u64::from(random.word()),
        1 => u64::from(random.word() % 100),
        _ => *pick(random, NUMBERS),
    }
}

fn words(random: &mut Random) -> Vec<u8> {
    match random.word() % 4 {
        0 => (0..random.word() % 12).map(|_| random.word() as u8).collect(),
        1 => [*pick(random, TEXTS), *pick(random, TEXTS)].concat().into_bytes(),
        2 => pick(random, KEYS).as_bytes().to_vec(),
        _ => pick(random, TEXTS).as_bytes().to_vec(),
    }
}

fn value(random: &mut Random, depth: u32) -> Value {
    let n = number(random);
    let list = |random: &mut Random| (0..random.word() % 7).map(|_| number(random)).collect::<Vec<u64>>();
    match random.word() % 20 {
        0 => Value::U8(n as u8),
        1 => Value::I8(n as i8),
        2 => Value::U16(n as u16),
        3 => Value::I16(n as i16),
        4..=7 => Value::U32(n as u32),
        8 => Value::I32(n as i32),
        9 | 10 => Value::F32(*pick(random, FLOATS)),
        11 => Value::Bool(n.is_multiple_of(2)),
        12 => Value::U64(n),
        13 => Value::I64(n as i64),
        14 => Value::F64(f64::from(*pick(random, FLOATS))),
        15 => Value::Array(Array::I32(list(random).iter().map(|x| *x as i32).collect())),
        16 => Value::Array(Array::F32((0..random.word() % 9).map(|_| *pick(random, FLOATS)).collect())),
        17 => Value::Array(Array::Bytes((0..random.word() % 9).map(|_| words(random)).collect())),
        18 if depth < 6 => match value(random, depth + 1) {
            Value::Array(inner) => Value::Array(Array::Array(vec![inner; random.word() as usize % 4])),
            other => other,
        },
        _ => Value::Bytes(words(random)),
    }
}

/// Changes elements of a large array in place.
fn change_elements(random: &mut Random, array: &mut Array) {
    for _ in 0..1 + random.word() % 4 {
        let at = random.word() as usize;
        match array {
            Array::I32(v) if !v.is_empty() => {
                let at = at % v.len();
                v[at] = number(random) as i32 % 9;
            }
            Array::F32(v) if !v.is_empty() => {
                let at = at % v.len();
                v[at] = *pick(random, FLOATS);
            }
            Array::String(v) => *array = Array::Bytes(v.iter().map(|s| s.clone().into_bytes()).collect()),
            Array::Bytes(v) if !v.is_empty() => {
                let (at, other) = (at % v.len(), random.word() as usize % v.len());
                match random.word() % 4 {
                    0 => v[at] = v[other].clone(),
                    1 => v.truncate(at),
                    2 => v[at].extend(words(random)),
                    _ => v[at] = words(random),
                }
            }
            _ => return,
        }
    }
}

fn change(random: &mut Random, parts: &mut Parts) {
    let metadata = parts.metadata.len().max(1);
    let at = random.word() as usize % metadata;
    match random.word() % 16 {
        0..=3 => {
            let key = pick(random, KEYS).as_bytes().to_vec();
            let value = value(random, 0);
            match parts.metadata.iter_mut().find(|(k, _)| *k == key) {
                Some((_, old)) => *old = value,
                None => parts.metadata.push((key, value)),
            }
        }
        4 if at < parts.metadata.len() => parts.metadata[at].1 = value(random, 0),
        5 if at < parts.metadata.len() => drop(parts.metadata.remove(at)),
        6 if at < parts.metadata.len() => parts.metadata[at].0 = words(random),
        7..=9 => {
            let arrays =
                parts.metadata.iter_mut().filter_map(|(_, v)| if let Value::Array(a) = v { Some(a) } else { None });
            let mut arrays: Vec<&mut Array> = arrays.collect();
            if !arrays.is_empty() {
                let at = random.word() as usize % arrays.len();
                change_elements(random, arrays[at]);
            }
        }
        10 => parts.counts[random.word() as usize % 2] = Some(number(random)),
        11 if random.word().is_multiple_of(8) => parts.version = number(random) as u32,
        _ if !parts.tensors.is_empty() => {
            let at = random.word() as usize % parts.tensors.len();
            match random.word() % 6 {
                0 => drop(parts.tensors.remove(at)),
                1 => parts.tensors[at].name = words(random),
                2 => parts.tensors[at].type_id = random.word() % 48,
                3 => parts.tensors[at].offset = Some(number(random)),
                4 => {
                    let dims = &mut parts.tensors[at].dims;
                    let axis = random.word() as usize % dims.len().max(1);
                    match dims.get_mut(axis) {
                        Some(dim) if !random.word().is_multiple_of(4) => *dim = number(random),
                        _ => dims.push(number(random)),
                    }
                }
                _ => {
                    let data = &mut parts.tensors[at].data;
                    data.iter_mut().for_each(|b| *b ^= random.word() as u8);
                }
            }
        }
        _ => {}
    }
}

/// One changed file.
fn case(seed: u64, bases: &[Parts]) -> Vec<u8> {
    let random = &mut Random(seed);
    let mut parts = bases[seed as usize % bases.len()].clone();
    for _ in 0..random.word() % 4 {
        change(random, &mut parts);
    }
    let mut bytes = parts.bytes();
    for _ in 0..(random.word() % 6).saturating_sub(3) {
        // Most of what is not data lies in front.
        let reach = if random.word().is_multiple_of(4) { bytes.len() } else { bytes.len().min(4096) };
        let at = random.word() as usize % reach;
        match random.word() % 4 {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] = random.word() as u8,
            2 => bytes[at] ^= 1 << (random.word() % 8),
            _ => {
                let n = number(random).to_le_bytes();
                let end = (at + 8).min(bytes.len());
                bytes[at..end].copy_from_slice(&n[..end - at]);
            }
        }
    }
    bytes
}

/// What became of a file.
#[derive(Default)]
struct Outcome {
    opened: bool,
    model: bool,
    tokenizer: bool,
    ran: bool,
}

/// Everything that reads a file, with the limits on memory.
fn read(bytes: Vec<u8>) -> Outcome {
    let mut outcome = Outcome::default();
    let size = bytes.len();
    let (gguf, needed) = peak(|| Gguf::from_bytes(bytes));
    assert!(needed <= 12 * size + (1 << 16), "the container needs {needed} bytes for a file of {size}");
    let Ok(gguf) = gguf else { return outcome };
    outcome.opened = true;
    for (_, value) in gguf.metadata() {
        assert!(value.summary().chars().count() < 4096 + 64);
        drop(value.to_json());
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.data(tensor).len() as u64, tensor.bytes);
        assert!(!type_name(tensor.type_id).is_empty());
    }
    let (tokenizer, needed) = peak(|| Tokenizer::from_gguf(&gguf));
    // Patterns of pre-tokenizers and automata have a size of their own.
    assert!(needed <= 64 * size + (32 << 20), "the tokenizer needs {needed} bytes for a file of {size}");
    if let Ok(tokenizer) = tokenizer {
        outcome.tokenizer = true;
        for text in ["", "Hello <s>wörld</s> 12345\n\n  <|im_end|> ab \u{1F600}", "▁▁ <0x41>"] {
            for special in [false, true] {
                let options = EncodeOptions { add_special: special, parse_special: special };
                if let Ok(ids) = tokenizer.encode(text, options) {
                    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
                    drop((tokenizer.decode(&ids), tokenizer.odd(&ids)));
                }
            }
        }
        tokenizer.warnings().iter().for_each(|w| assert!(!w.to_string().is_empty()));
    }
    let (model, needed) = peak(|| Model::new(gguf));
    assert!(needed <= 12 * size + (1 << 20), "the model needs {needed} bytes for a file of {size}");
    let Ok(model) = model else { return outcome };
    outcome.model = true;
    let plan = model.plan(Precision::Fast).unwrap();
    let cpu = Cpu::with_isa(&model, plan, sizes(4, 2), 1, Isa::Scalar).unwrap();
    outcome.ran = Session::new(Box::new(cpu), 2).feed(&[0, 1 % model.config.vocabulary as u32], false).is_ok();
    outcome
}

#[test]
fn changed_files_give_an_error_or_a_model_within_bounded_memory() {
    let names = ["<|im_end|>", "ab", "hello"];
    let bases: Vec<Parts> = [
        Mini::spm(&names.map(|n| (n, NORMAL))).llama(1).bytes(),
        Mini::bpe("llama-bpe", &["hello", " world"], &names.map(|n| (n, CONTROL))).llama(1).bytes(),
        Mini::bpe("superbpe", &["hello", " 123"], &names.map(|n| (n, USER_DEFINED))).llama(2).bytes(),
        std::fs::read(data("tiny/tiny-feat_rope_factors.gguf")).unwrap(),
        std::fs::read(data("pre/gemma4.gguf")).unwrap(),
        std::fs::read(data("pre/bpe-youtu.gguf")).unwrap(),
    ]
    .into_iter()
    .map(Parts::of)
    .collect();
    let budget = Duration::from_secs(variable("SAMEBITS_FUZZ_SECONDS", 45));
    let (start, mut seed) = (Instant::now(), variable("SAMEBITS_FUZZ_SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let (mut files, mut counts) = (0u64, [0u64; 4]);
    while start.elapsed() < budget || files < 100 {
        let bytes = case(seed, &bases);
        let begun = thread_time();
        let copy = bytes.clone();
        let outcome = std::panic::catch_unwind(move || read(copy)).unwrap_or_else(|_| {
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{seed}.gguf"));
            std::fs::write(&path, &bytes).unwrap();
            panic!("SAMEBITS_FUZZ_SEED={seed} fails; the file is {}", path.display());
        });
        let time = thread_time() - begun;
        assert!(time < Duration::from_secs(20), "SAMEBITS_FUZZ_SEED={seed}: {time:?} for {} bytes", bytes.len());
        for (count, happened) in counts.iter_mut().zip([outcome.opened, outcome.tokenizer, outcome.model, outcome.ran])
        {
            *count += u64::from(happened);
        }
        if seed.is_multiple_of(997) {
            let path = folder.path().join("case.gguf");
            std::fs::write(&path, &bytes).unwrap();
            let output = samebits().arg("inspect").arg(&path).output().unwrap();
            let (code, said) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
            // A file may have become a part of a split model, whose other parts are not there.
            let opens = Gguf::open(&path).is_ok();
            assert!(outcome.opened || !opens, "SAMEBITS_FUZZ_SEED={seed}: opened as a file alone");
            assert_eq!(code, Some(if opens { 0 } else { 1 }), "SAMEBITS_FUZZ_SEED={seed}: inspect: {said}");
        }
        seed += 1;
        files += 1;
    }
    let [opened, tokenizers, models, ran] = counts;
    println!("{files} files: {opened} opened, {tokenizers} tokenizers, {models} models, {ran} ran");
    // The changes must not be so coarse that nothing gets through, nor so fine that everything does.
    assert!(models * 50 > files && ran > 0 && opened < files, "{counts:?} of {files}");
}
