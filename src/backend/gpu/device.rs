//! Adapters, the device and its buffers.

use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::compiler::{Compiler, dxc};
use super::disk::KernelCache;
use super::pipelines::{Kernel, Pipeline, Pipelines};
use crate::backend::BackendError;
use crate::host;
use crate::shaders::params::State;
use crate::shaders::{Arithmetic, Shader, TILED_UNITS, TILED_UNITS8};

/// Bytes of a state, what every kernel reads first (`State` in `wgsl/lib/numerics.wgsl`).
pub const STATE_BYTES: u64 = size_of::<State>() as u64;

/// What is used where an adapter has it.
const FEATURES: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::PIPELINE_CACHE);

/// Which adapter to open.
#[derive(Clone, Debug, Default)]
pub struct AdapterOptions {
    /// Restricts the API.
    pub api: Api,
    /// An index of [`adapters`] of any API, or part of a name.
    pub device: Option<String>,
    /// Refuses adapters that compute on the CPU (lavapipe, WARP).
    pub hardware_only: bool,
    /// Keeps compiled kernels in this folder, where the API allows it.
    pub cache: Option<PathBuf>,
}

/// Graphics APIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// The best there is.
    #[default]
    Any,
    /// Vulkan.
    Vulkan,
    /// Metal.
    Metal,
    /// Direct3D 12.
    Dx12,
}

impl Api {
    fn backends(self) -> wgpu::Backends {
        match self {
            Self::Any if cfg!(target_arch = "wasm32") => wgpu::Backends::BROWSER_WEBGPU,
            Self::Any => wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
            Self::Vulkan => wgpu::Backends::VULKAN,
            Self::Metal => wgpu::Backends::METAL,
            Self::Dx12 => wgpu::Backends::DX12,
        }
    }

    /// Why this system cannot have the API.
    fn missing(self) -> Option<BackendError> {
        let (api, here, instead) = match self {
            Self::Metal => ("Metal", cfg!(target_vendor = "apple"), if cfg!(windows) { "dx12" } else { "vulkan" }),
            Self::Dx12 => {
                ("Direct3D 12", cfg!(windows), if cfg!(target_vendor = "apple") { "metal" } else { "vulkan" })
            }
            Self::Any | Self::Vulkan => return None,
        };
        (!here).then_some(BackendError::NoApi { api, system: std::env::consts::OS, instead })
    }

    /// Whether an adapter is of this API.
    pub fn includes(self, info: &wgpu::AdapterInfo) -> bool {
        self.backends().contains(info.backend.into())
    }
}

/// What kernels are made of on an adapter. Native arithmetic is for the compilers that were seen to keep its bits, which is
/// NVIDIA's own; `SAMEBITS_ARITHMETIC` overrules that.
fn arithmetic(info: &wgpu::AdapterInfo) -> Result<Arithmetic, BackendError> {
    let nvidia = info.backend == wgpu::Backend::Vulkan && info.driver == "NVIDIA";
    Ok(forced_arithmetic()?.unwrap_or(if nvidia { Arithmetic::Native } else { Arithmetic::Portable }))
}

/// What `SAMEBITS_ARITHMETIC` asks for.
///
/// # Errors
/// If there is no such arithmetic.
pub fn forced_arithmetic() -> Result<Option<Arithmetic>, BackendError> {
    match std::env::var_os("SAMEBITS_ARITHMETIC").unwrap_or_default().to_string_lossy().as_ref() {
        "portable" => Ok(Some(Arithmetic::Portable)),
        "native" => Ok(Some(Arithmetic::Native)),
        "" => Ok(None),
        other => Err(BackendError::Arithmetic { wanted: other.to_owned() }),
    }
}

/// What kernels for matrix units need.
const UNITS: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

/// Units that multiply square matrices of halves with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixUnits {
    /// 16 x 16, for subgroups of 32 threads (NVIDIA).
    Of16,
    /// 8 x 8, for subgroups of 8 threads (Mesa's software device from 26 on).
    Of8,
}

