//! The kernels that models are made of: shaders with the overrides that they are really compiled with, and what naga
//! writes for them in each backend's language.

use std::collections::{BTreeMap, BTreeSet};

use naga::back::{hlsl, msl};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{Module, ShaderStage};
use sha2::{Digest, Sha256};

use super::{ShaderError, parse};
use crate::backend::gpu::{AdapterOptions, Device, Gpu, Kernel, Recorded};
use crate::backend::{Backend, BackendError, Batch, Rows, Sizes};
use crate::gguf::{Array, Gguf, GgufError, GgufWriter, Value};
use crate::model::{Model, ModelError};
use crate::numerics::Precision;
use crate::ops::draw;
use crate::quant::{FORMATS, Format};
use crate::shaders::Arithmetic;
use crate::tensor::{Space, TensorError};
use crate::verify::ops::{self, Case, Random};
use crate::verify::{selftest, tensors};

/// The sizes of a model.
pub struct Shape {
    /// Width of the residual stream.
    pub embedding: u32,
    /// Width of the feed-forward layer.
    pub feed_forward: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
}

/// Sizes that people run, with and without blocks of 256: the built-in model's, SmolLM2 135M's, Llama 3.2 1B's.
pub static SHAPES: [Shape; 3] = [
    Shape { embedding: 384, feed_forward: 1024, heads: 6, kv_heads: 2 },
    Shape { embedding: 576, feed_forward: 1536, heads: 9, kv_heads: 3 },
    Shape { embedding: 2048, feed_forward: 8192, heads: 32, kv_heads: 8 },
];

/// The type of vectors in a file.
const F32: u32 = 0;

/// Tokens of the vocabulary: the output matrix of a real model has more rows, which only makes the grid larger.
const VOCABULARY: u32 = 256;

/// Why there is no list of kernels.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MadeError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Shader(#[from] ShaderError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl Shape {
    /// Whether matrices of these sizes can have this format.
    fn takes(&self, format: &Format) -> bool {
        [self.embedding, self.feed_forward].iter().all(|n| (*n as usize).is_multiple_of(format.block))
    }

    /// A model of one layer whose weights are `numbers`; where it gives none, zeros.
    fn model(&self, format: &Format, numbers: &mut dyn FnMut(usize) -> Vec<f32>) -> Result<Model, MadeError> {
        let (n, ff) = (u64::from(self.embedding), u64::from(self.feed_forward));
        let kv = n / u64::from(self.heads) * u64::from(self.kv_heads);
        let float = F32;
        let mut tensors = vec![("token_embd.weight".to_owned(), vec![n, u64::from(VOCABULARY)], format.type_id)];
        for (name, dims) in [
            ("attn_q", [n, n]),
            ("attn_k", [n, kv]),
            ("attn_v", [n, kv]),
            ("attn_output", [n, n]),
            ("ffn_gate", [n, ff]),
            ("ffn_up", [n, ff]),
            ("ffn_down", [ff, n]),
        ] {
            tensors.push((format!("blk.0.{name}.weight"), dims.to_vec(), format.type_id));
        }
        for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
            tensors.push((format!("{name}.weight"), vec![n], float));
        }
        let key = |name: &str| format!("llama.{name}");
        let tokens = (0..VOCABULARY).map(|i| format!("<{i}>")).collect();
        let metadata = [
            ("general.architecture".to_owned(), Value::String("llama".to_owned())),
            (key("embedding_length"), Value::U32(self.embedding)),
            (key("feed_forward_length"), Value::U32(self.feed_forward)),
            (key("attention.head_count"), Value::U32(self.heads)),
            (key("attention.head_count_kv"), Value::U32(self.kv_heads)),
            (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
            (key("block_count"), Value::U32(1)),
            (key("context_length"), Value::U32(64)),
            ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::String(tokens))),
        ];
        let mut writer = GgufWriter::new(&metadata, &tensors)?;
        let mut bytes = Vec::new();
        writer.write_header(&mut bytes)?;
        for (_, dims, type_id) in &tensors {
            let elements = dims.iter().product::<u64>() as usize;
            let format = crate::quant::format(*type_id).unwrap_or(format);
            let mut raw = vec![0; format.row_bytes(elements)];
            let numbers = numbers(elements);
            if !numbers.is_empty() {
                format.quantize(&numbers, &mut raw);
            }
            writer.write_tensor(&mut bytes, &raw)?;
        }
        Ok(Model::new(Gguf::from_bytes(bytes)?)?)
    }
}

