//! Weights on the GPU: row shards that fit a binding, each split into the streams of its format. Matrices that the same
//! activations are multiplied with lie behind each other in one buffer, so that one dispatch can serve them all.
//!
//! Buffers are made first and filled later, in pieces, by several threads: while the device copies a piece, its thread
//! splits the next into staging memory of a fixed size.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::device::{Device, Mapped};
use crate::backend::BackendError;
use crate::host;
use crate::plan::{Weight, WeightSource};
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

/// The most bytes of the file that are copied to the device at once.
const PIECE: usize = 8 << 20;

/// Threads that split weights; a few saturate the way to a device.
const THREADS: usize = 4;

/// Bytes of the file that are split on the way to staging memory, which is slow unless it is written in order.
const RUN: usize = 64 << 10;

/// The most bytes of weights in one buffer; 16 bytes per stream cover the alignment of stream starts.
fn capacity(device: &Device) -> usize {
    device.largest_buffer().saturating_sub(64) as usize
}

/// What is to become the contents of a buffer.
struct Contents {
    buffer: wgpu::Buffer,
    format: &'static Format,
    streams: [u32; 4],
    /// Matrices behind each other, and which of their bytes.
    parts: Vec<(Weight, Range<usize>)>,
}

impl Contents {
    fn blocks(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() / self.format.bytes
    }

    /// The bytes of some blocks, as they lie in the file.
    fn raw<'a>(&self, source: &'a dyn WeightSource, blocks: &Range<usize>) -> Vec<&'a [u8]> {
        let (start, end) = (blocks.start * self.format.bytes, blocks.end * self.format.bytes);
        let mut at = 0;
        let mut raw = Vec::new();
        for (weight, bytes) in &self.parts {
            let inside = |x: usize| bytes.start + x.clamp(at, at + bytes.len()) - at;
            raw.push(&source.data(weight)[inside(start)..inside(end)]);
            at += bytes.len();
        }
        raw
    }
}

/// Blocks of a buffer's contents that are copied at once.
struct Piece {
    contents: usize,
    blocks: Range<usize>,
}

/// Buffers that are to be filled.
#[derive(Default)]
pub(super) struct Uploads(Vec<Contents>);

impl Uploads {
    /// Buffers for matrices of one format and width, behind each other in one. Where they do not fit that, each gets its
    /// own.
    pub fn allocate(&mut self, device: &Device, matrices: &[&Weight]) -> Result<Vec<Vec<Shard>>, BackendError> {
        let total: usize = matrices.iter().map(|w| w.bytes()).sum();
        if matrices.len() == 1 || total > capacity(device) {
            return matrices.iter().map(|w| self.in_shards(device, w)).collect();
        }
        let whole = |w: &&Weight| ((*w).clone(), 0..w.bytes());
        let (buffer, streams) = self.buffer(device, matrices.iter().map(whole).collect())?;
        let mut first = 0;
        let shard = |w: &&Weight| {
            first += w.rows;
            vec![Shard { buffer: buffer.clone(), row_base: 0, rows: w.rows, first: first - w.rows, streams }]
        };
        Ok(matrices.iter().map(shard).collect())
    }

    fn in_shards(&mut self, device: &Device, weight: &Weight) -> Result<Vec<Shard>, BackendError> {
        let row_bytes = weight.format.row_bytes(weight.cols);
        let rows_per_shard = (capacity(device) / row_bytes).clamp(1, weight.rows);
        let shard = |row_base: usize| {
            let rows = rows_per_shard.min(weight.rows - row_base);
            let bytes = row_base * row_bytes..(row_base + rows) * row_bytes;
            let (buffer, streams) = self.buffer(device, vec![(weight.clone(), bytes)])?;
            Ok(Shard { buffer, row_base, rows, first: 0, streams })
        };
        (0..weight.rows).step_by(rows_per_shard).map(shard).collect()
    }

    fn buffer(
        &mut self,
        device: &Device,
        parts: Vec<(Weight, Range<usize>)>,
    ) -> Result<(wgpu::Buffer, [u32; 4]), BackendError> {
        let (name, format) = (&parts[0].0.name, parts[0].0.format);
        let bytes: usize = parts.iter().map(|(_, bytes)| bytes.len()).sum();
        let (streams, bytes) = format.layout(bytes / format.bytes);
        let buffer = device.storage(name, bytes as u64)?;
        self.0.push(Contents { buffer: buffer.clone(), format, streams, parts });
        Ok((buffer, streams))
    }

