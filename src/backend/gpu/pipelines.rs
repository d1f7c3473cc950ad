//! Kernels on a device: their bindings are known at once, their code is compiled when it is first needed, that of many in
//! parallel.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::compiler::Compiler;
use super::disk::KernelCache;
use crate::backend::BackendError;
use crate::host;
use crate::ops::Call;
use crate::quant::Format;
use crate::shaders::{self, Arithmetic, Shader, Weights};

/// A kernel: a shader with its variant.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The shader.
    pub shader: &'static Shader,
    /// The weight format, where the kernel reads weights.
    pub format: Option<&'static Format>,
    /// Values of the shader's overrides.
    pub constants: Vec<(&'static str, u32)>,
}

impl Kernel {
    /// A shader that needs no more.
    pub fn new(shader: &'static Shader) -> Self {
        Self { shader, format: None, constants: Vec::new() }
    }

    /// That of a step's dispatch.
    pub fn of(call: &Call) -> Self {
        let kernel = Self { shader: call.shader, format: call.format, constants: Vec::new() }.precise(call.precise);
        call.constants.iter().fold(kernel, |kernel, (name, value)| kernel.with(name, *value))
    }

    /// With weights of this format.
    #[must_use]
    pub fn format(mut self, format: &'static Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets the override `PRECISE`.
    #[must_use]
    pub fn precise(self, precise: bool) -> Self {
        if precise { self.with("PRECISE", 1) } else { self }
    }

    /// Sets an override.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// Its name in reports: `matmul.Q4_0.PRECISE=1`.
    pub fn name(&self) -> String {
        let mut name = self.shader.name.to_owned();
        if let Some(format) = self.format {
            name = format!("{name}.{}", format.name);
        }
        for (constant, value) in &self.constants {
            name = format!("{name}.{constant}={value}");
        }
        name
    }

    fn weights(&self) -> Option<&'static Weights> {
        self.format.and_then(|f| shaders::weights(f.name))
    }

    /// What a device with these limits lacks for it; `None` where it has the threads and the workgroup memory.
    pub fn lacks(&self, limits: &wgpu::Limits) -> Option<String> {
        let facts = self.shader.facts(self.weights())?;
        let needs = [
            (
                facts.workgroup_memory(&self.constants),
                limits.max_compute_workgroup_storage_size,
                "bytes of workgroup memory",
            ),
            (facts.threads(&self.constants), limits.max_compute_invocations_per_workgroup, "threads in a workgroup"),
        ];
        let (needed, has, what) = needs.into_iter().find(|(needed, has, _)| needed > has)?;
        Some(format!("{} needs {needed} {what}, the device has {has}", self.shader.name))
    }

    /// Itself; or what a device with these limits lacks for it.
    pub(super) fn on(self, limits: &wgpu::Limits) -> Result<Self, String> {
        self.lacks(limits).map_or(Ok(self), Err)
    }

    /// Whether a device with these limits lacks nothing for it.
    pub fn fits(&self, limits: &wgpu::Limits) -> bool {
        self.lacks(limits).is_none()
    }

    /// The whole WGSL module.
    pub fn source(&self, arithmetic: Arithmetic) -> String {
        let source = self.shader.source(self.weights(), arithmetic);
        #[cfg(feature = "faults")]
        let source = crate::ops::faults::plant(&source);
        source
    }
}

/// A kernel on a device.
#[derive(Debug)]
pub struct Pipeline {
    name: String,
    kernel: Kernel,
    layout: wgpu::BindGroupLayout,
    /// The numbers of its bindings, ascending.
    bindings: Vec<u32>,
    compiler: Arc<Kernels>,
    code: OnceLock<Result<wgpu::ComputePipeline, String>>,
}

impl Pipeline {
    /// What it was made of.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The layout of its bindings.
    pub fn layout(&self) -> &wgpu::BindGroupLayout {
        &self.layout
    }

    /// The numbers of its bindings, ascending: the state, the parameters, then buffers.
    pub fn bindings(&self) -> &[u32] {
        &self.bindings
    }

