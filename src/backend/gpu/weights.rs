//! Weights on the GPU: row shards that fit a binding, each split into the streams of its format.

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
    /// Word offset of each stream.
    pub streams: [u32; 4],
}

/// Uploads `rows` rows of `cols` weights; `progress` hears how many bytes of the file are done.
pub(super) fn upload(
    device: &Device,
    name: &str,
    format: &Format,
    raw: &[u8],
    rows: usize,
    cols: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Shard>, BackendError> {
    let row_bytes = format.row_bytes(cols);
    let limit = device.limits.max_storage_buffer_binding_size.min(device.limits.max_buffer_size) as usize;
    // 16 bytes per stream cover the alignment of stream starts.
    let rows_per_shard = (limit.saturating_sub(64) / row_bytes).clamp(1, rows);
    let mut shards = Vec::new();
    for row_base in (0..rows).step_by(rows_per_shard) {
        let rows = rows_per_shard.min(rows - row_base);
        let raw = &raw[row_base * row_bytes..][..rows * row_bytes];
        let (bytes, streams) = split(format, raw);
        let buffer = device.upload(name, &bytes)?;
        // Without this the queue keeps every staging copy until the first real submission.
        device.queue.submit([]);
        shards.push(Shard { buffer, row_base, rows, streams });
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
