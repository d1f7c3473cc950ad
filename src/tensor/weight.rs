//! Matrices and vectors in the formats of GGUF files.

use std::fmt;
use std::sync::Arc;

use super::TensorError;
use crate::gguf::{Gguf, TensorInfo, type_name};
use crate::quant::Format;

/// Rows of weights in a format.
pub(super) struct Weight {
    pub name: String,
    pub format: &'static Format,
    pub rows: usize,
    pub cols: usize,
    bytes: Bytes,
}

enum Bytes {
    Own(Vec<u8>),
    Of(Arc<Gguf>, TensorInfo),
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}, {}]", self.name, self.format.name, self.rows, self.cols)
    }
}

impl Weight {
    /// A tensor of a file, with its shape, the rows first.
    ///
    /// # Errors
    /// If the file has no such tensor, or its format is none that kernels read.
    pub fn open(gguf: &Arc<Gguf>, name: &str) -> Result<(Self, Vec<usize>), TensorError> {
        let Some(info) = gguf.tensor(name) else {
            let names: Vec<_> = gguf.tensors().iter().take(3).map(|t| t.name.as_str()).collect();
            return Err(TensorError::NoTensor { name: name.to_owned(), first: names.join(", ") });
        };
        let Some(format) = crate::quant::format(info.type_id) else {
            return Err(TensorError::Format { name: name.to_owned(), format: type_name(info.type_id).into_owned() });
        };
        let shape: Vec<usize> = info.dims.iter().rev().map(|n| *n as usize).collect();
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).product();
        let bytes = Bytes::Of(Arc::clone(gguf), info.clone());
        Ok((Self { name: name.to_owned(), format, rows, cols, bytes }, shape))
    }

    /// Numbers, `[rows, cols]`, in a format; `cols` is a multiple of its block.
    pub fn quantized(format: &'static Format, numbers: &[f32], rows: usize, cols: usize) -> Self {
        let mut raw = vec![0; rows * format.row_bytes(cols)];
        format.quantize(numbers, &mut raw);
        Self { name: "quantized".to_owned(), format, rows, cols, bytes: Bytes::Own(raw) }
    }

    /// The bytes of all rows.
    pub fn raw(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Own(bytes) => bytes,
            Bytes::Of(gguf, info) => gguf.data(info),
        }
    }

    /// The bytes of a row.
    pub fn row(&self, row: usize) -> &[u8] {
        let bytes = self.format.row_bytes(self.cols);
        &self.raw()[row * bytes..][..bytes]
    }

    /// The words of a row's numbers.
    pub fn dequantized(&self, row: usize) -> Vec<u32> {
        let mut numbers = vec![0.0; self.cols];
        self.format.dequantize(self.row(row), &mut numbers);
        numbers.into_iter().map(|x| crate::numerics::settle(x).to_bits()).collect()
    }

    /// The bytes as kernels read them. Kernels read whole vectors of words, so there are some more.
    pub fn stored(&self) -> Vec<u8> {
        let (mut bytes, _) = self.format.split(self.raw());
        bytes.resize(bytes.len().next_multiple_of(16) + 16, 0);
        bytes
    }

    /// The word offset of each stream in them.
    pub fn streams(&self) -> [u32; 4] {
        self.format.layout(self.rows * self.cols / self.format.block).0
    }
}
