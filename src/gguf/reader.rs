//! Reads and checks a file.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::types::ggml_type;
use super::{Array, GgufError, Value};

/// Nesting of arrays that is followed.
const MAX_DEPTH: usize = 4;

/// The bytes of a file.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

/// A tensor of the table, checked against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Elements per dimension, the fastest first.
    pub dims: Vec<u64>,
    /// ggml's number of its type.
    pub type_id: u32,
    /// Byte in the file where its data begins.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// An opened GGUF file.
#[derive(Debug)]
pub struct Gguf {
    bytes: Bytes,
    version: u32,
    alignment: u64,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

impl Gguf {
    /// Maps a file and checks it.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |reason: String| GgufError::Io { path: path.display().to_string(), reason };
        let file = File::open(path).map_err(|e| io(e.to_string()))?;
        let meta = file.metadata().map_err(|e| io(e.to_string()))?;
        if meta.is_dir() {
            return Err(io("it is a directory; give the .gguf file in it".to_owned()));
        }
        if meta.len() == 0 {
            return Err(io("it is empty; download it again".to_owned()));
        }
        // SAFETY: the map is read-only. If another process shortens the file while it is mapped, an access faults;
        // like every program that maps its model, this one asks its users not to do that.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io(e.to_string()))?;
        Self::parse(Bytes::Mapped(map), &path.display().to_string())
    }

    /// A file in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(Bytes::Owned(bytes), "the data")
    }

    /// A file that is part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, GgufError> {
        Self::parse(Bytes::Static(bytes), "the built-in model")
    }

    fn parse(bytes: Bytes, path: &str) -> Result<Self, GgufError> {
        let data = match &bytes {
            Bytes::Mapped(map) => &map[..],
            Bytes::Owned(v) => v,
            Bytes::Static(s) => s,
        };
        let mut r = Reader { data, at: 0 };
        check_magic(data, path)?;
        r.at = 4;
        let version = r.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(if (2..=3).contains(&version.swap_bytes()) {
                let reason = "it is big-endian; convert it to little-endian".to_owned();
                GgufError::NotGguf { path: path.to_owned(), reason }
            } else {
                GgufError::Version(version)
            });
        }
        // The smallest tensor entry has 24 bytes, the smallest metadata entry 13.
        let tensor_count = r.count("the tensor count", 24)?;
        let metadata_count = r.count("the metadata count", 13)?;
        let mut metadata: Vec<(String, Value)> = Vec::with_capacity(metadata_count);
        let mut keys = HashMap::with_capacity(metadata_count);
        for i in 0..metadata_count {
            let at = r.at;
            let key = r.string("a metadata key")?;
            if keys.insert(key.clone(), i).is_some() {
                return Err(damaged(format!("metadata key '{key}' appears twice"), at));
            }
            let kind = r.u32("a metadata type")?;
            let value = r.value(kind)?;
            metadata.push((key, value));
        }
        let number = |key: &str| keys.get(key).and_then(|&i| metadata[i].1.as_u64());
        if let Some(parts) = number("split.count").filter(|n| *n > 1) {
            return Err(GgufError::Split(format!("{parts} parts")));
        }
        let alignment = number("general.alignment").unwrap_or(32);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(damaged(format!("alignment {alignment}"), r.at));
        }
        let (tensors, names) = r.tensors(tensor_count, alignment)?;
        Ok(Self { version, alignment, metadata, keys, tensors, names, bytes })
    }

    /// The version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes that tensor data is aligned to.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Bytes of the file.
    pub fn file_size(&self) -> u64 {
        self.all().len() as u64
    }

    /// Metadata in the order of the file.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&i| &self.metadata[i].1)
    }

    fn require(&self, key: &str) -> Result<&Value, GgufError> {
        self.get(key).ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    /// A key that holds an unsigned number (of any integer type) below 2^32.
    pub fn get_u32(&self, key: &str) -> Result<u32, GgufError> {
        let value = self.require(key)?;
        let number = value.as_u64().and_then(|x| u32::try_from(x).ok());
        number.ok_or_else(|| wrong_type(key, value, "an unsigned 32-bit number"))
    }

    /// A key that holds a float.
    pub fn get_f32(&self, key: &str) -> Result<f32, GgufError> {
        match self.require(key)? {
            Value::F32(x) => Ok(*x),
            Value::F64(x) => Ok(*x as f32),
            other => Err(wrong_type(key, other, "a float")),
        }
    }

    /// A key that holds a truth value.
    pub fn get_bool(&self, key: &str) -> Result<bool, GgufError> {
        match self.require(key)? {
            Value::Bool(x) => Ok(*x),
            other => Err(wrong_type(key, other, "true or false")),
        }
    }

    /// A key that holds a string.
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        match self.require(key)? {
            Value::String(x) => Ok(x),
            other => Err(wrong_type(key, other, "a string")),
        }
    }

    /// A key that holds strings.
    pub fn get_strings(&self, key: &str) -> Result<&[String], GgufError> {
        match self.require(key)? {
            Value::Array(Array::String(x)) => Ok(x),
            other => Err(wrong_type(key, other, "an array of strings")),
        }
    }

    /// The tensor table.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).map(|&i| &self.tensors[i])
    }

    /// Says that a tensor's bytes will not be needed soon, so that their memory can serve others. They stay readable.
    pub fn release(&self, tensor: &TensorInfo) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            // SAFETY: the map is read-only and of a file, so dropped pages come back with the same contents.
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    tensor.offset as usize,
                    tensor.bytes as usize,
                )
            };
        }
        #[cfg(not(unix))]
        let _ = tensor;
    }

    /// The bytes of a tensor of this file.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.all()[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize]
    }

    fn all(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(v) => v,
            Bytes::Static(s) => s,
        }
    }
}

