//! Single tokens by fused kernels, and runs of them that the GPU chooses itself: several tokens per submission, the next
//! submission under way while the host reads the last.

use std::cell::Cell;
use std::collections::VecDeque;

use super::State;
use super::device::{Device, Mapped, STATE_BYTES};
use super::fused::{Fusing, Token};
use super::group::Group;
use super::lower::{Dispatch, Resources, ready};
use super::timing::{KernelTime, times};
use crate::backend::{BackendError, Counters, Lane, Sampled, Sampling, kept};
use crate::host::Instant;
use crate::ops::draw;
use crate::plan::Plan;

/// Tokens per submission.
const TOKENS: usize = 8;

/// Submissions under way.
const AHEAD: usize = 2;

/// Tokens that may be computed behind the last one told.
pub(super) const WORKS_AHEAD: usize = AHEAD * TOKENS;
const _: () = assert!(WORKS_AHEAD <= kept::AHEAD);

/// Places for ids: those of all submissions under way, and the one before them.
const IDS: usize = 32;

/// The groups of a token and what they read and write.
pub(super) struct Decoder {
    pub token: Token,
    states: wgpu::Buffer,
    /// Bytes from a state to the next.
    stride: usize,
    ids: wgpu::Buffer,
    /// What replaces the last group where tokens are drawn; its options, and a number for each place of `ids`.
    draw: Dispatch,
    options: wgpu::Buffer,
    draws: wgpu::Buffer,
    logits: wgpu::Buffer,
    staging: Vec<wgpu::Buffer>,
    vocabulary: usize,
    counters: Cell<Counters>,
}

/// A submission under way.
struct Flight {
    submission: wgpu::SubmissionIndex,
    staging: usize,
    /// The first of its tokens, counted from the beginning of the run.
    first: usize,
    tokens: usize,
    mapped: Mapped,
}

impl Decoder {
    /// The decoder of a plan.
    pub fn new(device: &mut Device, plan: &Plan, resources: &Resources) -> Result<Self, BackendError> {
        let stride =
            (STATE_BYTES as usize).next_multiple_of(device.limits.min_storage_buffer_offset_alignment as usize);
        let vocabulary = plan.vocabulary();
        let states = device.storage("token states", (stride * TOKENS * (AHEAD + 1)) as u64)?;
        let ids = device.storage("token ids", 4 * IDS as u64)?;
        let logits = device.storage("token logits", (4 * TOKENS * vocabulary) as u64)?;
        let mut fusing = Fusing { device, plan, resources, states: &states, ids: &ids, logits: &logits };
        let token = fusing.groups()?;
        let options = fusing.device.storage("draw options", size_of::<draw::Options>() as u64)?;
        let draws = fusing.device.storage("draws", 4 * IDS as u64)?;
        let draw = fusing.draw(&options, &draws)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let bytes = 4 * (IDS + TOKENS * vocabulary) as u64;
        let staging = (0..=AHEAD).map(|_| device.buffer("token staging", bytes, usage)).collect::<Result<_, _>>()?;
        Ok(Self {
            token,
            states,
            stride,
            ids,
            draw,
            options,
            draws,
            logits,
            staging,
            vocabulary,
            counters: Cell::default(),
        })
    }

    /// Writes what the kernels of a single token read, and gives its groups.
    pub fn prepare(&self, device: &Device, token: u32, position: usize) -> &[Group] {
        device.write(&self.ids, bytemuck::bytes_of(&token));
        let state = State { position: position as u32, rows: 1, next: 1, ..State::default() };
        device.write(&self.states, bytemuck::bytes_of(&state));
        &self.token.groups
    }

    /// What was submitted so far.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// Dispatches of a token at a position.
    pub fn dispatches(&self, position: usize) -> usize {
        self.at(position).count()
    }

    /// The dispatches of a token at a position.
    pub fn at(&self, position: usize) -> impl Iterator<Item = &Dispatch> {
        self.token.groups.iter().flat_map(move |s| s.at(position, 1))
    }

    /// The dispatches of a token that is drawn, or else the likeliest.
    fn choosing(&self, position: usize, drawn: bool) -> impl Iterator<Item = &Dispatch> {
        let n = self.token.groups.len() - usize::from(drawn);
        let draw = drawn.then_some(&self.draw);
        self.token.groups[..n].iter().flat_map(move |s| s.at(position, 1)).chain(draw)
    }

    /// All dispatches at positions below `context`.
    pub fn below(&self, context: usize) -> impl Iterator<Item = &Dispatch> {
        self.token.groups.iter().flat_map(move |s| s.below(context))
    }

    /// Seconds of each kernel in one token at `position`.
    pub fn times(&self, device: &Device, position: usize, repetitions: usize) -> Result<Vec<KernelTime>, BackendError> {
        self.prepare(device, 0, position);
        times(device, self.at(position), position, 1, repetitions)
    }

