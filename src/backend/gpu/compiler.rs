//! What compiles shaders on an adapter. On Direct3D 12 that is a library of Microsoft's: DXC (`dxcompiler.dll`) where there
//! is one, or FXC (`d3dcompiler_47.dll`), which is part of Windows.

use std::fmt;
use std::path::{Path, PathBuf};

/// What compiles shaders on an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// The driver's own.
    Driver,
    /// Microsoft's compiler for shader model 5.1, a part of Windows.
    Fxc,
    /// Microsoft's compiler for shader model 6, at this path.
    Dxc(PathBuf),
}

impl Compiler {
    /// The compiler of Direct3D 12's shaders, where it is known: DXC, FXC.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Driver => None,
            Self::Fxc => Some("FXC"),
            Self::Dxc(_) => Some("DXC"),
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver => write!(f, "the driver's compiler"),
            Self::Fxc => write!(f, "FXC"),
            Self::Dxc(path) => write!(f, "DXC ({})", path.display()),
        }
    }
}

/// The first of these folders' DXC.
fn dxc_in(mut folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.find_map(|folder| Some(folder.join("dxcompiler.dll")).filter(|path| path.is_file()))
}

/// Where DXC lies: beside the program, or in a folder of `PATH`. Nowhere but on Windows.
pub(super) fn dxc() -> Option<PathBuf> {
    if !cfg!(windows) {
        return None;
    }
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    dxc_in(beside.into_iter().chain(std::env::split_paths(&path)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_first_folder_with_dxc_gives_it() {
        let [empty, first, second] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let folders = || [&empty, &first, &second].map(|f| f.path().to_path_buf()).into_iter();
        assert_eq!(dxc_in(folders()), None);
        std::fs::write(second.path().join("dxcompiler.dll"), "").unwrap();
        assert_eq!(dxc_in(folders()), Some(second.path().join("dxcompiler.dll")));
        std::fs::write(first.path().join("dxcompiler.dll"), "").unwrap();
        assert_eq!(dxc_in(folders()), Some(first.path().join("dxcompiler.dll")));
        // A folder of that name is no library.
        std::fs::create_dir(empty.path().join("dxcompiler.dll")).unwrap();
        assert_eq!(dxc_in(folders()), Some(first.path().join("dxcompiler.dll")));
    }
}