/// The kernels of the cases that `samebits verify` has for every op and for tensors, of the self-test, of models of `shapes` in every
/// format, and of `models`, all in both precisions on a device with these limits; each once, in the order of their names.
///
/// # Errors
/// If there is no adapter, or its device refuses something.
pub fn kernels(
    options: &AdapterOptions,
    limits: &wgpu::Limits,
    shapes: &[Shape],
    models: &[Model],
) -> Result<Vec<Kernel>, MadeError> {
    let mut all: BTreeMap<_, _> = cases().into_iter().map(|c| (c.kernel.name(), c.kernel)).collect();
    let mut add = |model: &Model| {
        for precision in [Precision::Fast, Precision::Precise] {
            let device = Device::listing(options, limits.clone())?;
            let sizes = Sizes { context: 64, batch: 32, logits_rows: 1 };
            let gpu = Gpu::new(device, model, model.for_context(64).plan(precision)?, sizes, &mut |_| {})?;
            all.extend(gpu.kernels().into_iter().map(|k| (k.name(), k)));
        }
        Ok::<_, MadeError>(())
    };
    for shape in shapes {
        for format in FORMATS.iter().filter(|f| shape.takes(f)) {
            add(&shape.model(format, &mut |_| Vec::new())?)?;
        }
    }
    models.iter().try_for_each(add)?;
    let space = Space::gpu(options)?;
    tensors::verify(&space, 0)?;
    all.extend(space.kernels().into_iter().map(|k| (k.name(), k)));
    Ok(all.into_values().collect())
}

/// Cases of every op, of drawing, and the self-test's.
fn cases() -> Vec<Case> {
    let mut all = ops::cases(&mut Random(0));
    for (width, top_k, top_p) in [(1, 40, 0.9), (700, 40, 0.9), (700, 256, 1.0)] {
        all.push(drawn(&mut Random(width as u64), width, &draw::Options::new(0.8, top_k, top_p, 0.01)));
    }
    all.push(selftest::case());
    all
}

/// A token drawn from logits, some of which are equal.
fn drawn(random: &mut Random, width: usize, options: &draw::Options) -> Case {
    let logits: Vec<f32> = (0..width).map(|_| (random.word() % 300) as f32 * 0.03).collect();
    let bits = logits.iter().map(|x| x.to_bits()).collect();
    let number = 0.7;
    Case {
        kernel: Kernel::new(&draw::SHADER),
        shape: format!("[{width}]"),
        params: bytemuck::bytes_of(&draw::Params { width: width as u32 }).to_vec(),
        position: 0,
        groups: [1, 1, 1],
        buffers: vec![bits, vec![0], bytemuck::cast_slice(&[*options]).to_vec(), vec![f32::to_bits(number)]],
        out: 1,
        expected: vec![draw::cpu(&logits, options, number)],
    }
}

/// A dispatch with what its buffers hold before it and must hold behind it.
pub struct Dispatched {
    /// The kernel.
    pub kernel: Kernel,
    /// The shape of its operands, for reports.
    pub shape: String,
    /// Workgroups.
    pub groups: [u32; 3],
    /// The contents of the uniform buffer, binding 1.
    pub params: Vec<u8>,
    /// The words of the storage buffers, bindings 0, 2, 3, …; and what they must be behind it, where that is compared.
    pub buffers: Vec<(Vec<u32>, Option<Vec<u32>>)>,
}

impl Dispatched {
    /// A case of `samebits verify`: the CPU says what must come out.
    fn of_case(case: Case) -> Self {
        let state = (bytemuck::cast_slice(&[case.state()]).to_vec(), None);
        let operand = |(i, words)| (words, (i == case.out).then(|| case.expected.clone()));
        let buffers = [state].into_iter().chain(case.buffers.into_iter().enumerate().map(operand)).collect();
        Self { kernel: case.kernel, shape: case.shape, groups: case.groups, params: case.params, buffers }
    }

