//! Small GGUF files made for a test: a llama of two layers, with a SentencePiece or a byte-level vocabulary.

use samebits::gguf::{Array, Gguf, GgufError, GgufWriter, Value};
use samebits::model::{Model, ModelError};
use samebits::tokenizer::{Tokenizer, TokenizerError};

use super::Random;

/// Numbers of `tokenizer.ggml.token_type`.
pub const NORMAL: i32 = 1;
pub const UNKNOWN: i32 = 2;
pub const CONTROL: i32 = 3;
pub const USER_DEFINED: i32 = 4;
pub const BYTE: i32 = 6;

/// A tensor: name, shape with the fastest dimension first, numbers.
type Tensor = (String, Vec<u64>, Vec<f32>);

/// A file that is changed before it is written.
#[derive(Clone)]
pub struct Mini {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

pub fn text(s: &str) -> Value {
    Value::String(s.to_owned())
}

pub fn texts<T: AsRef<str>>(list: &[T]) -> Value {
    Value::Array(Array::String(list.iter().map(|s| s.as_ref().to_owned()).collect()))
}

/// `<unk> <s> </s>`, all bytes, printable ASCII, then `extra` with better and better scores.
pub fn spm_tokens(extra: &[(&str, i32)]) -> Vec<(String, i32)> {
    let mut tokens: Vec<(String, i32)> =
        [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)].map(|(t, k)| (t.to_owned(), k)).to_vec();
    tokens.extend((0..=255).map(|b| (format!("<0x{b:02X}>"), BYTE)));
    tokens.push(("▁".to_owned(), NORMAL));
    tokens.extend((33u8..127).map(|c| (char::from(c).to_string(), NORMAL)));
    tokens.extend(extra.iter().map(|(t, k)| ((*t).to_owned(), *k)));
    tokens
}

