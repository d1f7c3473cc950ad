//! Every command that writes a file: what it must not harm, what stands there afterwards, what an end by force leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{data, samebits};
use predicates::str::contains;

/// The commands that write a file, each with OUT where its name goes.
const WRITERS: [&[&str]; 6] = [
    &["quantize", "MODEL", "OUT", "Q8_0", "-q"],
    &["logits", "-m", "MODEL", "--tokens", "1,2", "--backend", "cpu", "-q", "--npy", "OUT"],
    &["trace", "-m", "MODEL", "-p", "ab", "--step", "token_embd", "--dump", "OUT"],
    &["trace", "-m", "MODEL", "-p", "ab", "--html", "OUT"],
    &["trace", "-m", "MODEL", "-p", "ab", "--svg", "OUT"],
    &["bench", "-m", "MODEL", "-p", "2", "-n", "0", "-r", "1", "--backend", "cpu", "-q", "--svg", "OUT"],
];

fn words(writer: &[&str], model: &Path, out: &Path) -> Vec<String> {
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    writer
        .iter()
        .map(|word| match *word {
            "MODEL" => path(model),
            "OUT" => path(out),
            other => other.to_owned(),
        })
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_is_replaced_without_force_and_inputs_never() {
    for writer in WRITERS {
        let folder = tempfile::tempdir().unwrap();
        let [model, out] = ["model.gguf", "out"].map(|name| folder.path().join(name));
        std::fs::copy(data("tiny/tiny-f32.gguf"), &model).unwrap();
        let before = std::fs::read(&model).unwrap();
        std::fs::write(&out, "precious").unwrap();
        let run = |out: &Path, force: bool| {
            let mut command = samebits();
            command.args(words(writer, &model, out));
            if force {
                command.arg("--force");
            }
            command.assert()
        };
        run(&out, false).code(1).stdout("").stderr(contains("--force"));
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "precious", "{writer:?}");
        run(&model, true).code(1).stdout("").stderr(contains("this command reads"));
        run(folder.path(), true).code(1).stdout("").stderr(contains("is a directory"));
        run(&folder.path().join("none/out"), true).code(1).stderr(contains("there is no folder"));
        assert!(std::fs::read(&model).unwrap() == before, "{writer:?}");
        run(&out, true).success();
        assert!(std::fs::read(&out).unwrap() != b"precious", "{writer:?}");
        assert_eq!(names(folder.path()), ["model.gguf", "out"], "{writer:?}");
    }
}

/// Two outputs of one command, an output that is read, standard output for two things.
#[test]
fn outputs_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let fails = |arguments: &[&str], code: i32, says: &str| {
        samebits().args(arguments).assert().code(code).stdout("").stderr(contains(says.to_owned()));
    };
    fails(&["trace", "-p", "a", "--html", out, "--svg", out], 1, "named for two outputs");
    fails(&["trace", "-p", "a", "--json", "--svg", "-"], 2, "--json prints to standard output");
    fails(&["logits", "-p", "a", "--json", "--npy", "/dev/stdout"], 2, "--json prints to standard output");
    std::fs::write(out, "[]").unwrap();
    fails(&["bench", "--compare", out, "--svg", out, "--force"], 1, "this command reads");
    fails(&["trace", "-p", "a", "--against", out, "--svg", out, "--force"], 1, "this command reads");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "[]");
    fails(&["logits", "-p", "a", "--force"], 2, "--npy");
}