impl MatrixUnits {
    /// Those of an adapter that kernels use: where their sums were seen to be exact, which is on NVIDIA and on Mesa's software device.
    fn of(adapter: &wgpu::Adapter, info: &wgpu::AdapterInfo, arithmetic: Arithmetic) -> Option<Self> {
        use wgpu::CooperativeScalarType as Scalar;
        if !adapter.features().contains(UNITS) {
            return None;
        }
        let known = adapter.cooperative_matrix_properties();
        let offers = |size: u32, threads: u32| {
            (info.subgroup_min_size, info.subgroup_max_size) == (threads, threads)
                && known.iter().any(|p| {
                    (p.m_size, p.n_size, p.k_size) == (size, size, size)
                        && (p.ab_type, p.cr_type) == (Scalar::F16, Scalar::F32)
                })
        };
        match () {
            () if arithmetic == Arithmetic::Native && offers(16, 32) => Some(Self::Of16),
            () if info.driver == "llvmpipe" && offers(8, 8) => Some(Self::Of8),
            () => None,
        }
    }

    /// The kernel for them.
    pub fn shader(self) -> &'static Shader {
        match self {
            Self::Of16 => &TILED_UNITS,
            Self::Of8 => &TILED_UNITS8,
        }
    }
}

impl fmt::Display for MatrixUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of16 => write!(f, "16 x 16"),
            Self::Of8 => write!(f, "8 x 8"),
        }
    }
}

/// The process's instances: some drivers stop answering after a few dozen.
struct Instances {
    first: wgpu::Instance,
    /// What compiles Direct3D 12's shaders in it.
    compiler: Compiler,
    /// Direct3D 12 with FXC, where the first has DXC: DXC takes only adapters of shader model 6.
    with_fxc: Option<wgpu::Instance>,
}

impl Instances {
    fn get() -> &'static Self {
        static INSTANCES: OnceLock<Instances> = OnceLock::new();
        INSTANCES.get_or_init(|| {
            let instance = |backends, compiler| {
                let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
                descriptor.backends = backends;
                descriptor.backend_options.dx12.shader_compiler = compiler;
                // No indirect dispatch is used, and its validation costs a dispatch per call.
                descriptor.flags =
                    wgpu::InstanceFlags::from_build_config() - wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL;
                wgpu::Instance::new(descriptor)
            };
            let fxc = wgpu::Dx12Compiler::Fxc;
            let Some(path) = dxc() else {
                return Self { first: instance(Api::Any.backends(), fxc), compiler: Compiler::Fxc, with_fxc: None };
            };
            let dxc = wgpu::Dx12Compiler::DynamicDxc { dxc_path: path.to_string_lossy().into_owned() };
            Self {
                first: instance(Api::Any.backends(), dxc),
                compiler: Compiler::Dxc(path),
                with_fxc: Some(instance(Api::Dx12.backends(), fxc)),
            }
        })
    }

    /// The adapters of some APIs, each with what compiles its shaders.
    fn adapters(&self, backends: wgpu::Backends) -> Vec<(wgpu::Adapter, Compiler)> {
        let list = |instance: &wgpu::Instance, backends| host::block_on(instance.enumerate_adapters(backends));
        let compiler = |a: &wgpu::Adapter| match a.get_info().backend {
            wgpu::Backend::Dx12 => self.compiler.clone(),
            _ => Compiler::Driver,
        };
        let mut all: Vec<_> = list(&self.first, backends).into_iter().map(|a| (compiler(&a), a)).collect();
        let key = |a: &wgpu::Adapter| {
            let info = a.get_info();
            (info.backend, info.vendor, info.device, info.name)
        };
        for adapter in self.with_fxc.iter().flat_map(|i| list(i, backends & Api::Dx12.backends())) {
            if all.iter().all(|(_, a)| key(a) != key(&adapter)) {
                all.push((Compiler::Fxc, adapter));
            }
        }
        all.into_iter().map(|(compiler, adapter)| (adapter, compiler)).collect()
    }
}