    /// Fills all buffers; `progress` hears how many more bytes of the file are done. Its pages are given back to the system.
    pub fn run(
        self,
        device: &Device,
        source: &dyn WeightSource,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), BackendError> {
        let mut pieces = Vec::new();
        for (i, contents) in self.0.iter().enumerate() {
            // Four blocks are whole words of any stream.
            let (blocks, step) = (contents.blocks(), (PIECE / contents.format.bytes / 4 * 4).max(4));
            let piece = |first: usize| Piece { contents: i, blocks: first..blocks.min(first + step) };
            pieces.extend((0..blocks).step_by(step).map(piece));
        }
        let threads = host::threads().min(THREADS).min(pieces.len());
        let next = AtomicUsize::new(0);
        let mut left: Vec<usize> = self.0.iter().map(Contents::blocks).collect();
        let mut finish = |number: usize| {
            let piece = &pieces[number];
            let contents = &self.0[piece.contents];
            progress((piece.blocks.len() * contents.format.bytes) as u64);
            left[piece.contents] -= piece.blocks.len();
            if left[piece.contents] == 0 {
                contents.parts.iter().for_each(|(weight, _)| source.release(weight));
            }
        };
        if threads <= 1 {
            return self.work(device, source, &pieces, &next, &mut finish);
        }
        std::thread::scope(|scope| {
            let (send, done) = channel();
            let (uploads, pieces, next) = (&self, &pieces, &next);
            let work = |send: Sender<usize>| {
                // Nobody listens only where another thread's error ends the upload.
                scope.spawn(move || {
                    uploads.work(device, source, pieces, next, &mut |i| send.send(i).unwrap_or_default())
                })
            };
            let workers: Vec<_> = (0..threads).map(|_| work(send.clone())).collect();
            drop(send);
            done.into_iter().for_each(finish);
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Takes one piece after the other, until there are no more.
    fn work(
        &self,
        device: &Device,
        source: &dyn WeightSource,
        pieces: &[Piece],
        next: &AtomicUsize,
        done: &mut dyn FnMut(usize),
    ) -> Result<(), BackendError> {
        let mut staging: Vec<Staging> = Vec::new();
        let mut split = vec![0; RUN];
        for turn in 0.. {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(number) else { break };
            if turn < 2 {
                staging.push(Staging::new(device)?);
            }
            let contents = &self.0[piece.contents];
            let raw = contents.raw(source, &piece.blocks);
            staging[turn % 2].copy(device, contents, &raw, piece.blocks.start, &mut split)?;
            done(number);
        }
        Ok(())
    }
}

/// Memory that the host writes and the device copies from.
struct Staging {
    buffer: wgpu::Buffer,
    mapped: Mapped,
    /// What last copied from it.
    submission: Option<wgpu::SubmissionIndex>,
}

impl Staging {
    fn new(device: &Device) -> Result<Self, BackendError> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let buffer = device.buffer("weights staging", PIECE as u64 + 64, usage)?;
        Ok(Self { mapped: Mapped::ask(&buffer.slice(..), wgpu::MapMode::Write), buffer, submission: None })
    }

    /// Copies blocks of these bytes to a buffer, where they are number `first` and following.
    fn copy(
        &mut self,
        device: &Device,
        contents: &Contents,
        raw: &[&[u8]],
        first: usize,
        split: &mut [u8],
    ) -> Result<(), BackendError> {
        let poll = match self.submission.take() {
            Some(submission) => wgpu::PollType::Wait { submission_index: Some(submission), timeout: None },
            None => wgpu::PollType::Poll,
        };
        self.mapped.wait(device, poll)?;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        {
            let mut view = self.buffer.get_mapped_range_mut(..).map_err(|e| device.error(e.to_string()))?;
            let (mut start, mut end) = (0, 0);
            for (&stream, offset) in contents.format.streams.iter().zip(contents.streams) {
                for run in raw.iter().flat_map(|r| r.chunks(RUN / contents.format.bytes * contents.format.bytes)) {
                    let bytes = run.len() / contents.format.bytes * stream.1;
                    let split = &mut split[..bytes];
                    contents.format.copy_stream(split, run, stream);
                    view.slice(end..end + bytes).copy_from_slice(split);
                    end += bytes;
                }
                let whole = end.next_multiple_of(4);
                view.slice(end..whole).fill(0);
                let (to, bytes) = (4 * offset as usize + first * stream.1, whole - start);
                encoder.copy_buffer_to_buffer(&self.buffer, start as u64, &contents.buffer, to as u64, bytes as u64);
                (start, end) = (whole, whole);
            }
        }
        self.buffer.unmap();
        self.submission = Some(device.queue.submit([encoder.finish()]));
        self.mapped = Mapped::ask(&self.buffer.slice(..), wgpu::MapMode::Write);
        Ok(())
    }
}
