//! `samebits validate --kernels`: the kernels of models as files, for checks by compilers that this program does not have.

use std::collections::HashMap;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::Outcome;
use super::terminal::note;
use crate::backend::gpu::{AdapterOptions, Kernel, choose};
use crate::model::Model;
use crate::output::{OutputError, Target};
use crate::shaders::Arithmetic;
use crate::validate::{ShaderError, made, variants};

/// Writes files into a folder, each whole.
struct Folder<'a> {
    path: &'a Path,
    replace: bool,
}

impl Folder<'_> {
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OutputError> {
        Target::new(&self.path.join(name), self.replace, &[])?.write(bytes)
    }
}

/// Writes the WGSL of every variant in both arithmetics, and for every kernel of models what naga makes of it for FXC, DXC and
/// Metal: into `folder/kernels`, with `folder/kernels.json` to list them.
pub(super) fn kernels(
    options: &AdapterOptions,
    portable_limits: bool,
    models: &[Model],
    folder: &Path,
    replace: bool,
) -> Outcome {
    let limits = if portable_limits { wgpu::Limits::default() } else { choose(options)?.limits() };
    let kernels = made::kernels(options, &limits, &made::SHAPES, models)?;
    std::fs::create_dir_all(folder.join("kernels"))?;
    let folder = Folder { path: folder, replace };
    for v in variants() {
        #[cfg(feature = "faults")]
        let source = crate::ops::faults::plant(&v.source);
        #[cfg(not(feature = "faults"))]
        let source = v.source;
        let name = format!("kernels/{}.{}.wgsl", v.name, format!("{:?}", v.arithmetic).to_lowercase());
        folder.write(&name, source.as_bytes())?;
    }
    let mut list = Vec::new();
    for kernel in &kernels {
        let Some(made) = made::made(kernel, Arithmetic::Portable)? else { continue };
        let file = made::file_name(kernel);
        for (extension, text) in [("5_1.hlsl", &made.hlsl_5_1), ("6_4.hlsl", &made.hlsl_6_4), ("metal", &made.msl)] {
            folder.write(&format!("kernels/{file}.{extension}"), text.as_bytes())?;
        }
        let constants: serde_json::Map<_, _> =
            kernel.constants.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        let (bytes, threads) = made.workgroup;
        list.push(json!({
            "file": file,
            "variant": variant(kernel),
            "constants": constants,
            "workgroup_bytes": bytes,
            "threads": threads,
        }));
    }
    folder.write("kernels.json", &serde_json::to_vec_pretty(&list)?)?;
    note!("{} kernels written to {}", list.len(), folder.path.display());
    Ok(())
}

/// The shader and the format of a kernel.
fn variant(kernel: &Kernel) -> String {
    let shader = kernel.shader.name;
    kernel.format.map_or_else(|| shader.to_owned(), |f| format!("{shader}.{}", f.name))
}

/// The words of all buffers, each content once.
#[derive(Default)]
struct Words {
    bytes: Vec<u8>,
    places: HashMap<Vec<u8>, usize>,
}

impl Words {
    /// The place of a content: its first word, and how many.
    fn place(&mut self, content: &[u8]) -> [usize; 2] {
        let end = self.bytes.len();
        let at = *self.places.entry(Sha256::digest(content).to_vec()).or_insert(end);
        if at == end {
            self.bytes.extend_from_slice(content);
        }
        [at / 4, content.len() / 4]
    }
}

/// Writes dispatches of every kernel beside the kernels: an index in JSON, and the words of all buffers in one file.
pub(super) fn dispatches(options: &AdapterOptions, models: &[Model], folder: &Path, replace: bool) -> Outcome {
    let folder = Folder { path: folder, replace };
    let (mut list, mut words) = (Vec::new(), Words::default());
    let mut texts = HashMap::new();
    let mut failed = None;
    made::dispatches(options, models, &mut |d| {
        let made = match made::made(&d.kernel, Arithmetic::Portable) {
            Ok(Some(made)) if made.storage.len() == d.buffers.len() => made,
            Ok(Some(made)) => {
                let (name, has, of) = (d.kernel.name(), d.buffers.len(), made.storage.len());
                failed.get_or_insert(ShaderError(format!("{name}: {has} buffers for its {of} bindings")));
                return;
            }
            Ok(None) => return,
            Err(error) => {
                failed.get_or_insert(error);
                return;
            }
        };
        let file = made::file_name(&d.kernel);
        let params = words.place(&d.params);
        let mut place = |w: &Vec<u32>| words.place(bytemuck::cast_slice(w));
        let buffers: Vec<_> = made
            .storage
            .iter()
            .zip(&d.buffers)
            .map(|(binding, (before, after))| {
                json!({"binding": binding, "before": place(before), "after": after.as_ref().map(&mut place)})
            })
            .collect();
        list.push(json!({
            "file": file,
            "variant": variant(&d.kernel),
            "name": d.kernel.name(),
            "shape": d.shape,
            "groups": d.groups,
            "threads": made.workgroup.1,
            "params": params,
            "buffers": buffers,
        }));
        texts.insert(file, made.msl);
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    for (file, text) in &texts {
        // Models have some of them, too.
        Folder { replace: true, ..folder }.write(&format!("kernels/{file}.metal"), text.as_bytes())?;
    }
    folder.write("dispatches.bin", &words.bytes)?;
    folder.write("dispatches.json", &serde_json::to_vec(&list)?)?;
    note!("{} dispatches written to {}", list.len(), folder.path.display());
    Ok(())
}
