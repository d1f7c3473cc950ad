//! Where a model is measured.

use std::cell::OnceCell;

use crate::backend::cpu::{self, Cpu, Isa};
use crate::backend::gpu::{self, AdapterOptions, Api, Device, Gpu};
use crate::backend::{Backend, BackendError, Sizes};
use crate::model::Model;
use crate::plan::Plan;
use crate::verify::report;

/// The CPU with so many threads, or an adapter.
#[derive(Debug)]
pub struct Place {
    what: What,
    read_bandwidth: OnceCell<Option<f64>>,
}

#[derive(Debug)]
enum What {
    Cpu { threads: usize },
    Gpu { options: AdapterOptions, software: bool },
}

impl Place {
    fn new(what: What) -> Self {
        Self { what, read_bandwidth: OnceCell::new() }
    }

    /// The CPU.
    pub fn cpu(threads: usize) -> Self {
        Self::new(What::Cpu { threads })
    }

    /// The adapter `device` (as in [`AdapterOptions`]), or every adapter of an API. Those that compute on the CPU count only if
    /// there is no other.
    ///
    /// # Errors
    /// If the API has no adapter.
    pub fn adapters(api: Api, device: Option<&str>) -> Result<Vec<Self>, BackendError> {
        if let Some(device) = device {
            let options = AdapterOptions { api, device: Some(device.to_owned()), ..kept() };
            let software = gpu::is_software(&gpu::choose(&options)?.get_info());
            return Ok(vec![Self::new(What::Gpu { options, software })]);
        }
        // The best, or the error of a options among none.
        let only_software =
            gpu::is_software(&gpu::choose(&AdapterOptions { api, ..AdapterOptions::default() })?.get_info());
        let infos = gpu::adapters(Api::Any).into_iter().map(|a| a.get_info()).enumerate();
        let wanted = infos.filter(|(_, info)| api.includes(info) && (only_software || !gpu::is_software(info)));
        Ok(wanted
            .map(|(i, info)| {
                let options = AdapterOptions { api, device: Some(i.to_string()), ..kept() };
                Self::new(What::Gpu { options, software: gpu::is_software(&info) })
            })
            .collect())
    }

    /// The best real GPU, where there is one.
    pub fn best_gpu() -> Option<Self> {
        let options = AdapterOptions { hardware_only: true, ..kept() };
        gpu::choose(&options).is_ok().then(|| Self::new(What::Gpu { options, software: false }))
    }

    /// The number of threads, on the CPU.
    pub fn threads(&self) -> Option<usize> {
        match self.what {
            What::Cpu { threads } => Some(threads),
            What::Gpu { .. } => None,
        }
    }

    /// Whether it is a GPU that is not software.
    pub fn is_real_gpu(&self) -> bool {
        matches!(self.what, What::Gpu { software: false, .. })
    }

    /// What there is to say about it, as `verify --report` does.
    ///
    /// # Errors
    /// If the adapter does not open.
    pub fn about(&self) -> Result<Vec<(&'static str, String)>, BackendError> {
        match &self.what {
            What::Cpu { threads } => Ok(vec![("cpu", format!("{threads} threads, {:?}", Isa::from_environment()?))]),
            What::Gpu { options, .. } => Ok(report::adapter(&Device::open(options)?)),
        }
    }

    /// Tokens of a prompt that are computed at once there, where nobody asks for another number.
    pub fn usual_chunk(&self) -> usize {
        Sizes::usual_batch(matches!(self.what, What::Gpu { software: true, .. }))
    }

    /// Opens a model there.
    pub(super) fn open(&self, model: &Model, plan: Plan, sizes: Sizes) -> Result<Box<dyn Backend>, BackendError> {
        Ok(match &self.what {
            What::Cpu { threads } => Box::new(Cpu::with_isa(model, plan, sizes, *threads, Isa::from_environment()?)?),
            What::Gpu { options, .. } => Box::new(Gpu::new(Device::open(options)?, model, plan, sizes, &mut |_| {})?),
        })
    }

    /// Bytes per second that a plain loop reads there, measured once; `None` without room for it.
    pub(super) fn read_bandwidth(&self) -> Option<f64> {
        *self.read_bandwidth.get_or_init(|| match &self.what {
            What::Cpu { threads } => cpu::read_bandwidth(*threads),
            What::Gpu { options, .. } => {
                Device::open(options).and_then(|mut device| gpu::read_bandwidth(&mut device)).ok()
            }
        })
    }
}

/// A options that keeps compiled kernels in the user's cache directory.
fn kept() -> AdapterOptions {
    AdapterOptions { cache: gpu::disk::folder(), ..AdapterOptions::default() }
}

/// The largest resident size of this process since [`forget_peak_memory`], in bytes, where the system tells.
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Starts the count of [`peak_memory`] anew; where the system refuses, it goes on.
pub(super) fn forget_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
