//! Rewrites a model file in other formats: `samebits quantize`.

mod mixture;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use crate::gguf::{Gguf, GgufError, GgufWriter, TensorInfo, Value, ggml_type, type_name};
use crate::quant::{self, Format};

/// Where a file goes.
pub use crate::output::{OutputError, Target as File};
pub use mixture::{Shape, TARGETS, Target, format};

/// Weights a thread converts at a time.
const PIECE: usize = 1 << 18;

/// Why a file could not be rewritten. The output file is then as it was before.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ConvertError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("tensor '{name}' has type {type_name}, which cannot be read; start from a file in F32, F16, BF16 or Q8_0")]
    Type { name: String, type_name: String },
    #[error("tensor '{0}' holds NaN or infinity; the file is damaged, download it again")]
    NonFinite(String),
    #[error("out of memory: tensor '{name}' becomes {bytes} bytes")]
    OutOfMemory { name: String, bytes: usize },
    #[error("interrupted; the file was not written")]
    Interrupted,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The file type.
    pub target: &'static Target,
    /// Every matrix in the target's base format, no mixture.
    pub pure: bool,
    /// Threads that quantise.
    pub threads: usize,
}

/// A tensor as it was and as it became.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Its name.
    pub name: String,
    /// The type before.
    pub from: &'static str,
    /// The type after.
    pub to: &'static str,
    /// Bytes before and after.
    pub bytes: [u64; 2],
}

/// A tensor's conversion.
struct Job<'a> {
    tensor: &'a TensorInfo,
    /// Formats before and after; `None` copies the bytes.
    formats: Option<(&'static Format, &'static Format)>,
}

/// Writes `source` to `file` in the formats asked for.
///
/// Vectors and tensors that are no weights of a matrix stay as they are. `progress` hears source bytes as they are done, from
/// several threads, and says whether to go on.
pub fn quantize(
    source: &Gguf,
    file: &File,
    options: Options,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Vec<Converted>, ConvertError> {
    source.whole()?;
    let jobs = jobs(source, options)?;
    let tensors: Vec<_> = jobs
        .iter()
        .map(|j| (j.tensor.name.clone(), j.tensor.dims.clone(), j.formats.map_or(j.tensor.type_id, |f| f.1.type_id)))
        .collect();
    let mut writer = GgufWriter::new(&metadata(source, options.target), &tensors)?;
    let mut out = file.create()?;
    let failed = |e: GgufError| match e {
        GgufError::Output(e) => file.failed(&e).into(),
        other => ConvertError::Gguf(other),
    };
    writer.write_header(&mut out).map_err(failed)?;
    let mut report = Vec::new();
    for job in &jobs {
        let raw = source.data(job.tensor);
        let made = match job.formats {
            None => {
                if !progress(raw.len() as u64) {
                    return Err(ConvertError::Interrupted);
                }
                None
            }
            Some((from, to)) => Some(convert(job.tensor, from, to, raw, options.threads, progress)?),
        };
        let data = made.as_deref().unwrap_or(raw);
        writer.write_tensor(&mut out, data).map_err(failed)?;
        let name_of = |id| ggml_type(id).map_or("unknown", |t| t.name);
        report.push(Converted {
            name: job.tensor.name.clone(),
            from: name_of(job.tensor.type_id),
            to: job.formats.map_or(name_of(job.tensor.type_id), |f| f.1.name),
            bytes: [raw.len() as u64, data.len() as u64],
        });
    }
    out.finish()?;
    Ok(report)
}

fn jobs<'a>(source: &'a Gguf, options: Options) -> Result<Vec<Job<'a>>, ConvertError> {
    // Without an architecture, and where layers differ, the mixture is that of a model whose heads all have their own keys.
    let architecture = source.get_str("general.architecture").unwrap_or_default();
    let stated = |key: &str| source.get(&format!("{architecture}.{key}")).and_then(Value::as_f64).map(|n| n as u64);
    let number = |key: &str| stated(key).unwrap_or(1).max(1);
    let heads = number("attention.head_count");
    let kv_heads = stated("attention.head_count_kv").unwrap_or(heads).max(1);
    let shape = Shape {
        layers: number("block_count") as usize,
        group: (heads / kv_heads) as usize,
        has_output: source.tensor("output.weight").is_some(),
    };
    let job = |tensor: &'a TensorInfo| {
        let matrix = tensor.dims.iter().filter(|d| **d > 1).count() > 1;
        if !matrix || !tensor.name.ends_with(".weight") || mixture::is_kept(&tensor.name) {
            return Ok(Job { tensor, formats: None });
        }
        let from = quant::format(tensor.type_id).ok_or_else(|| ConvertError::Type {
            name: tensor.name.clone(),
            type_name: type_name(tensor.type_id).into_owned(),
        })?;
        let to = format(options.target, &shape, &tensor.name, tensor.dims[0] as usize, options.pure);
        Ok(Job { tensor, formats: to.filter(|to| to.type_id != from.type_id).map(|to| (from, to)) })
    };
    source.tensors().iter().map(job).collect()
}

fn metadata(source: &Gguf, target: &Target) -> Vec<(String, Value)> {
    let replaced = ["general.file_type", "general.quantization_version"];
    let mut metadata: Vec<_> =
        source.metadata().iter().filter(|(key, _)| !replaced.contains(&key.as_str())).cloned().collect();
    metadata.push((replaced[0].to_owned(), Value::U32(target.file_type)));
    metadata.push((replaced[1].to_owned(), Value::U32(2)));
    metadata
}

/// Converts a tensor, some blocks per thread at a time.
fn convert(
    tensor: &TensorInfo,
    from: &'static Format,
    to: &'static Format,
    raw: &[u8],
    threads: usize,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Vec<u8>, ConvertError> {
    // Blocks of both formats divide a row, and 256 is a multiple of every block.
    let weights = raw.len() / from.bytes * from.block;
    let bytes = weights / to.block * to.bytes;
    let mut out = Vec::new();
    out.try_reserve_exact(bytes).map_err(|_| ConvertError::OutOfMemory { name: tensor.name.clone(), bytes })?;
    out.resize(bytes, 0);
    let pieces = raw
        .chunks(PIECE / from.block * from.bytes)
        .zip(out.chunks_mut(PIECE / to.block * to.bytes))
        .collect::<Vec<_>>();
    let queue = Mutex::new(pieces);
    let (finite, go_on) = (AtomicBool::new(true), AtomicBool::new(true));
    let work = || {
        let mut values = Vec::new();
        loop {
            let piece = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((raw, out)) = piece.filter(|_| go_on.load(Ordering::Relaxed)) else { return };
            values.resize(raw.len() / from.bytes * from.block, 0.0);
            from.dequantize(raw, &mut values);
            if values.iter().any(|x| !x.is_finite()) {
                finite.store(false, Ordering::Relaxed);
            }
            to.quantize(&values, out);
            if !progress(raw.len() as u64) {
                go_on.store(false, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system gives no more threads, those that there are do the work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    if !go_on.into_inner() {
        return Err(ConvertError::Interrupted);
    }
    if finite.into_inner() { Ok(out) } else { Err(ConvertError::NonFinite(tensor.name.clone())) }
}