fn wrong_type(key: &str, found: &Value, expected: &'static str) -> GgufError {
    GgufError::WrongType { key: key.to_owned(), found: found.summary(), expected }
}

fn damaged(what: impl Into<String>, at: usize) -> GgufError {
    GgufError::Damaged { what: what.into(), at: at as u64 }
}

fn check_magic(data: &[u8], path: &str) -> Result<(), GgufError> {
    let reason = match data {
        [b'G', b'G', b'U', b'F', ..] => return Ok(()),
        [b'l' | b'f' | b't', b'j' | b'm', b'g', b'g', ..] => "it is in the old GGML format; convert the model to GGUF",
        [b'P', b'K', ..] => "it is a zip or PyTorch file; convert the model with convert_hf_to_gguf.py",
        [_, _, _, _, _, _, _, _, b'{', ..] => "it looks like safetensors; convert the model with convert_hf_to_gguf.py",
        [b'<', ..] => "it looks like a web page; download the file itself",
        _ => "it does not begin with 'GGUF'",
    };
    Err(GgufError::NotGguf { path: path.to_owned(), reason: reason.to_owned() })
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, what: &str, n: u64) -> Result<&'a [u8], GgufError> {
        let left = (self.data.len() - self.at) as u64;
        if n > left {
            let what = what.to_owned();
            return Err(GgufError::Truncated { what, at: self.at as u64, needed: n, left });
        }
        let slice = &self.data[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(slice)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(array(self.take(what, 4)?)))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(array(self.take(what, 8)?)))
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, what: &str, least: u64) -> Result<usize, GgufError> {
        let at = self.at as u64;
        let count = self.u64(what)?;
        let left = (self.data.len() - self.at) as u64;
        match count.checked_mul(least) {
            Some(needed) if needed <= left => Ok(count as usize),
            needed => {
                let needed = needed.unwrap_or(u64::MAX);
                Err(GgufError::Truncated { what: format!("{what} ({count})"), at, needed, left })
            }
        }
    }

    fn string(&mut self, what: &str) -> Result<String, GgufError> {
        let at = self.at;
        let n = self.count(what, 1)? as u64;
        match std::str::from_utf8(self.take(what, n)?) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => Err(damaged(format!("{what} is not UTF-8"), at)),
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        let what = "a metadata value";
        let at = self.at;
        Ok(match kind {
            0 => Value::U8(self.take(what, 1)?[0]),
            1 => Value::I8(self.take(what, 1)?[0] as i8),
            2 => Value::U16(u16::from_le_bytes(array(self.take(what, 2)?))),
            3 => Value::I16(i16::from_le_bytes(array(self.take(what, 2)?))),
            4 => Value::U32(self.u32(what)?),
            5 => Value::I32(self.u32(what)? as i32),
            6 => Value::F32(f32::from_bits(self.u32(what)?)),
            7 => Value::Bool(self.take(what, 1)?[0] != 0),
            8 => Value::String(self.string(what)?),
            9 => Value::Array(self.array(1)?),
            10 => Value::U64(self.u64(what)?),
            11 => Value::I64(self.u64(what)? as i64),
            12 => Value::F64(f64::from_bits(self.u64(what)?)),
            _ => return Err(damaged(format!("metadata type {kind}"), at)),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array, GgufError> {
        let at = self.at;
        let kind = self.u32("an array type")?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 if depth < MAX_DEPTH => 12,
            _ => return Err(damaged(format!("array type {kind}"), at)),
        };
        let n = self.count("an array length", size)?;
        if kind == 8 {
            return (0..n).map(|_| self.string("a string of an array")).collect::<Result<_, _>>().map(Array::String);
        }
        if kind == 9 {
            return (0..n).map(|_| self.array(depth + 1)).collect::<Result<_, _>>().map(Array::Array);
        }
        let raw = self.take("an array", n as u64 * size)?;
        Ok(match kind {
            0 => Array::U8(raw.to_vec()),
            1 => Array::I8(raw.iter().map(|b| *b as i8).collect()),
            2 => Array::U16(raw.chunks_exact(2).map(|b| u16::from_le_bytes(array(b))).collect()),
            3 => Array::I16(raw.chunks_exact(2).map(|b| i16::from_le_bytes(array(b))).collect()),
            4 => Array::U32(raw.chunks_exact(4).map(|b| u32::from_le_bytes(array(b))).collect()),
            5 => Array::I32(raw.chunks_exact(4).map(|b| i32::from_le_bytes(array(b))).collect()),
            6 => Array::F32(raw.chunks_exact(4).map(|b| f32::from_le_bytes(array(b))).collect()),
            7 => Array::Bool(raw.iter().map(|b| *b != 0).collect()),
            10 => Array::U64(raw.chunks_exact(8).map(|b| u64::from_le_bytes(array(b))).collect()),
            11 => Array::I64(raw.chunks_exact(8).map(|b| i64::from_le_bytes(array(b))).collect()),
            _ => Array::F64(raw.chunks_exact(8).map(|b| f64::from_le_bytes(array(b))).collect()),
        })
    }

    #[allow(clippy::type_complexity)]
    fn tensors(
        &mut self,
        count: usize,
        alignment: u64,
    ) -> Result<(Vec<TensorInfo>, HashMap<String, usize>), GgufError> {
        let mut tensors = Vec::with_capacity(count);
        let mut names = HashMap::with_capacity(count);
        let mut starts = HashSet::with_capacity(count);
        for i in 0..count {
            let at = self.at;
            let name = self.string("a tensor name")?;
            let rank = self.u32("a tensor's rank")?;
            if !(1..=4).contains(&rank) {
                return Err(damaged(format!("tensor '{name}' has {rank} dimensions"), at));
            }
            let dims = (0..rank).map(|_| self.u64("a tensor's shape")).collect::<Result<Vec<_>, _>>()?;
            let type_id = self.u32("a tensor's type")?;
            let offset = self.u64("a tensor's offset")?;
            let bytes = size(&dims, type_id)
                .ok_or_else(|| damaged(format!("tensor '{name}' has shape {dims:?} and type {type_id}"), at))?;
            if !offset.is_multiple_of(alignment) {
                return Err(damaged(format!("tensor '{name}' begins at {offset}, not aligned to {alignment}"), at));
            }
            if names.insert(name.clone(), i).is_some() {
                return Err(damaged(format!("tensor '{name}' appears twice"), at));
            }
            if !starts.insert(offset) {
                return Err(damaged(format!("tensor '{name}' begins where another does"), at));
            }
            tensors.push(TensorInfo { name, dims, type_id, offset, bytes });
        }
        let base = (self.at as u64).next_multiple_of(alignment);
        for t in &mut tensors {
            let end = base.checked_add(t.offset).and_then(|start| start.checked_add(t.bytes));
            if end.is_none_or(|end| end > self.data.len() as u64) {
                let left = (self.data.len() as u64).saturating_sub(base.saturating_add(t.offset));
                let what = format!("the data of tensor '{}'", t.name);
                return Err(GgufError::Truncated { what, at: base.saturating_add(t.offset), needed: t.bytes, left });
            }
            t.offset += base;
        }
        let mut order: Vec<&TensorInfo> = tensors.iter().collect();
        order.sort_by_key(|t| t.offset);
        if let Some(pair) = order.windows(2).find(|p| p[0].offset + p[0].bytes > p[1].offset) {
            let what = format!("tensors '{}' and '{}' overlap", pair[0].name, pair[1].name);
            return Err(damaged(what, pair[1].offset as usize));
        }
        Ok((tensors, names))
    }
}

/// Bytes of a tensor, or `None` where the shape is impossible for the type.
fn size(dims: &[u64], type_id: u32) -> Option<u64> {
    let ty = ggml_type(type_id)?;
    let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    if elements == 0 || !dims[0].is_multiple_of(ty.block as u64) {
        return None;
    }
    (elements / ty.block as u64).checked_mul(ty.bytes as u64)
}

/// A slice of known length as an array; shorter ones are filled with zeros.
fn array<const N: usize>(slice: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out[..slice.len().min(N)].copy_from_slice(&slice[..slice.len().min(N)]);
    out
}