    /// The compiled kernel; compiles it where that was not done yet.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn code(&self) -> Result<&wgpu::ComputePipeline, BackendError> {
        let code = self.code.get_or_init(|| self.compiler.compile(&self.name, &self.kernel, &self.layout));
        code.as_ref().map_err(|message| self.compiler.error(message.clone()))
    }
}

/// The kernels of a device.
#[derive(Debug)]
pub(super) struct Pipelines {
    compiler: Arc<Kernels>,
    known: HashMap<String, Arc<Pipeline>>,
}

impl Pipelines {
    /// None yet; `listing` names kernels and compiles none ahead.
    pub fn new(
        device: &wgpu::Device,
        name: &str,
        compiler: Compiler,
        arithmetic: Arithmetic,
        cache: Option<KernelCache>,
        listing: bool,
    ) -> Self {
        let compiler = Kernels { device: device.clone(), name: name.to_owned(), compiler, arithmetic, cache, listing };
        Self { compiler: Arc::new(compiler), known: HashMap::new() }
    }

    /// Every kernel that was asked for, in the order of their names.
    pub fn kernels(&self) -> Vec<Kernel> {
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_by_key(|(name, _)| *name);
        all.into_iter().map(|(_, pipeline)| pipeline.kernel.clone()).collect()
    }

    /// The pipeline of a kernel, not compiled yet.
    pub fn get(&mut self, kernel: &Kernel) -> Result<Arc<Pipeline>, BackendError> {
        let name = kernel.name();
        if let Some(pipeline) = self.known.get(&name) {
            return Ok(Arc::clone(pipeline));
        }
        let (layout, bindings) = self.compiler.layout(&name, kernel)?;
        let (kernel, compiler) = (kernel.clone(), Arc::clone(&self.compiler));
        let code = OnceLock::new();
        let pipeline = Arc::new(Pipeline { name: name.clone(), kernel, layout, bindings, compiler, code });
        self.known.insert(name, Arc::clone(&pipeline));
        Ok(pipeline)
    }
}

/// Compiles those of `pipelines` that are not compiled yet on all cores, while `meanwhile` runs on this thread.
pub(super) fn compile<'a, T>(
    pipelines: impl Iterator<Item = &'a Pipeline>,
    meanwhile: impl FnOnce() -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    let mut missing: Vec<&Pipeline> = pipelines.filter(|p| p.code.get().is_none()).collect();
    let Some(Pipeline { compiler, .. }) = missing.first() else { return meanwhile() };
    if compiler.listing {
        return meanwhile();
    }
    missing.sort_by_key(|p| &p.name);
    missing.dedup_by_key(|p| &p.name);
    // Long ones first, so that none is left to one core at the end.
    missing.sort_by_key(|p| Reverse(p.kernel.shader.wgsl.len()));
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(pipeline) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            // An error stays with the pipeline.
            let _ = pipeline.code();
        }
    };
    let result = host::beside(host::threads().min(missing.len()), work, meanwhile);
    missing.iter().try_for_each(|p| p.code().map(drop))?;
    if let Some(cache) = &compiler.cache {
        cache.save();
    }
    result
}

/// What all pipelines of a device share.
#[derive(Debug)]
struct Kernels {
    device: wgpu::Device,
    /// The adapter's name.
    name: String,
    compiler: Compiler,
    arithmetic: Arithmetic,
    cache: Option<KernelCache>,
    /// Whether kernels are only named.
    listing: bool,
}

impl Kernels {
    fn error(&self, message: String) -> BackendError {
        BackendError::Kernel { device: self.name.clone(), compiler: self.compiler.clone(), message }
    }

