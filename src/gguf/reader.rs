//! Reads and checks a file.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use memmap2::Mmap;

use super::types::{GgmlType, ggml_type};
use super::{Array, GgufError, Value, shards};

/// Nesting of arrays that is followed.
const MAX_DEPTH: usize = 4;

/// Elements that a byte of a type without a layout may hold at most: what is beyond is no tensor.
const ELEMENTS_PER_BYTE: u64 = 64;

/// Bytes read at a time from what is no regular file.
const PIECE: u64 = 1 << 24;

/// The bytes of a file.
#[derive(Debug)]
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(v) => v,
            Self::Static(s) => s,
        }
    }
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
    /// The file that holds its data, of a model in several.
    pub part: usize,
    /// Byte in that file where its data begins.
    pub offset: u64,
    /// Bytes of data. A type that is not known has no size: its data then reaches to the next tensor.
    pub bytes: u64,
}

/// An opened GGUF file, or the files of a split model as one.
#[derive(Debug)]
pub struct Gguf {
    /// One for each file.
    pub(super) parts: Vec<Bytes>,
    version: u32,
    alignment: u64,
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) keys: HashMap<String, usize>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) names: HashMap<String, usize>,
}

impl Gguf {
    /// Maps a file and checks it; of a split model all its files, whichever is given. What is no regular file (a pipe, a device) is
    /// read into memory.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        shards::joined(path, Self::open_one(path)?)
    }

    /// One file, which may be a part of a split model.
    pub(super) fn open_one(path: &Path) -> Result<Self, GgufError> {
        let name = path.display().to_string();
        let io = |reason: String| GgufError::Io { path: name.clone(), reason };
        let file = File::open(path).map_err(|e| io(e.to_string()))?;
        let meta = file.metadata().map_err(|e| io(e.to_string()))?;
        if meta.is_dir() {
            return Err(io("it is a directory; give the .gguf file in it".to_owned()));
        }
        if !meta.is_file() {
            return Self::parse(Bytes::Owned(read_stream(file, &name)?), &name);
        }
        if meta.len() == 0 {
            return Err(io("it is empty; download it again".to_owned()));
        }
        // SAFETY: the map is read-only. If another process shortens the file while it is mapped, an access faults;
        // like every program that maps its model, this one asks its users not to do that.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io(e.to_string()))?;
        Self::parse(Bytes::Mapped(map), &name)
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
        let data = bytes.all();
        let mut r = Reader { data, at: 0 };
        check_magic(data, path)?;
        r.at = 4;
        let version = r.u32("the version")?;
        match version {
            2 | 3 => {}
            big_endian if (2..=3).contains(&big_endian.swap_bytes()) => {
                let reason = "it is big-endian; convert it to little-endian".to_owned();
                return Err(GgufError::NotGguf { path: path.to_owned(), reason });
            }
            0 | 1 => return Err(GgufError::OldVersion(version)),
            4..=255 => return Err(GgufError::NewVersion(version)),
            _ => return Err(damaged(format!("version {version}"), 4)),
        }
        // The smallest tensor entry has 24 bytes, the smallest metadata entry 13.
        let tensor_count = r.count("the tensor count", 24)?;
        let metadata_count = r.count("the metadata count", 13)?;
        let mut metadata: Vec<(String, Value)> = Vec::new();
        let mut keys = HashMap::new();
        for i in 0..metadata_count {
            let at = r.at;
            let key = r.name("a metadata key")?;
            let kind = r.u32("a metadata type")?;
            let value = r.value(kind)?;
            keys.try_reserve(1).map_err(|_| memory("the metadata", i * 64))?;
            if keys.insert(key.clone(), i).is_some() {
                return Err(damaged(format!("metadata key '{key}' appears twice"), at));
            }
            push(&mut metadata, (key, value), "the metadata")?;
        }
        let number = |key: &str| keys.get(key).and_then(|&i| metadata[i].1.as_u64());
        let alignment = number("general.alignment").unwrap_or(32);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(damaged(format!("alignment {alignment}"), r.at));
        }
        let (tensors, names) = r.tensors(tensor_count, alignment)?;
        Ok(Self { version, alignment, metadata, keys, tensors, names, parts: vec![bytes] })
    }

    /// Says that all tensors of the model are here.
    ///
    /// # Errors
    /// [`GgufError::Split`]: some lie in other files, which cannot be found as this one has no path.
    pub fn whole(&self) -> Result<(), GgufError> {
        match shards::count(self) {
            Some(parts) => Err(GgufError::Split(parts)),
            None => Ok(()),
        }
    }

    /// How many files it is made of.
    pub fn files(&self) -> usize {
        self.parts.len()
    }

    /// The version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes that tensor data is aligned to.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// All bytes of each file that the model is made of.
    pub fn parts(&self) -> Vec<&[u8]> {
        self.parts.iter().map(Bytes::all).collect()
    }

    /// Bytes of all files.
    pub fn file_size(&self) -> u64 {
        self.parts.iter().map(|part| part.all().len() as u64).sum()
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

    /// A key that holds a string. As in llama.cpp, it ends before a NUL.
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        match self.require(key)? {
            Value::String(x) => Ok(x.split('\0').next().unwrap_or_default()),
            other => Err(wrong_type(key, other, "a string")),
        }
    }

    /// A key that holds text for people; bytes that are no UTF-8 become U+FFFD.
    pub fn get_text(&self, key: &str) -> Result<Cow<'_, str>, GgufError> {
        match self.require(key)? {
            Value::String(x) => Ok(x.into()),
            Value::Bytes(x) => Ok(String::from_utf8_lossy(x)),
            other => Err(wrong_type(key, other, "a string")),
        }
    }

    /// A key that holds strings, UTF-8 or not.
    pub fn get_strings(&self, key: &str) -> Result<Vec<&[u8]>, GgufError> {
        match self.require(key)? {
            Value::Array(Array::String(x)) => Ok(x.iter().map(String::as_bytes).collect()),
            Value::Array(Array::Bytes(x)) => Ok(x.iter().map(Vec::as_slice).collect()),
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
        if let Bytes::Mapped(map) = &self.parts[tensor.part] {
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
        &self.parts[tensor.part].all()[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize]
    }
}

fn wrong_type(key: &str, found: &Value, expected: &'static str) -> GgufError {
    GgufError::WrongType { key: key.to_owned(), found: found.summary(), expected }
}

fn damaged(what: impl Into<String>, at: usize) -> GgufError {
    GgufError::Damaged { what: what.into(), at: at as u64 }
}

fn memory(what: &str, bytes: usize) -> GgufError {
    GgufError::Memory { what: what.to_owned(), bytes: bytes as u64 }
}

/// Appends without aborting where memory ends.
fn push<T>(list: &mut Vec<T>, element: T, what: &str) -> Result<(), GgufError> {
    list.try_reserve(1).map_err(|_| memory(what, list.len() * size_of::<T>()))?;
    list.push(element);
    Ok(())
}

/// All that a pipe or device gives; what does not begin like a GGUF file is not read further.
fn read_stream(mut file: File, name: &str) -> Result<Vec<u8>, GgufError> {
    let io = |reason: String| GgufError::Io { path: name.to_owned(), reason };
    let mut bytes = Vec::new();
    let mut piece = 64;
    loop {
        bytes.try_reserve(piece as usize).map_err(|_| memory("what the pipe gives", bytes.len()))?;
        let n = file.by_ref().take(piece).read_to_end(&mut bytes).map_err(|e| io(e.to_string()))?;
        if bytes.is_empty() {
            return Err(io("it is a pipe or device that gives no data; give a regular file".to_owned()));
        }
        if n == 0 {
            return Ok(bytes);
        }
        check_magic(&bytes, name)?;
        piece = PIECE;
    }
}

fn check_magic(data: &[u8], path: &str) -> Result<(), GgufError> {
    let reason = match data {
        [b'G', b'G', b'U', b'F', ..] => return Ok(()),
        _ if data.starts_with(b"version https://git-lfs") => {
            "it is a Git LFS pointer, which stands for the file; run `git lfs pull`, or download the file itself"
        }
        [b'l' | b'f' | b't', b'j' | b'm', b'g', b'g', ..] => "it is in the old GGML format; convert the model to GGUF",
        [b'a' | b'l', b'l' | b'a', b'g', b'g', ..] => "it is an old GGML adapter (LoRA); convert it to GGUF",
        [b'P', b'K', ..] => "it is a zip or PyTorch file; convert the model with convert_hf_to_gguf.py",
        [_, _, _, _, _, _, _, _, b'{', ..] => "it looks like safetensors; convert the model with convert_hf_to_gguf.py",
        [0x1f, 0x8b, ..]
        | [0x28, 0xb5, 0x2f, 0xfd, ..]
        | [0xfd, b'7', b'z', b'X', b'Z', ..]
        | [b'B', b'Z', b'h', ..] => "it is compressed (gzip, zstd, xz or bzip2); unpack it first",
        [b'<', ..] => "it looks like a web page; download the file itself",
        [b'{', ..] => "it looks like JSON; give the .gguf file",
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

    fn string(&mut self, what: &str) -> Result<Vec<u8>, GgufError> {
        let n = self.count(what, 1)? as u64;
        let slice = self.take(what, n)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(slice.len()).map_err(|_| memory(what, slice.len()))?;
        bytes.extend_from_slice(slice);
        Ok(bytes)
    }

    /// The name of a key or tensor; bytes that are no UTF-8 are written as `\xff`.
    fn name(&mut self, what: &str) -> Result<String, GgufError> {
        let bytes = self.string(what)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| {
            let escaped = |chunk: std::str::Utf8Chunk<'_>| {
                let invalid: String = chunk.invalid().iter().map(|b| format!("\\x{b:02x}")).collect();
                format!("{}{invalid}", chunk.valid())
            };
            e.as_bytes().utf8_chunks().map(escaped).collect()
        }))
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
            8 => String::from_utf8(self.string(what)?).map_or_else(|e| Value::Bytes(e.into_bytes()), Value::String),
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
            let mut strings: Vec<Vec<u8>> = Vec::new();
            for _ in 0..n {
                push(&mut strings, self.string("a string of an array")?, "an array of strings")?;
            }
            if strings.iter().any(|s| std::str::from_utf8(s).is_err()) {
                return Ok(Array::Bytes(strings));
            }
            return Ok(Array::String(strings.into_iter().filter_map(|s| String::from_utf8(s).ok()).collect()));
        }
        if kind == 9 {
            let mut arrays = Vec::new();
            for _ in 0..n {
                push(&mut arrays, self.array(depth + 1)?, "an array of arrays")?;
            }
            return Ok(Array::Array(arrays));
        }
        let raw = self.take("an array", n as u64 * size)?;
        Ok(match kind {
            0 => Array::U8(numbers(raw, u8::from_le_bytes)?),
            1 => Array::I8(numbers(raw, i8::from_le_bytes)?),
            2 => Array::U16(numbers(raw, u16::from_le_bytes)?),
            3 => Array::I16(numbers(raw, i16::from_le_bytes)?),
            4 => Array::U32(numbers(raw, u32::from_le_bytes)?),
            5 => Array::I32(numbers(raw, i32::from_le_bytes)?),
            6 => Array::F32(numbers(raw, f32::from_le_bytes)?),
            7 => Array::Bool(numbers(raw, |[b]: [u8; 1]| b != 0)?),
            10 => Array::U64(numbers(raw, u64::from_le_bytes)?),
            11 => Array::I64(numbers(raw, i64::from_le_bytes)?),
            _ => Array::F64(numbers(raw, f64::from_le_bytes)?),
        })
    }

    #[allow(clippy::type_complexity)]
    fn tensors(
        &mut self,
        count: usize,
        alignment: u64,
    ) -> Result<(Vec<TensorInfo>, HashMap<String, usize>), GgufError> {
        let mut tensors = Vec::new();
        let mut names = HashMap::new();
        let mut starts = HashSet::new();
        for i in 0..count {
            let at = self.at;
            let name = self.name("a tensor name")?;
            let rank = self.u32("a tensor's rank")?;
            if !(1..=4).contains(&rank) {
                return Err(damaged(format!("tensor '{name}' has {rank} dimensions"), at));
            }
            let dims = (0..rank).map(|_| self.u64("a tensor's shape")).collect::<Result<Vec<_>, _>>()?;
            let type_id = self.u32("a tensor's type")?;
            let offset = self.u64("a tensor's offset")?;
            let impossible = || damaged(format!("tensor '{name}' has shape {dims:?} and type {type_id}"), at);
            let bytes = match ggml_type(type_id) {
                Some(ty) => size(&dims, ty).ok_or_else(impossible)?,
                None => 0,
            };
            if !offset.is_multiple_of(alignment) {
                return Err(damaged(format!("tensor '{name}' begins at {offset}, not aligned to {alignment}"), at));
            }
            names.try_reserve(1).map_err(|_| memory("the tensor table", i * 64))?;
            starts.try_reserve(1).map_err(|_| memory("the tensor table", i * 64))?;
            if names.insert(name.clone(), i).is_some() {
                return Err(damaged(format!("tensor '{name}' appears twice"), at));
            }
            if !starts.insert(offset) {
                return Err(damaged(format!("tensor '{name}' begins where another does"), at));
            }
            push(&mut tensors, TensorInfo { name, dims, type_id, part: 0, offset, bytes }, "the tensor table")?;
        }
        self.place(&mut tensors, (self.at as u64).next_multiple_of(alignment))?;
        Ok((tensors, names))
    }

    /// Turns offsets in the data, which begins at `base`, to places in the file, and checks them.
    fn place(&self, tensors: &mut [TensorInfo], base: u64) -> Result<(), GgufError> {
        let size = self.data.len() as u64;
        for t in tensors.iter_mut() {
            let start = base.saturating_add(t.offset);
            if start.checked_add(t.bytes).is_none_or(|end| end > size) {
                let what = format!("the data of tensor '{}'", t.name);
                return Err(GgufError::Truncated {
                    what,
                    at: start,
                    needed: t.bytes,
                    left: size.saturating_sub(start),
                });
            }
            t.offset = start;
        }
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| tensors[i].offset);
        for (i, &this) in order.iter().enumerate() {
            let next = order.get(i + 1).map(|&next| &tensors[next]);
            let (start, end) = (tensors[this].offset, next.map_or(size, |next| next.offset));
            if let Some(next) = next.filter(|_| start + tensors[this].bytes > end) {
                let what = format!("tensors '{}' and '{}' overlap", tensors[this].name, next.name);
                return Err(damaged(what, end as usize));
            }
            if ggml_type(tensors[this].type_id).is_none() {
                let t = &mut tensors[this];
                t.bytes = end - start;
                let elements = elements(&t.dims).filter(|n| *n > 0 && *n / ELEMENTS_PER_BYTE <= t.bytes);
                if elements.is_none() {
                    let what = format!("tensor '{}' has shape {:?} in {} bytes", t.name, t.dims, t.bytes);
                    return Err(damaged(what, start as usize));
                }
            }
        }
        Ok(())
    }
}

fn elements(dims: &[u64]) -> Option<u64> {
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))
}

/// Bytes of a tensor, or `None` where the shape is impossible for the type.
fn size(dims: &[u64], ty: &GgmlType) -> Option<u64> {
    let elements = elements(dims)?;
    if elements == 0 || !dims[0].is_multiple_of(ty.block as u64) {
        return None;
    }
    (elements / ty.block as u64).checked_mul(ty.bytes as u64)
}

/// The numbers of an array.
fn numbers<const N: usize, T>(raw: &[u8], number: impl Fn([u8; N]) -> T) -> Result<Vec<T>, GgufError> {
    let mut list = Vec::new();
    list.try_reserve_exact(raw.len() / N).map_err(|_| memory("an array", raw.len()))?;
    list.extend(raw.chunks_exact(N).map(|b| number(array(b))));
    Ok(list)
}

/// A slice of known length as an array; shorter ones are filled with zeros.
fn array<const N: usize>(slice: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out[..slice.len().min(N)].copy_from_slice(&slice[..slice.len().min(N)]);
    out
}