/// All adapters of an API, real GPUs first, each with what compiles its shaders.
fn adapters_and_compilers(api: Api) -> Vec<(wgpu::Adapter, Compiler)> {
    let mut found = Instances::get().adapters(api.backends());
    found.sort_by_key(|(a, _)| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    found
}

/// All adapters of an API, real GPUs first.
pub fn adapters(api: Api) -> Vec<wgpu::Adapter> {
    adapters_and_compilers(api).into_iter().map(|(adapter, _)| adapter).collect()
}

/// Whether an adapter computes on the CPU.
pub fn is_software(info: &wgpu::AdapterInfo) -> bool {
    info.device_type == wgpu::DeviceType::Cpu
}

/// The API's name as `--backend` spells it.
pub fn api_name(info: &wgpu::AdapterInfo) -> &'static str {
    match info.backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::Gl => "gl",
        wgpu::Backend::BrowserWebGpu => "webgpu",
        wgpu::Backend::Noop => "noop",
    }
}

/// An adapter that a user's wish allows.
#[derive(Clone)]
pub struct Candidate {
    adapter: wgpu::Adapter,
    compiler: Compiler,
    cache: Option<PathBuf>,
}

impl Candidate {
    /// The adapter's description.
    pub fn info(&self) -> wgpu::AdapterInfo {
        self.adapter.get_info()
    }

    /// Its name and API: `Intel(R) UHD Graphics (dx12)`.
    pub fn name(&self) -> String {
        let info = self.info();
        format!("{} ({})", info.name, api_name(&info))
    }

    /// Opens it.
    ///
    /// # Errors
    /// If it does not open.
    pub fn open(&self) -> Result<Device, BackendError> {
        Device::of(self, self.adapter.limits(), false)
    }
}

/// The adapters that a user's wish allows, the best first.
///
/// # Errors
/// If there is none.
pub fn candidates(options: &AdapterOptions) -> Result<Vec<Candidate>, BackendError> {
    if let Some(error) = options.api.missing() {
        return Err(error);
    }
    let all: Vec<_> = adapters_and_compilers(Api::Any)
        .into_iter()
        .map(|(adapter, compiler)| Candidate { adapter, compiler, cache: options.cache.clone() })
        .collect();
    let of_api = |c: &&Candidate| options.api.includes(&c.info());
    let Some(wanted) = &options.device else {
        let fitting = all.iter().filter(of_api).filter(|c| !options.hardware_only || !is_software(&c.info()));
        let found: Vec<_> = fitting.cloned().collect();
        let note = if options.api == Api::Any { String::new() } else { format!(" for {:?}", options.api) };
        return if found.is_empty() { Err(BackendError::NoAdapter(note)) } else { Ok(found) };
    };
    if let Some(one) = wanted.parse::<usize>().ok().and_then(|i| all.get(i)).filter(of_api) {
        return Ok(vec![one.clone()]);
    }
    let named = |c: &&Candidate| c.info().name.to_lowercase().contains(&wanted.to_lowercase());
    let found: Vec<_> = all.iter().filter(of_api).filter(named).cloned().collect();
    if found.is_empty() {
        let names = all.iter().filter(of_api).map(|c| c.info().name).collect::<Vec<_>>().join(", ");
        return Err(BackendError::NoSuchDevice { wanted: wanted.clone(), found: names });
    }
    Ok(found)
}

/// The best adapter that a user's wish allows.
///
/// # Errors
/// If there is none.
pub fn choose(options: &AdapterOptions) -> Result<wgpu::Adapter, BackendError> {
    Ok(best(options)?.adapter)
}

fn best(options: &AdapterOptions) -> Result<Candidate, BackendError> {
    candidates(options)?.into_iter().next().ok_or_else(|| BackendError::NoAdapter(String::new()))
}

/// An open device.
pub struct Device {
    /// The adapter's description.
    pub info: wgpu::AdapterInfo,
    /// What compiles its shaders.
    pub compiler: Compiler,
    /// What it allows.
    pub limits: wgpu::Limits,
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What products of many rows may use (`wgsl/lib/units.wgsl`).
    pub matrix_units: Option<MatrixUnits>,
    /// What kernels are made of.
    pub arithmetic: Arithmetic,
    pipelines: Pipelines,
    failure: Arc<Mutex<Option<String>>>,
}

impl Device {
    /// Opens the adapter chosen.
    ///
    /// # Errors
    /// If there is none, or it does not open.
    pub fn open(options: &AdapterOptions) -> Result<Self, BackendError> {
        best(options)?.open()
    }

