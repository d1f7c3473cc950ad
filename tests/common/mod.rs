//! What the tests share: data, models, the GPU, random numbers.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod mini;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use samebits::backend::Sizes;
use samebits::backend::cpu::{Cpu, Isa};
use samebits::backend::gpu::{AdapterOptions, Device, Gpu, Kernel};
use samebits::engine::Session;
use samebits::gguf::{Gguf, GgufWriter, Value};
use samebits::model::Model;
use samebits::numerics::Precision;
use samebits::shaders::params::State;

pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

pub fn json(path: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(data(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap()
}

pub fn tiny(name: &str) -> Model {
    Model::open(&data("tiny").join(name)).unwrap()
}

/// The program, with a cache directory that is not the user's.
pub fn samebits() -> Command {
    let mut command = Command::cargo_bin("samebits").unwrap();
    // The cache's place on Linux and on macOS.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    command.env("XDG_CACHE_HOME", &cache).env("HOME", &cache).env("XDG_RUNTIME_DIR", std::env::temp_dir());
    // Nor does it read the user's configuration.
    command.env("SAMEBITS_CONFIG", "");
    command
}

/// SmolLM2-135M-Instruct Q4_1, which `scripts/test` downloads.
pub fn smollm2_path() -> PathBuf {
    let path = std::env::var_os("SAMEBITS_TEST_MODEL").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("models/download/SmolLM2-135M-Instruct.Q4_1.gguf"),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: run scripts/test, which downloads it", path.display());
    path
}

pub fn smollm2() -> Model {
    Model::open(&smollm2_path()).unwrap()
}

pub fn sizes(context: usize, batch: usize) -> Sizes {
    Sizes { context, batch, logits_rows: batch }
}

pub fn on_cpu(model: &Model, precision: Precision, context: usize, chunk: usize, threads: usize) -> Session {
    let plan = model.for_context(context).plan(precision).unwrap();
    Session::new(Box::new(Cpu::new(model, plan, sizes(context, chunk), threads).unwrap()), chunk)
}

pub fn on_isa(model: &Model, precision: Precision, context: usize, chunk: usize, threads: usize, isa: Isa) -> Session {
    let plan = model.for_context(context).plan(precision).unwrap();
    Session::new(Box::new(Cpu::with_isa(model, plan, sizes(context, chunk), threads, isa).unwrap()), chunk)
}

pub fn on_gpu(model: &Model, precision: Precision, context: usize, chunk: usize) -> Session {
    on_gpu_few(model, precision, context, chunk, usize::MAX)
}

/// With more than `few` rows by the kernels for many.
pub fn on_gpu_few(model: &Model, precision: Precision, context: usize, chunk: usize, few: usize) -> Session {
    let plan = model.for_context(context).plan(precision).unwrap();
    let gpu = Gpu::new(device(), model, plan, sizes(context, chunk), &mut |_| {}).unwrap();
    Session::new(Box::new(gpu.few_up_to(few)), chunk)
}

/// Kernels take long to compile on a software adapter: those for a few rows are met in the one precision, those for many in the other.
pub fn most_few(precision: Precision) -> usize {
    if precision == Precision::Fast { 8 } else { usize::MAX }
}

/// A number that the environment sets, or the usual one.
pub fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// The best adapter; a machine without one fails the tests.
pub fn device() -> Device {
    Device::open(&AdapterOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs `f` on this thread's device. Drivers allow few devices per process, so one serves all of a test's cases.
pub fn with_device<T>(f: impl FnOnce(&mut Device) -> T) -> T {
    // Never dropped: wgpu needs its own thread locals for that, which may be gone when this one's turn comes.
    type Slot = std::cell::RefCell<Option<std::mem::ManuallyDrop<Device>>>;
    thread_local!(static DEVICE: Slot = const { std::cell::RefCell::new(None) });
    DEVICE.with(|d| f(d.borrow_mut().get_or_insert_with(|| std::mem::ManuallyDrop::new(device()))))
}

/// One test at a time on the device: software adapters use all cores anyway.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

pub fn floats(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Runs one kernel over `rows` rows and gives the words of buffer `out`.
pub fn run_kernel(
    kernel: Kernel,
    params: &[u8],
    position: u32,
    groups: [u32; 3],
    buffers: &[&[u32]],
    out: usize,
) -> Vec<u32> {
    with_device(|device| run_on(device, kernel, params, position, groups, buffers, out))
}

fn run_on(
    device: &mut Device,
    kernel: Kernel,
    params: &[u8],
    position: u32,
    groups: [u32; 3],
    buffers: &[&[u32]],
    out: usize,
) -> Vec<u32> {
    let pipeline = device.pipeline(&kernel).unwrap();
    let state = State { position, rows: groups[1], ..State::default() };
    let state = device.upload("state", bytemuck::bytes_of(&state)).unwrap();
    let params = device.uniform("params", params).unwrap();
    let buffers: Vec<_> = buffers.iter().map(|b| device.upload("b", bytemuck::cast_slice(b)).unwrap()).collect();
    let words = buffers[out].size() as usize / 4;
    let all: Vec<_> = [&state, &params].into_iter().chain(&buffers).collect();
    let bindings = device.bind(&pipeline, &all);
    let mut encoder = device.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline.code().unwrap());
        pass.set_bind_group(0, &bindings, &[0]);
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
    }
    device.queue.submit([encoder.finish()]);
    device.read(&buffers[out], 0, words).unwrap()
}

/// Processor time of this thread, for limits that hold on a busy machine, too; time that passes where the system does not tell.
pub fn thread_time() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let told = told.and_then(|text| text.split(' ').next()?.parse().ok()).map(Duration::from_nanos);
    told.unwrap_or_else(|| START.get_or_init(Instant::now).elapsed())
}

/// SplitMix64 (Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// A float of random sign and magnitude between 2^low and 2^high.
    pub fn float(&mut self, low: i32, high: i32) -> f32 {
        let exponent = (127 + low) as u32 + self.word() % (high - low).max(1) as u32;
        f32::from_bits((self.word() & 0x807f_ffff) | (exponent << 23))
    }

    pub fn floats(&mut self, n: usize, low: i32, high: i32) -> Vec<f32> {
        (0..n).map(|_| self.float(low, high)).collect()
    }
}

/// A copy of a tiny model with other metadata, and tensors added that are one float each.
pub fn changed(name: &str, metadata: &[(&str, Value)], tensors: &[&str]) -> Vec<u8> {
    rewritten(&Gguf::open(&data("tiny").join(name)).unwrap(), metadata, tensors)
}

/// The same of any model.
pub fn rewritten(source: &Gguf, metadata: &[(&str, Value)], tensors: &[&str]) -> Vec<u8> {
    let mut values = source.metadata().to_vec();
    for (key, value) in metadata {
        values.retain(|(k, _)| k != key);
        values.push(((*key).to_owned(), value.clone()));
    }
    let own = source.tensors().iter().map(|t| (t.name.clone(), t.dims.clone(), t.type_id));
    let list: Vec<_> = own.chain(tensors.iter().map(|name| ((*name).to_owned(), vec![1], 0))).collect();
    let mut writer = GgufWriter::new(&values, &list).unwrap();
    let mut bytes = Vec::new();
    writer.write_header(&mut bytes).unwrap();
    source.tensors().iter().for_each(|t| writer.write_tensor(&mut bytes, source.data(t)).unwrap());
    tensors.iter().for_each(|_| writer.write_tensor(&mut bytes, &[0; 4]).unwrap());
    bytes
}