    /// Records `tokens` tokens from `position` on, the first of them number `first` of its run, and submits them.
    /// `logits`: also those are copied for the host.
    fn submit(
        &self,
        device: &Device,
        turn: usize,
        first: usize,
        position: usize,
        tokens: usize,
        drawn: bool,
        logits: bool,
    ) -> Result<Flight, BackendError> {
        let start = Instant::now();
        let turn = turn % (AHEAD + 1);
        let mut states = vec![0u8; self.stride * tokens];
        for (slot, bytes) in states.chunks_mut(self.stride).enumerate() {
            let (ids, next) = ((first + slot) % IDS, (first + slot + 1) % IDS);
            let state = State {
                position: (position + slot) as u32,
                rows: 1,
                ids: ids as u32,
                next: next as u32,
                slot: slot as u32,
                ..State::default()
            };
            bytes[..STATE_BYTES as usize].copy_from_slice(bytemuck::bytes_of(&state));
        }
        let offset = turn * TOKENS * self.stride;
        device.queue.write_buffer(&self.states, offset as u64, &states);
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut dispatches = 0;
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for slot in 0..tokens {
                let state = (offset + slot * self.stride) as u32;
                for dispatch in self.choosing(position + slot, drawn) {
                    dispatch.record(&mut pass, state, position + slot, 1)?;
                    dispatches += 1;
                }
            }
        }
        let staging = &self.staging[turn];
        encoder.copy_buffer_to_buffer(&self.ids, 0, staging, 0, 4 * IDS as u64);
        let bytes = if logits { 4 * (tokens * self.vocabulary) as u64 } else { 0 };
        if logits {
            encoder.copy_buffer_to_buffer(&self.logits, 0, staging, 4 * IDS as u64, bytes);
        }
        let submission = device.queue.submit([encoder.finish()]);
        let mut counters = self.counters.get();
        counters.add(dispatches, start.elapsed(), tokens);
        self.counters.set(counters);
        let mapped = Mapped::ask(&staging.slice(..4 * IDS as u64 + bytes), wgpu::MapMode::Read);
        Ok(Flight { submission, staging: turn, first, tokens, mapped })
    }

    /// Waits for a submission and gives its tokens to `emit`; `false` where that wants no more.
    fn land(
        &self,
        device: &Device,
        flight: &Flight,
        logits: bool,
        emit: &mut dyn FnMut(Sampled<'_>) -> bool,
    ) -> Result<bool, BackendError> {
        let submission_index = Some(flight.submission.clone());
        flight.mapped.wait(device, wgpu::PollType::Wait { submission_index, timeout: None })?;
        let staging = &self.staging[flight.staging];
        let bytes = 4 * (IDS + if logits { flight.tokens * self.vocabulary } else { 0 }) as u64;
        let mut more = true;
        {
            let view = staging.slice(..bytes).get_mapped_range().map_err(|e| device.error(e.to_string()))?;
            let words: &[u32] = bytemuck::cast_slice(&view);
            let (ids, rows) = words.split_at(IDS);
            let rows: &[f32] = bytemuck::cast_slice(rows);
            for slot in 0..flight.tokens {
                let row = if logits { &rows[slot * self.vocabulary..][..self.vocabulary] } else { &[] };
                let id = ids[(flight.first + slot + 1) % IDS];
                more = emit(Sampled { id, logits: row });
                if !more {
                    break;
                }
            }
        }
        staging.unmap();
        Ok(more)
    }

    /// Feeds a lane's token, then always the token chosen.
    pub fn run(
        &self,
        device: &Device,
        lane: &Lane,
        mut sampling: Sampling<'_>,
        logits: bool,
        emit: &mut dyn FnMut(Sampled<'_>) -> bool,
    ) -> Result<(), BackendError> {
        let (position, limit) = (lane.position(), lane.steps());
        device.write(&self.ids, bytemuck::bytes_of(&lane.token()));
        let drawn = matches!(sampling, Sampling::Draw(..));
        if let Sampling::Draw(options, _) = &sampling {
            // Everything else was compiled when the model was opened.
            ready(std::iter::once(&self.draw))?;
            device.write(&self.options, bytemuck::bytes_of(options));
        }
        let mut draws = [0.0f32; IDS];
        let mut flights: VecDeque<Flight> = VecDeque::new();
        let (mut fed, mut turn) = (0, 0);
        let mut more = true;
        while (more && fed < limit) || !flights.is_empty() {
            while more && fed < limit && flights.len() < AHEAD {
                // The first submissions are short, so that the first tokens come soon.
                let tokens = (1 << turn.min(10)).min(TOKENS).min(limit - fed);
                if let Sampling::Draw(_, next) = &mut sampling {
                    (fed + 1..=fed + tokens).for_each(|i| draws[i % IDS] = next());
                    device.write(&self.draws, bytemuck::cast_slice(&draws));
                }
                flights.push_back(self.submit(device, turn, fed, position + fed, tokens, drawn, logits)?);
                fed += tokens;
                turn += 1;
            }
            let Some(flight) = flights.pop_front() else { break };
            if more {
                more = self.land(device, &flight, logits, emit)?;
            } else {
                // Tokens behind the last one wanted: they are not looked at.
                self.land(device, &flight, false, &mut |_| false)?;
            }
        }
        Ok(())
    }
}