/// Standard output holds the file and nothing else.
#[test]
fn a_file_can_go_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let model = data("tiny/tiny-f32.gguf");
    for (i, writer) in WRITERS.into_iter().enumerate() {
        let path = folder.path().join(i.to_string());
        samebits().args(words(writer, &model, &path)).assert().success();
        let output = samebits().args(words(writer, &model, Path::new("-"))).assert().success().get_output().clone();
        let file = std::fs::read(&path).unwrap();
        let start = file.len().min(64);
        assert_eq!(output.stdout[..start], file[..start], "{writer:?}");
        // Times differ from run to run.
        assert!(output.stdout == file || writer[0] == "bench", "{writer:?}");
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::time::{Duration, Instant};

    use super::*;

    /// The program under a shell, for limits and masks.
    fn shell(script: &str, arguments: &[String]) -> std::process::Output {
        let program = assert_cmd::cargo::cargo_bin("samebits");
        let script = format!("{script}; exec \"$@\"");
        Command::new("sh").args(["-c", &script, "sh"]).arg(program).args(arguments).output().unwrap()
    }

    #[test]
    fn permissions_are_the_users() {
        let model = data("tiny/tiny-f32.gguf");
        for writer in WRITERS {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("out");
            let mode = || out.metadata().unwrap().permissions().mode() & 0o7777;
            for (mask, expected) in [("077", 0o600), ("022", 0o644), ("002", 0o664)] {
                let output = shell(&format!("umask {mask}"), &words(writer, &model, &out));
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                assert_eq!(mode(), expected, "{writer:?}");
                std::fs::remove_file(&out).unwrap();
            }
            std::fs::write(&out, "old").unwrap();
            std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o640)).unwrap();
            samebits().args(words(writer, &model, &out)).arg("--force").assert().success();
            assert_eq!(mode(), 0o640, "{writer:?}");
        }
    }

    #[test]
    fn links_devices_and_fifos_stay() {
        let model = data("tiny/tiny-f32.gguf");
        for writer in WRITERS {
            let folder = tempfile::tempdir().unwrap();
            let [file, link, fifo] = ["file", "link", "fifo"].map(|name| folder.path().join(name));
            std::fs::write(&file, "old").unwrap();
            symlink("file", &link).unwrap();
            samebits().args(words(writer, &model, &link)).arg("--force").assert().success();
            assert!(link.is_symlink() && std::fs::read(&file).unwrap() != b"old", "{writer:?}");
            samebits().args(words(writer, &model, Path::new("/dev/null"))).arg("--force").assert().success();
            assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
            assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
            let reader = Command::new("cat").arg(&fifo).stdout(std::process::Stdio::piped()).spawn().unwrap();
            samebits().args(words(writer, &model, &fifo)).arg("--force").assert().success();
            let got = reader.wait_with_output().unwrap().stdout;
            assert!(fifo.metadata().unwrap().file_type().is_fifo(), "{writer:?}");
            let whole = std::fs::read(&file).unwrap().len();
            assert!(got.len() == whole || writer[0] == "bench", "{writer:?}: {} bytes of {whole}", got.len());
            assert_eq!(names(folder.path()), ["fifo", "file", "link"], "{writer:?}");
        }
    }

    #[test]
    fn a_full_disk_and_a_limit_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (out, model) = (folder.path().join("out"), data("tiny/tiny-f32.gguf"));
        for writer in WRITERS {
            let output = shell("ulimit -f 1; ulimit -c 0", &words(writer, &model, &out));
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            // A file that is small enough is written, of course.
            if output.status.success() {
                std::fs::remove_file(&out).unwrap();
            } else {
                assert_eq!(output.status.code(), Some(1), "{writer:?} {stderr}");
                assert!(stderr.contains("cannot write") && stderr.contains("out"), "{stderr}");
            }
            assert_eq!(names(folder.path()), [""; 0], "{writer:?}");
        }
        if cfg!(target_os = "linux") {
            let full = Path::new("/dev/full");
            for writer in WRITERS {
                samebits()
                    .args(words(writer, &model, full))
                    .assert()
                    .code(1)
                    .stderr(contains("cannot write /dev/full"));
            }
        }
    }

    /// Ended by any signal that a program hears, it leaves nothing, and the exit code says which.
    #[test]
    fn signals_leave_nothing() {
        let stories = concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories.gguf");
        for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
            let folder = tempfile::tempdir().unwrap();
            let mut child = Command::new(assert_cmd::cargo::cargo_bin("samebits"))
                .args(["quantize", stories])
                .arg(folder.path().join("out"))
                .args(["Q3_K_M", "--pure", "-q", "-t", "1"])
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let start = Instant::now();
            while names(folder.path()).is_empty() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(names(folder.path())[0].starts_with(".samebits-"), "it ended before the signal");
            let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
            assert!(kill.success());
            assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
            assert_eq!(names(folder.path()), [""; 0], "{signal}");
        }
    }
}
