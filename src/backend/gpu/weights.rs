//! Weights on the GPU: row shards that fit a binding, each split into the streams of its format. Matrices that the same
//! activations are multiplied with lie behind each other in one buffer, so that one dispatch can serve them all.

use super::device::Device;
use crate::backend::BackendError;
use crate::quant::Format;

/// Some rows of a matrix in one buffer.
#[derive(Debug)]
pub(super) struct Shard {
    pub buffer: wgpu::Buffer,
    /// First row in the matrix.
    pub row_base: usize,
    pub rows: usize,
    /// The first of them in the buffer.
    pub first: usize,
    /// Word offset of each stream.
    pub streams: [u32; 4],
}

/// The most bytes of weights in one buffer; 16 bytes per stream cover the alignment of stream starts.
fn capacity(device: &Device) -> usize {
    device.limits.max_storage_buffer_binding_size.min(device.limits.max_buffer_size).saturating_sub(64) as usize
}

/// Uploads matrices of `cols` columns behind each other; `parts` are their bytes and rows. Where they do not fit one
/// buffer, each gets its own.
pub(super) fn upload_together(
    device: &Device,
    format: &Format,
    parts: &[(&str, &[u8], usize)],
    cols: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Vec<Shard>>, BackendError> {
    let total: usize = parts.iter().map(|p| p.1.len()).sum();
    if parts.len() == 1 || total > capacity(device) {
        return parts
            .iter()
            .map(|&(name, raw, rows)| upload(device, name, format, raw, rows, cols, progress))
            .collect();
    }
    let raw: Vec<u8> = parts.iter().flat_map(|p| p.1).copied().collect();
    let (bytes, streams) = split(format, &raw);
    let buffer = device.upload(parts[0].0, &bytes)?;
    device.queue.submit([]);
    progress(total as u64);
    let mut first = 0;
    let shard = |&(_, _, rows): &(&str, &[u8], usize)| {
        first += rows;
        vec![Shard { buffer: buffer.clone(), row_base: 0, rows, first: first - rows, streams }]
    };
    Ok(parts.iter().map(shard).collect())
}

/// Uploads `rows` rows of `cols` weights; `progress` hears how many bytes of the file are done.
fn upload(
    device: &Device,
    name: &str,
    format: &Format,
    raw: &[u8],
    rows: usize,
    cols: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Shard>, BackendError> {
    let row_bytes = format.row_bytes(cols);
    let rows_per_shard = (capacity(device) / row_bytes).clamp(1, rows);
    let mut shards = Vec::new();
    for row_base in (0..rows).step_by(rows_per_shard) {
        let rows = rows_per_shard.min(rows - row_base);
        let raw = &raw[row_base * row_bytes..][..rows * row_bytes];
        let (bytes, streams) = split(format, raw);
        let buffer = device.upload(name, &bytes)?;
        // Without this the queue keeps every staging copy until the first real submission.
        device.queue.submit([]);
        shards.push(Shard { buffer, row_base, rows, first: 0, streams });
        progress(raw.len() as u64);
    }
    Ok(shards)
}

/// The streams of whole blocks one after the other, each from a multiple of 16 bytes on, and their word offsets.
pub fn split(format: &Format, raw: &[u8]) -> (Vec<u8>, [u32; 4]) {
    let blocks = raw.len() / format.bytes;
    let mut bytes = Vec::with_capacity(raw.len() + 64);
    let mut offsets = [0; 4];
    for (&(at, len), offset) in format.streams.iter().zip(&mut offsets) {
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        *offset = (bytes.len() / 4) as u32;
        if len == format.bytes {
            bytes.extend_from_slice(&raw[..blocks * len]);
        } else {
            for block in raw.chunks_exact(format.bytes) {
                bytes.extend_from_slice(&block[at..at + len]);
            }
        }
    }
    (bytes, offsets)
}
