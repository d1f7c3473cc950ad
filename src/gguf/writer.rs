//! Writes GGUF version 3.

use std::io::Write;

use super::GgufError;
use super::types::{ggml_type, type_name};
use super::value::{Array, Value};

const ALIGNMENT: u64 = 32;

/// Writes a file front to back: first the header, then the data of each tensor in the order declared.
#[derive(Debug)]
pub struct GgufWriter {
    header: Vec<u8>,
    sizes: Vec<u64>,
    next: usize,
}

impl GgufWriter {
    /// Declares metadata and tensors `(name, dims with the fastest first, type)`. A `general.alignment` among the
    /// metadata is left out: the writer's alignment is 32, the default.
    pub fn new(metadata: &[(String, Value)], tensors: &[(String, Vec<u64>, u32)]) -> Result<Self, GgufError> {
        let metadata: Vec<_> = metadata.iter().filter(|(key, _)| key != "general.alignment").collect();
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            string(&mut header, key.as_bytes());
            write_value(&mut header, value);
        }
        let (mut sizes, mut offset) = (Vec::new(), 0u64);
        for (name, dims, type_id) in tensors {
            let ty = ggml_type(*type_id).ok_or_else(|| {
                GgufError::Write(format!("tensor '{name}' has type {}; its size is not known", type_name(*type_id)))
            })?;
            let elements: u64 = dims.iter().product();
            let size = elements / ty.block as u64 * ty.bytes as u64;
            string(&mut header, name.as_bytes());
            header.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| header.extend(d.to_le_bytes()));
            header.extend(type_id.to_le_bytes());
            header.extend(offset.to_le_bytes());
            sizes.push(size);
            offset += size.next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        Ok(Self { header, sizes, next: 0 })
    }

    /// Writes everything before the tensor data.
    pub fn write_header(&self, out: &mut impl Write) -> Result<(), GgufError> {
        Ok(out.write_all(&self.header)?)
    }

    /// Writes the next tensor; its size must be the one declared.
    pub fn write_tensor(&mut self, out: &mut impl Write, data: &[u8]) -> Result<(), GgufError> {
        let size = self.sizes.get(self.next).copied();
        if size != Some(data.len() as u64) {
            return Err(GgufError::Write(format!("tensor {} has {} bytes, not {size:?}", self.next, data.len())));
        }
        self.next += 1;
        let pad = (data.len() as u64).next_multiple_of(ALIGNMENT) as usize - data.len();
        out.write_all(data)?;
        Ok(out.write_all(&[0; ALIGNMENT as usize][..pad])?)
    }
}

/// Appends a string as files hold it: its length, then its bytes.
pub fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s);
}

/// Appends a value as files hold it: its type, then what it is.
pub fn write_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($id:expr, $x:expr) => {{
            out.extend(($id as u32).to_le_bytes());
            out.extend($x.to_le_bytes());
        }};
    }
    match value {
        Value::U8(x) => number!(0, x),
        Value::I8(x) => number!(1, x),
        Value::U16(x) => number!(2, x),
        Value::I16(x) => number!(3, x),
        Value::U32(x) => number!(4, x),
        Value::I32(x) => number!(5, x),
        Value::F32(x) => number!(6, x),
        Value::Bool(x) => number!(7, u8::from(*x)),
        Value::String(x) => {
            out.extend(8u32.to_le_bytes());
            string(out, x.as_bytes());
        }
        Value::Bytes(x) => {
            out.extend(8u32.to_le_bytes());
            string(out, x);
        }
        Value::Array(x) => {
            out.extend(9u32.to_le_bytes());
            write_array(out, x);
        }
        Value::U64(x) => number!(10, x),
        Value::I64(x) => number!(11, x),
        Value::F64(x) => number!(12, x),
    }
}

fn write_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($id:expr, $v:expr) => {{
            out.extend(($id as u32).to_le_bytes());
            out.extend(($v.len() as u64).to_le_bytes());
            $v.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(0, v),
        Array::I8(v) => numbers!(1, v),
        Array::U16(v) => numbers!(2, v),
        Array::I16(v) => numbers!(3, v),
        Array::U32(v) => numbers!(4, v),
        Array::I32(v) => numbers!(5, v),
        Array::F32(v) => numbers!(6, v),
        Array::Bool(v) => {
            let bytes: Vec<u8> = v.iter().map(|b| u8::from(*b)).collect();
            numbers!(7, bytes);
        }
        Array::String(v) => {
            out.extend(8u32.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            v.iter().for_each(|s| string(out, s.as_bytes()));
        }
        Array::Bytes(v) => {
            out.extend(8u32.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            v.iter().for_each(|s| string(out, s));
        }
        Array::Array(v) => {
            out.extend(9u32.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            v.iter().for_each(|a| write_array(out, a));
        }
        Array::U64(v) => numbers!(10, v),
        Array::I64(v) => numbers!(11, v),
        Array::F64(v) => numbers!(12, v),
    }
}
