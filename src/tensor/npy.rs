//! Files in NumPy's format: `.npy`, version 1 to 3 (NumPy Enhancement Proposal 1).

use std::path::Path;

use super::view::count;
use super::{Dtype, Space, Tensor, TensorError};

/// What every file begins with.
const MAGIC: &[u8] = b"\x93NUMPY";

/// The header of a file of little-endian numbers in row-major order; `descr` is NumPy's name of their type.
pub fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let lengths: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let lengths = if shape.len() == 1 { lengths.trim_end() } else { lengths.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({lengths}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(length - 1 - text.len()));
    text.push('\n');
    [MAGIC, b"\x01\x00", &(length as u16).to_le_bytes(), text.as_bytes()].concat()
}

impl Tensor {
    /// The bytes of a file with its elements: f4, f2 or i4.
    ///
    /// # Errors
    /// What went wrong with an op that had to run for it.
    pub fn to_npy(&self) -> Result<Vec<u8>, TensorError> {
        let words = self.words()?;
        let descr = match self.dtype() {
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
            Dtype::I32 => "<i4",
        };
        let mut bytes = header(descr, self.shape());
        for word in words {
            match self.dtype() {
                Dtype::F16 => {
                    bytes.extend((crate::numerics::f16_bits(f32::from_bits(word)) as u16).to_le_bytes());
                }
                _ => bytes.extend(word.to_le_bytes()),
            }
        }
        Ok(bytes)
    }
}

impl Space {
    /// The tensor of a file: f2, f4 and f8 (rounded to f32), i4, i8 within i32, bool; little-endian, in either order.
    ///
    /// # Errors
    /// If the file cannot be read, is none of that, or holds a number that no tensor can.
    pub fn load_npy(&self, path: &Path) -> Result<Tensor, TensorError> {
        let wrong = |message: String| TensorError::Npy { path: path.display().to_string(), message };
        let bytes = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        self.npy(&bytes).map_err(wrong)
    }

    fn npy(&self, bytes: &[u8]) -> Result<Tensor, String> {
        let no_file = || "is no file in NumPy's format".to_owned();
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(no_file)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(no_file)?;
        let (length, rest) = match version[0] {
            1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
            _ => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        }
        .ok_or_else(no_file)?;
        let (text, data) = rest.split_at_checked(length).ok_or("its header is cut off")?;
        let text = std::str::from_utf8(text).map_err(|_| "its header is no text")?;
        let value = |key: &str| text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
        let descr = value("descr").and_then(|v| v.strip_prefix('\'')?.split_once('\'')).ok_or("it has no 'descr'")?.0;
        let columns_first = value("fortran_order").is_some_and(|v| v.starts_with("True"));
        let inside = value("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).ok_or("it has no 'shape'")?.0;
        let lengths = inside.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse::<usize>);
        let mut shape = lengths.collect::<Result<Vec<_>, _>>().map_err(|_| format!("its shape is ({inside})"))?;
        let size = match descr.get(1..).unwrap_or_default() {
            "b1" => 1,
            "f2" => 2,
            "f4" | "i4" => 4,
            "f8" | "i8" => 8,
            _ => 0,
        };
        if size == 0 || descr.starts_with('>') {
            return Err(format!("its numbers are {descr}; f2, f4, f8, i4, i8 (little-endian) and bool can be read"));
        }
        if count(&shape).and_then(|n| n.checked_mul(size)) != Some(data.len()) {
            return Err(format!("it has {} bytes of data, {shape:?} of {descr} has others", data.len()));
        }
        if columns_first {
            shape.reverse();
        }
        let integer = |i: i64| i32::try_from(i).map_err(|_| format!("it holds {i}, which is beyond i32"));
        let tensor = match &descr[1..] {
            "f4" => self.tensor(&shape, &numbers(data, f32::from_le_bytes)),
            "f8" => self.tensor(&shape, &numbers(data, |b| f64::from_le_bytes(b) as f32)),
            "f2" => {
                let half = |b| crate::numerics::f16_value(u32::from(u16::from_le_bytes(b)));
                self.tensor(&shape, &numbers(data, half)).and_then(|t| t.half())
            }
            "i4" => self.integers(&shape, &numbers(data, i32::from_le_bytes)),
            "b1" => self.integers(&shape, &data.iter().map(|b| i32::from(*b != 0)).collect::<Vec<_>>()),
            _ => {
                let all = numbers(data, i64::from_le_bytes).into_iter().map(integer);
                self.integers(&shape, &all.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let tensor = tensor.map_err(|e| e.to_string())?;
        let reversed: Vec<isize> = (0..shape.len() as isize).rev().collect();
        if columns_first { tensor.permute(&reversed).map_err(|e| e.to_string()) } else { Ok(tensor) }
    }
}

/// The numbers of so many bytes each.
fn numbers<const N: usize, T>(data: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}