impl Mini {
    /// A vocabulary alone.
    pub fn vocabulary(model: &str, tokens: &[(String, i32)]) -> Self {
        let names: Vec<&str> = tokens.iter().map(|t| t.0.as_str()).collect();
        let scores = (0..tokens.len()).map(|i| -(i as f32)).collect();
        Self { metadata: Vec::new(), tensors: Vec::new() }
            .set("tokenizer.ggml.model", text(model))
            .set("tokenizer.ggml.tokens", texts(&names))
            .set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)))
            .set("tokenizer.ggml.token_type", Value::Array(Array::I32(tokens.iter().map(|t| t.1).collect())))
    }

    /// The contents of a file, all its tensors as f32.
    pub fn of(gguf: &Gguf) -> Self {
        let tensor = |t: &samebits::gguf::TensorInfo| {
            let mut values = vec![0.0; t.dims.iter().product::<u64>() as usize];
            samebits::quant::format(t.type_id).unwrap().dequantize(gguf.data(t), &mut values);
            (t.name.clone(), t.dims.clone(), values)
        };
        Self { metadata: gguf.metadata().to_vec(), tensors: gguf.tensors().iter().map(tensor).collect() }
    }

    /// A SentencePiece vocabulary alone.
    pub fn spm(extra: &[(&str, i32)]) -> Self {
        Self::vocabulary("llama", &spm_tokens(extra))
            .set("tokenizer.ggml.bos_token_id", Value::U32(1))
            .set("tokenizer.ggml.eos_token_id", Value::U32(2))
    }

    /// A byte-level vocabulary alone: the bytes, the merges that make the words, then `extra`.
    pub fn bpe(pre: &str, words: &[&str], extra: &[(&str, i32)]) -> Self {
        let letters = byte_letters();
        let mut tokens: Vec<(String, i32)> = letters.iter().map(|c| (c.to_string(), NORMAL)).collect();
        let mut merges: Vec<String> = Vec::new();
        for word in words {
            let mut left = String::new();
            for letter in word.bytes().map(|b| letters[usize::from(b)]) {
                if !left.is_empty() && !tokens.iter().any(|t| t.0 == format!("{left}{letter}")) {
                    tokens.push((format!("{left}{letter}"), NORMAL));
                    merges.push(format!("{left} {letter}"));
                }
                left.push(letter);
            }
        }
        tokens.extend(extra.iter().map(|(t, k)| ((*t).to_owned(), *k)));
        Self::vocabulary("gpt2", &tokens)
            .set("tokenizer.ggml.pre", text(pre))
            .set("tokenizer.ggml.merges", texts(&merges))
            .without("tokenizer.ggml.scores")
    }

    /// A llama of `layers` layers, 32 wide, with random weights and the vocabulary of this file.
    pub fn llama(mut self, layers: usize) -> Self {
        let rows = self.strings("tokenizer.ggml.tokens").len();
        let (width, heads, kv_heads, ff) = (32, 4, 2, 48);
        for (name, value) in [
            ("block_count", layers),
            ("context_length", 64),
            ("embedding_length", width),
            ("feed_forward_length", ff),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv_heads),
        ] {
            self = self.set(&format!("llama.{name}"), Value::U32(value as u32));
        }
        self = self
            .set("general.architecture", text("llama"))
            .set("general.name", text("mini"))
            .set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        let mut random = Random(7);
        let mut matrix = |name: &str, rows: usize, cols: usize| {
            (format!("{name}.weight"), vec![cols as u64, rows as u64], random.floats(rows * cols, -6, -1))
        };
        let norm = |name: &str| (format!("{name}.weight"), vec![width as u64], vec![1.0; width]);
        let kv = width / heads * kv_heads;
        let mut tensors = vec![matrix("token_embd", rows, width)];
        for layer in 0..layers {
            let blk = |part: &str| format!("blk.{layer}.{part}");
            tensors.extend([norm(&blk("attn_norm")), norm(&blk("ffn_norm"))]);
            for (part, rows, cols) in [
                ("attn_q", width, width),
                ("attn_k", kv, width),
                ("attn_v", kv, width),
                ("attn_output", width, width),
                ("ffn_gate", ff, width),
                ("ffn_up", ff, width),
                ("ffn_down", width, ff),
            ] {
                tensors.push(matrix(&blk(part), rows, cols));
            }
        }
        tensors.extend([norm("output_norm"), matrix("output", rows, width)]);
        self.tensors = tensors;
        self
    }

    /// With this key.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    /// Without this key.
    pub fn without(mut self, key: &str) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self
    }

    /// With one more tensor.
    pub fn tensor(mut self, name: &str, dims: &[u64]) -> Self {
        let n = dims.iter().product::<u64>() as usize;
        self.tensors.push((name.to_owned(), dims.to_vec(), vec![0.3; n]));
        self
    }

    pub fn strings(&self, key: &str) -> Vec<String> {
        match self.metadata.iter().find(|(k, _)| k == key) {
            Some((_, Value::Array(Array::String(list)))) => list.clone(),
            other => panic!("{key}: {other:?}"),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let table: Vec<_> = self.tensors.iter().map(|t| (t.0.clone(), t.1.clone(), 0)).collect();
        let mut writer = GgufWriter::new(&self.metadata, &table).unwrap();
        let mut bytes = Vec::new();
        writer.write_header(&mut bytes).unwrap();
        for (.., data) in &self.tensors {
            writer.write_tensor(&mut bytes, bytemuck::cast_slice(data)).unwrap();
        }
        bytes
    }

    /// The bytes with another number as the type of one tensor.
    pub fn bytes_with_type(&self, tensor: &str, type_id: u32) -> Vec<u8> {
        let mut bytes = self.bytes();
        let dims = &self.tensors.iter().find(|t| t.0 == tensor).unwrap().1;
        let at = bytes.windows(tensor.len()).rposition(|w| w == tensor.as_bytes()).unwrap();
        let at = at + tensor.len() + 4 + 8 * dims.len();
        bytes[at..at + 4].copy_from_slice(&type_id.to_le_bytes());
        bytes
    }

    pub fn gguf(&self) -> Result<Gguf, GgufError> {
        Gguf::from_bytes(self.bytes())
    }

    pub fn model(&self) -> Result<Model, ModelError> {
        Model::new(self.gguf()?)
    }

    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_gguf(&self.gguf()?)
    }

    /// The message of what keeps this from being a model, or an empty text.
    pub fn refusal(&self) -> String {
        self.model().err().map_or_else(String::new, |e| e.to_string())
    }
}

/// GPT-2's printable characters for the 256 bytes.
pub fn byte_letters() -> Vec<char> {
    let same = |b: u32| (33..127).contains(&b) || (0xa1..0xad).contains(&b) || (0xae..0x100).contains(&b);
    let mut others = 0x100..;
    (0..256).map(|b| char::from_u32(if same(b) { b } else { others.next().unwrap() }).unwrap()).collect()
}