    /// One of a model, or of tensors: the adapter's result, which `samebits verify` compares with the CPU's, is what must come out.
    fn of_model(recorded: Recorded, shape: String) -> Self {
        let Recorded { kernel, groups, params, before, after } = recorded;
        let buffers = before.into_iter().zip(after.into_iter().map(Some)).collect();
        Self { kernel, shape, groups, params, buffers }
    }
}

/// The batches that are recorded, one behind the other: a token, a few, and enough for tiles.
const ROWS: [usize; 3] = [1, 3, 37];

/// A position from which attention over the cache is divided among workgroups.
const FAR: usize = 2100;

/// Dispatches of every kernel: the cases of every op, those of a small model in every format, and those of `models`, in both
/// precisions, each kernel once, run on an adapter; and the first of each kernel of tensors.
///
/// # Errors
/// If there is no adapter, or it fails.
pub fn dispatches(
    options: &AdapterOptions,
    models: &[Model],
    hear: &mut dyn FnMut(Dispatched),
) -> Result<(), MadeError> {
    cases().into_iter().for_each(|case| hear(Dispatched::of_case(case)));
    let mut random = Random(1);
    let shape = Shape { embedding: 256, feed_forward: 512, heads: 4, kv_heads: 2 };
    let mut seen = BTreeSet::new();
    let mut record = |model: &Model, name: &str, precision, position: usize, batches: &[usize]| {
        let context = position + batches.iter().sum::<usize>();
        let sizes = Sizes { context, batch: batches.iter().copied().max().unwrap_or(1), logits_rows: 1 };
        let plan = model.for_context(context).plan(precision)?;
        let vocabulary = plan.vocabulary() as u32;
        let mut gpu = Gpu::new(Device::open(options)?, model, plan, sizes, &mut |_| {})?;
        let mut position = position;
        for &rows in batches {
            let ids: Vec<u32> = (0..rows as u32).map(|i| (i * 97 + 5) % vocabulary).collect();
            let shape = format!("{rows} rows at {position}, {name} {precision:?}");
            let batch = Batch::checked(&ids, position, Rows::Last, &gpu.limits()).map_err(BackendError::from)?;
            let mut wanted = |kernel: &Kernel| seen.insert(kernel.name());
            gpu.record(batch, &mut wanted, &mut |r| hear(Dispatched::of_model(r, shape.clone())))?;
            position += rows;
        }
        Ok::<_, MadeError>(())
    };
    for (i, format) in FORMATS.iter().enumerate() {
        let model =
            shape.model(format, &mut |n| random.floats(n).iter().map(|x| x.clamp(-4.0, 4.0) * 0.1).collect())?;
        for precision in [Precision::Fast, Precision::Precise] {
            record(&model, format.name, precision, 0, &ROWS)?;
        }
        if i == 0 {
            record(&model, format.name, Precision::Fast, FAR, &[1])?;
        }
    }
    for model in models {
        let name = model.gguf.get_str("general.architecture").unwrap_or("unnamed");
        for precision in [Precision::Fast, Precision::Precise] {
            record(model, name, precision, 0, &ROWS)?;
        }
    }
    let space = Space::gpu(options)?;
    space.record_kernels();
    tensors::verify(&space, 0)?;
    let recorded = space.record_kernels().into_iter();
    recorded.for_each(|r| hear(Dispatched::of_model(r, "tensors".to_owned())));
    Ok(())
}

/// A short name that a file can have: the shader, the format, and a hash of the overrides where there are any.
pub fn file_name(kernel: &Kernel) -> String {
    let mut name = kernel.shader.name.to_owned();
    if let Some(format) = kernel.format {
        name = format!("{name}.{}", format.name);
    }
    if !kernel.constants.is_empty() {
        let hash = Sha256::digest(format!("{:?}", kernel.constants));
        name = hash.iter().take(4).fold(format!("{name}."), |name, b| format!("{name}{b:02x}"));
    }
    name
}