    fn layout(&self, name: &str, kernel: &Kernel) -> Result<(wgpu::BindGroupLayout, Vec<u32>), BackendError> {
        let module = naga::front::wgsl::parse_str(&kernel.source(self.arithmetic));
        let module = module.map_err(|e| self.error(format!("shader {name}: {e}")))?;
        let entries = layout_entries(&module);
        let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries };
        let layout = self.made(name, || self.device.create_bind_group_layout(&descriptor));
        Ok((layout.map_err(|e| self.error(e))?, entries.iter().map(|e| e.binding).collect()))
    }

    /// What `make` makes for a kernel, or why the device refuses it.
    fn made<T>(&self, name: &str, make: impl FnOnce() -> T) -> Result<T, String> {
        // Scopes belong to a thread: other kernels may be compiled at the same time.
        let outer = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let inner = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        let errors = [inner, outer].map(|scope| host::block_on(scope.pop()));
        match errors.into_iter().flatten().next() {
            None => Ok(made),
            Some(e) => Err(format!("kernel {name} does not compile: {}", words(&e.to_string()))),
        }
    }

    fn compile(
        &self,
        name: &str,
        kernel: &Kernel,
        layout: &wgpu::BindGroupLayout,
    ) -> Result<wgpu::ComputePipeline, String> {
        let source = wgpu::ShaderSource::Wgsl(kernel.source(self.arithmetic).into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source };
        let checks = if cfg!(debug_assertions) {
            wgpu::ShaderRuntimeChecks::checked()
        } else {
            wgpu::ShaderRuntimeChecks::unchecked()
        };
        // SAFETY: every index a kernel forms is bounded by its parameters, by the rows and position of its state, or is a
        // token id. Parameters are derived from the shapes of a plan that passed `Plan::check`, as the sizes of the buffers
        // bound with them are (`lower.rs`). Rows, positions and ids come from a `Batch` or a `Lane`, which exist only within
        // the limits of the backend that runs them; ids that a kernel chose are below the width of the logits, and the
        // embedding kernel skips ids that its matrix does not have. Every loop is bounded by a parameter. The same
        // kernels run with all checks in the tests.
        let shader = || unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let pipeline_layout = wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        };
        let constants: Vec<_> = kernel.constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        self.made(name, || {
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&self.device.create_pipeline_layout(&pipeline_layout)),
                module: &shader(),
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: cfg!(debug_assertions),
                },
                cache: self.cache.as_ref().map(KernelCache::driver),
            })
        })
    }
}

/// A message of several lines as one.
fn words(message: &str) -> String {
    message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Layout entries of every binding a module declares.
fn layout_entries(module: &naga::Module) -> Vec<wgpu::BindGroupLayoutEntry> {
    let mut entries: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let binding = variable.binding.as_ref()?.binding;
            let ty = match variable.space {
                naga::AddressSpace::Uniform => wgpu::BufferBindingType::Uniform,
                naga::AddressSpace::Storage { access } => {
                    wgpu::BufferBindingType::Storage { read_only: !access.contains(naga::StorageAccess::STORE) }
                }
                _ => return None,
            };
            Some(wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: binding == 0, min_binding_size: None },
                count: None,
            })
        })
        .collect();
    entries.sort_by_key(|e| e.binding);
    entries
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backend::gpu::{AdapterOptions, Device};
    use crate::ops;

    static TOO_LARGE: Shader =
        Shader { name: "too_large", file: "", wgsl: "@compute @workgroup_size(65536) fn main() { _ = 1; }", own: &[] };

    /// Errors of kernels that are compiled at the same time are those kernels' own, whenever they are asked for.
    #[test]
    fn an_error_names_its_kernel() {
        let mut device = Device::open(&AdapterOptions::default()).unwrap();
        let shaders = [&ops::add::SHADER, &ops::silu_mul::SHADER, &ops::rope::SHADER, &TOO_LARGE];
        let [good @ .., bad] = shaders.map(|s| device.pipeline(&Kernel::new(s)).unwrap());
        let all = good.iter().chain([&bad]).map(|p| &**p);
        let error = compile(all, || Ok(())).unwrap_err().to_string();
        assert!(error.contains("kernel too_large does not compile"), "{error}");
        assert_eq!(bad.code().unwrap_err().to_string(), error);
        assert!(good.iter().all(|p| p.code.get().is_some() && p.code().is_ok()));
        device.check().unwrap();
        // What is compiled already is not compiled again, and what runs meanwhile has the last word.
        let meanwhile = compile(good.iter().map(|p| &**p), || Err::<(), _>(device.error("meanwhile")));
        assert!(meanwhile.unwrap_err().to_string().contains("meanwhile"));
    }
}