    /// Opens the adapter chosen with no more than `limits`, to learn which kernels a model would need on such a device
    /// ([`Device::kernels`]): none is compiled when a model is opened on it.
    ///
    /// # Errors
    /// If there is no adapter, or it does not offer as much.
    pub fn listing(options: &AdapterOptions, limits: wgpu::Limits) -> Result<Self, BackendError> {
        Self::of(&best(options)?, limits, true)
    }

    fn of(candidate: &Candidate, limits: wgpu::Limits, listing: bool) -> Result<Self, BackendError> {
        let Candidate { adapter, compiler, cache } = candidate;
        let info = adapter.get_info();
        let arithmetic = arithmetic(&info)?;
        let matrix_units = MatrixUnits::of(adapter, &info, arithmetic);
        let wanted = FEATURES | if matrix_units.is_some() { UNITS } else { wgpu::Features::empty() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("samebits"),
            required_features: adapter.features() & wanted,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            // SAFETY: only wgsl/lib/units.wgsl uses what is experimental, and `samebits verify` compares its results.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let (device, queue) = host::block_on(adapter.request_device(&descriptor))
            .map_err(|e| BackendError::Device { device: info.name.clone(), message: e.to_string() })?;
        let failure = Arc::new(Mutex::new(None));
        let keep = |failure: &Arc<Mutex<Option<String>>>| {
            let failure = Arc::clone(failure);
            move |message: String| {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
            }
        };
        let (on_error, on_loss) = (keep(&failure), keep(&failure));
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| on_error(e.to_string())));
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                on_loss(format!("device lost: {message}"));
            }
        });
        let cache = cache.as_ref().and_then(|folder| KernelCache::open(&device, &info, folder));
        let pipelines = Pipelines::new(&device, &info.name, compiler.clone(), arithmetic, cache, listing);
        Ok(Self {
            info,
            compiler: compiler.clone(),
            limits,
            device,
            queue,
            matrix_units,
            arithmetic,
            pipelines,
            failure,
        })
    }

    /// An error for this device.
    pub fn error(&self, message: impl Into<String>) -> BackendError {
        BackendError::Device { device: self.info.name.clone(), message: message.into() }
    }

    /// Fails if the device reported an error since it was opened.
    pub fn check(&self) -> Result<(), BackendError> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(message) => Err(self.error(message.lines().map(str::trim).collect::<Vec<_>>().join(" "))),
            None => Ok(()),
        }
    }

    /// Bytes of the largest buffer that kernels can bind.
    pub fn largest_buffer(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// A storage buffer of at least 16 bytes.
    pub fn buffer(&self, name: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, BackendError> {
        let size = bytes.max(16).next_multiple_of(16);
        let limit = self.largest_buffer();
        if size > limit {
            let what = format!("a buffer of {size} bytes for {name} (its limit is {limit})");
            return Err(BackendError::OutOfMemory { device: self.info.name.clone(), what });
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size,
            usage,
            mapped_at_creation: false,
        });
        match host::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => {
                let what = format!("{name} ({size} bytes)");
                Err(BackendError::OutOfMemory { device: self.info.name.clone(), what })
            }
        }
    }

    /// A storage buffer for kernels, readable and writable by the host through the queue.
    pub fn storage(&self, name: &str, bytes: u64) -> Result<wgpu::Buffer, BackendError> {
        use wgpu::BufferUsages as U;
        self.buffer(name, bytes, U::STORAGE | U::COPY_DST | U::COPY_SRC)
    }

    /// A storage buffer with these contents.
    pub fn upload(&self, name: &str, bytes: &[u8]) -> Result<wgpu::Buffer, BackendError> {
        let buffer = self.storage(name, bytes.len() as u64)?;
        self.write(&buffer, bytes);
        Ok(buffer)
    }

    /// A uniform buffer with these contents.
    pub fn uniform(&self, name: &str, bytes: &[u8]) -> Result<wgpu::Buffer, BackendError> {
        let buffer = self.buffer(
            name,
            bytes.len().next_multiple_of(16) as u64,
            wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        )?;
        self.write(&buffer, bytes);
        Ok(buffer)
    }

    /// Writes to the start of a buffer; a length that is no multiple of four is padded.
    pub fn write(&self, buffer: &wgpu::Buffer, bytes: &[u8]) {
        let whole = bytes.len() / 4 * 4;
        self.queue.write_buffer(buffer, 0, &bytes[..whole]);
        if whole < bytes.len() {
            let mut last = [0; 4];
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.queue.write_buffer(buffer, whole as u64, &last);
        }
    }

    /// The pipeline of a kernel. It is compiled when it is first needed.
    ///
    /// # Errors
    /// If the kernel is no WGSL.
    pub fn pipeline(&mut self, kernel: &Kernel) -> Result<Arc<Pipeline>, BackendError> {
        self.pipelines.get(kernel)
    }

    /// Every kernel that was asked for, in the order of their names.
    pub fn kernels(&self) -> Vec<Kernel> {
        self.pipelines.kernels()
    }

    /// Binds buffers to a pipeline's bindings 0, 1, … The first holds states; which one, the dynamic offset says.
    pub fn bind(&self, pipeline: &Pipeline, buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
        let state = |buffer| wgpu::BufferBinding { buffer, offset: 0, size: wgpu::BufferSize::new(STATE_BYTES) };
        let entries: Vec<_> = pipeline
            .bindings()
            .iter()
            .zip(buffers)
            .map(|(&binding, b)| wgpu::BindGroupEntry {
                binding,
                resource: if binding == 0 { wgpu::BindingResource::Buffer(state(b)) } else { b.as_entire_binding() },
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: pipeline.layout(), entries: &entries };
        self.device.create_bind_group(&descriptor)
    }

    /// Reads the first `words` words of a buffer; waits for all work before.
    pub fn read(&self, buffer: &wgpu::Buffer, offset: u64, words: usize) -> Result<Vec<u32>, BackendError> {
        let bytes = words as u64 * 4;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer("staging", bytes, usage)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let mut out = vec![0u32; words];
        self.map(&staging, &mut out)?;
        Ok(out)
    }

    /// Waits for the work submitted.
    pub fn wait(&self) -> Result<(), BackendError> {
        self.wait_for(None)
    }

    /// Waits for a submission and those before it, or for all.
    pub fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<(), BackendError> {
        if cfg!(target_arch = "wasm32") {
            // A browser's device cannot be polled: the queue tells when all is done.
            let (send, done) = channel();
            self.queue.on_submitted_work_done(move || send.send(()).unwrap_or_default());
            host::recv(&done).map_err(|e| self.error(e.to_string()))?;
        } else {
            let wait = wgpu::PollType::Wait { submission_index, timeout: None };
            self.device.poll(wait).map_err(|e| self.error(e.to_string()))?;
        }
        self.check()
    }

    /// Waits for the work submitted and copies the start of a mappable buffer to `out`.
    pub fn map<T: bytemuck::Pod>(&self, staging: &wgpu::Buffer, out: &mut [T]) -> Result<(), BackendError> {
        let slice = staging.slice(..size_of_val(out) as u64);
        Mapped::ask(&slice, wgpu::MapMode::Read).wait(self, wgpu::PollType::wait_indefinitely())?;
        {
            let view = slice.get_mapped_range().map_err(|e| self.error(e.to_string()))?;
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(out);
            let n = bytes.len();
            bytes.copy_from_slice(&view[..n]);
        }
        staging.unmap();
        Ok(())
    }
}

/// A buffer that is being mapped.
pub(super) struct Mapped(Receiver<Result<(), wgpu::BufferAsyncError>>);

impl Mapped {
    /// Asks for a part of a buffer to be mapped.
    pub fn ask(slice: &wgpu::BufferSlice<'_>, mode: wgpu::MapMode) -> Self {
        let (send, answer) = channel();
        slice.map_async(mode, move |result| {
            // The receiver is gone where an error ended what wanted it, or nothing more is to be written.
            let _ = send.send(result);
        });
        Self(answer)
    }

    /// Waits until it is. The answer comes while the device is polled, which must reach what used the buffer last; a browser
    /// gives it by itself.
    pub fn wait(&self, device: &Device, poll: wgpu::PollType) -> Result<(), BackendError> {
        device.device.poll(poll).map_err(|e| device.error(e.to_string()))?;
        device.check()?;
        let answer = host::recv(&self.0).map_err(|e| device.error(e.to_string()))?;
        answer.map_err(|e| device.error(e.to_string()))
    }
}