/// What backends compile for a kernel, as wgpu asks naga for it in this program: no checks of bounds, no clearing of
/// workgroup memory.
pub struct Made {
    /// For Microsoft's FXC.
    pub hlsl_5_1: String,
    /// For DXC.
    pub hlsl_6_4: String,
    /// For Metal. The binding of a buffer is its index; that of the table of lengths lies behind the last.
    pub msl: String,
    /// The bindings of its storage buffers, ascending; also of those that its overrides leave unused.
    pub storage: Vec<u32>,
    /// Bytes of workgroup memory, and threads of a workgroup.
    pub workgroup: (u32, u32),
}

/// The binding of the parameters.
const UNIFORM: u32 = 1;

/// Translates a kernel; `None` if it uses matrix units, which this program reaches through SPIR-V only.
///
/// # Errors
/// With what naga says.
pub fn made(kernel: &Kernel, arithmetic: Arithmetic) -> Result<Option<Made>, ShaderError> {
    let wgsl = kernel.source(arithmetic);
    let (module, info) = parse(&wgsl, kernel.shader.capabilities(arithmetic))?;
    if super::uses_matrix_units(&module) {
        return Ok(None);
    }
    let failed = |e: &dyn std::fmt::Display| ShaderError(format!("{}: {e}", kernel.name()));
    let mut storage: Vec<_> = bindings(&module).map(|(b, _)| b.binding).filter(|&b| b != UNIFORM).collect();
    storage.sort_unstable();
    let constants = kernel.constants.iter().map(|&(name, value)| (name.to_owned(), f64::from(value))).collect();
    let point = Some((ShaderStage::Compute, "main"));
    let (module, info) =
        naga::back::pipeline_constants::process_overrides(&module, &info, point, &constants).map_err(|e| failed(&e))?;
    let (module, info) = (&*module, &*info);
    let hlsl = |model| hlsl_text(module, info, model).map_err(|e| failed(&e));
    let (hlsl_5_1, hlsl_6_4) = (hlsl(hlsl::ShaderModel::V5_1)?, hlsl(hlsl::ShaderModel::V6_4)?);
    let lengths = storage.last().map_or(UNIFORM, |&last| last.max(UNIFORM)) + 1;
    let msl = msl_text(module, info, lengths as u8).map_err(|e| failed(&e))?;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| failed(&e))?;
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    let bytes = shared.map(|(_, v)| layouter[v.ty].size.next_multiple_of(16)).sum();
    let threads = module.entry_points.first().map_or(0, |e| e.workgroup_size.iter().product());
    Ok(Some(Made { hlsl_5_1, hlsl_6_4, msl, storage, workgroup: (bytes, threads) }))
}

/// The bindings of a module, and whether its kernel writes to them.
fn bindings(module: &Module) -> impl Iterator<Item = (naga::ResourceBinding, bool)> + '_ {
    module.global_variables.iter().filter_map(|(_, v)| {
        let writes =
            matches!(v.space, naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE));
        Some((v.binding?, writes))
    })
}

fn hlsl_text(module: &Module, info: &ModuleInfo, shader_model: hlsl::ShaderModel) -> Result<String, hlsl::Error> {
    let target = |binding: naga::ResourceBinding| hlsl::BindTarget {
        register: binding.binding,
        // The state's place in its buffer is given with each dispatch.
        dynamic_storage_buffer_offsets_index: (binding.binding == 0).then_some(0),
        ..Default::default()
    };
    let offsets = hlsl::OffsetsBindTarget { space: 1, register: 0, size: 1 };
    let options = hlsl::Options {
        shader_model,
        binding_map: bindings(module).map(|(binding, _)| (binding, target(binding))).collect(),
        fake_missing_bindings: false,
        dynamic_storage_buffer_offsets_targets: [(0, offsets)].into(),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &Default::default()).write(module, info, None)?;
    Ok(text)
}

fn msl_text(module: &Module, info: &ModuleInfo, lengths: u8) -> Result<String, msl::Error> {
    let target = |(binding, mutable): (naga::ResourceBinding, bool)| {
        (binding, msl::BindTarget { buffer: Some(binding.binding as u8), mutable, ..Default::default() })
    };
    let resources = msl::EntryPointResources {
        resources: bindings(module).map(target).collect(),
        immediates_buffer: None,
        sizes_buffer: Some(lengths),
    };
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [("main".to_owned(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    Ok(msl::write_string(module, info, &options, &Default::default())?.0)
}
