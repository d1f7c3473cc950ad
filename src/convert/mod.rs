//! Rewrites a model file in other formats: `samebits quantize`.

mod mixture;

use std::io::{BufWriter, Write};
use std::path::Path;

use thiserror::Error;

use crate::gguf::{Gguf, GgufError, GgufWriter, TensorInfo, Value, ggml_type};
use crate::quant::{self, Format};

pub use mixture::{Shape, TARGETS, Target, format};

/// Weights a thread converts at a time.
const PIECE: usize = 1 << 18;

/// Why a file could not be rewritten. The output file is then as it was before.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ConvertError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("cannot write {path}: {reason}")]
    Write { path: String, reason: String },
    #[error("{0} exists; choose another name or give --force to replace it")]
    Exists(String),
    #[error("tensor '{name}' has type {type_name}, which cannot be read; start from a file in F32, F16, BF16 or Q8_0")]
    Type { name: String, type_name: String },
    #[error("tensor '{0}' holds NaN or infinity; the file is damaged, download it again")]
    NonFinite(String),
    #[error("interrupted; nothing was written")]
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
    /// Replaces an existing file.
    pub force: bool,
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

/// Writes `source` to `path` in the formats asked for.
///
/// Vectors and tensors that are no weights of a matrix stay as they are. The file is written under a temporary name in
/// the same folder and renamed when it is complete. `progress` hears source bytes as they are done and says whether to
/// go on.
pub fn quantize(
    source: &Gguf,
    path: &Path,
    options: Options,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<Converted>, ConvertError> {
    let failed = |reason: String| ConvertError::Write { path: path.display().to_string(), reason };
    if path.exists() && !options.force {
        return Err(ConvertError::Exists(path.display().to_string()));
    }
    let jobs = jobs(source, options)?;
    let tensors: Vec<_> = jobs
        .iter()
        .map(|j| (j.tensor.name.clone(), j.tensor.dims.clone(), j.formats.map_or(j.tensor.type_id, |f| f.1.type_id)))
        .collect();
    let mut writer = GgufWriter::new(&metadata(source, options.target), &tensors)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .prefix(".samebits-")
        .suffix(".tmp")
        .tempfile_in(folder)
        .map_err(|e| failed(e.to_string()))?;
    let mut out = BufWriter::new(file);
    writer.write_header(&mut out)?;
    let mut report = Vec::new();
    for job in &jobs {
        let raw = source.data(job.tensor);
        let made = match job.formats {
            None => None,
            Some((from, to)) => Some(convert(job.tensor, from, to, raw, options.threads)?),
        };
        let data = made.as_deref().unwrap_or(raw);
        writer.write_tensor(&mut out, data)?;
        let name_of = |id| ggml_type(id).map_or("unknown", |t| t.name);
        report.push(Converted {
            name: job.tensor.name.clone(),
            from: name_of(job.tensor.type_id),
            to: job.formats.map_or(name_of(job.tensor.type_id), |f| f.1.name),
            bytes: [raw.len() as u64, data.len() as u64],
        });
        if !progress(raw.len() as u64) {
            return Err(ConvertError::Interrupted);
        }
    }
    out.flush().map_err(|e| failed(e.to_string()))?;
    let file = out.into_inner().map_err(|e| failed(e.to_string()))?;
    file.as_file().sync_all().map_err(|e| failed(e.to_string()))?;
    readable(file.path()).map_err(|e| failed(e.to_string()))?;
    if options.force { file.persist(path) } else { file.persist_noclobber(path) }.map_err(|e| failed(e.to_string()))?;
    Ok(report)
}

/// A temporary file is private to its owner; a model file is like any other.
#[cfg(unix)]
fn readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn jobs<'a>(source: &'a Gguf, options: Options) -> Result<Vec<Job<'a>>, ConvertError> {
    let architecture = source.get_str("general.architecture")?;
    let number = |key: &str| source.get(&format!("{architecture}.{key}")).and_then(Value::as_u64).unwrap_or(1).max(1);
    let heads = number("attention.head_count");
    let kv_heads =
        source.get(&format!("{architecture}.attention.head_count_kv")).and_then(Value::as_u64).unwrap_or(heads).max(1);
    let shape = Shape {
        layers: number("block_count") as usize,
        group: (heads / kv_heads) as usize,
        has_output: source.tensor("output.weight").is_some(),
    };
    let job = |tensor: &'a TensorInfo| {
        let matrix = tensor.dims.iter().filter(|d| **d > 1).count() > 1;
        if !matrix || !tensor.name.ends_with(".weight") || tensor.name.ends_with("_norm.weight") {
            return Ok(Job { tensor, formats: None });
        }
        let from = quant::format(tensor.type_id).ok_or_else(|| {
            let type_name = ggml_type(tensor.type_id).map_or_else(|| tensor.type_id.to_string(), |t| t.name.to_owned());
            ConvertError::Type { name: tensor.name.clone(), type_name }
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
) -> Result<Vec<u8>, ConvertError> {
    // Blocks of both formats divide a row, and 256 is a multiple of every block.
    let weights = raw.len() / from.bytes * from.block;
    let mut out = vec![0u8; weights / to.block * to.bytes];
    let pieces = raw
        .chunks(PIECE / from.block * from.bytes)
        .zip(out.chunks_mut(PIECE / to.block * to.bytes))
        .collect::<Vec<_>>();
    let queue = std::sync::Mutex::new(pieces);
    let finite = std::sync::atomic::AtomicBool::new(true);
    let work = || {
        let mut values = Vec::new();
        loop {
            let piece = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            let Some((raw, out)) = piece else { return };
            values.resize(raw.len() / from.bytes * from.block, 0.0);
            from.dequantize(raw, &mut values);
            if values.iter().any(|x| !x.is_finite()) {
                finite.store(false, std::sync::atomic::Ordering::Relaxed);
            }
            to.quantize(&values, out);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    if finite.into_inner() { Ok(out) } else { Err(ConvertError::NonFinite(tensor.name.clone())) }
}
