//! Files that save work at the next start, in the user's cache directory: each is of one adapter, driver and version, written
//! whole, and no loss.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::device::api_name;
use crate::output::{OutputError, Target};

/// The folder for this program's files, where the system has one for caches.
pub fn folder() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("samebits"))
}

/// A file's name that no other adapter, driver, version or `content` has.
pub fn file_name(kind: &str, info: &wgpu::AdapterInfo, content: &str, extension: &str) -> String {
    let numbers = [info.vendor, info.device];
    let names = [&info.name, &info.driver, &info.driver_info, api_name(info), env!("CARGO_PKG_VERSION")];
    let key = format!("{names:?}{numbers:?}{content}");
    let hex: String = Sha256::digest(key).iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{kind}-{hex}.{extension}")
}

/// Writes a file as a whole, and its folder before: another process may read it at the same time.
///
/// # Errors
/// Whatever the system reports.
pub fn write(path: &Path, contents: &[&[u8]]) -> Result<(), OutputError> {
    // Where there can be no folder, the file cannot be written, and that error names the file.
    let _ = path.parent().map(std::fs::create_dir_all);
    let target = Target::new(path, true, &[])?;
    let mut output = target.create()?;
    contents.iter().try_for_each(|part| output.write_all(part)).map_err(|e| target.failed(&e))?;
    output.finish()
}

/// Bytes of the hash before the data of a kernel cache.
const HASH: usize = 32;

/// A cache of kernels that grew beyond this, by those of earlier builds, is begun anew.
const LARGEST: usize = 64 << 20;

/// Compiled kernels of a driver, kept in a file: their hash, then what the driver gave.
#[derive(Debug)]
pub(super) struct KernelCache {
    driver: wgpu::PipelineCache,
    path: PathBuf,
    /// Bytes of the driver's data in the file.
    saved: Mutex<usize>,
}

impl KernelCache {
    /// With what is in the folder; `None` where the device has no such cache. A file that is damaged, or that the driver
    /// does not want, counts as none.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(file_name("kernels", info, "", "bin"));
        let data = std::fs::read(&path).ok().and_then(checked);
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("kernels"), data: data.as_deref(), fallback: true };
        // SAFETY: by its hash, the data is what `get_data` gave (`save`), in a process of the same adapter and driver (the
        // file's name); wgpu compares both again.
        let driver = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { driver, path, saved: Mutex::new(data.map_or(0, |d| d.len())) })
    }

    /// What pipelines are made with.
    pub fn driver(&self) -> &wgpu::PipelineCache {
        &self.driver
    }

    /// Writes the file where there is more than at the last time. What cannot be written is compiled again at the next start.
    pub fn save(&self) {
        let Some(data) = self.driver.get_data() else { return };
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if *saved != data.len() && write(&self.path, &[Sha256::digest(&data).as_slice(), &data]).is_ok() {
            *saved = data.len();
        }
    }
}

/// The data of a file, if it is whole.
fn checked(mut file: Vec<u8>) -> Option<Vec<u8>> {
    let (hash, data) = file.split_at_checked(HASH)?;
    if data.len() > LARGEST || Sha256::digest(data).as_slice() != hash {
        return None;
    }
    file.drain(..HASH);
    Some(file)
}
