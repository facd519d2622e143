// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot` and QEMU ask of KVM while a Linux with eight functions of
//! memory boots, enables them and switches itself off.

mod trace;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::check::at;
pub use trace::Counts;
use trace::Trace;

/// The number of functions. Each has a BAR of 1 MiB.
const DEVICES: usize = 8;

/// The most seconds that a boot may take.
const LIMIT: &str = "300";

/// The kernel's parameters, for both. The processor that the lab emulates reports
/// sizes of the XSAVE area that a guest of a guest finds inconsistent.
const PARAMETERS: &str = "quiet noxsave guest.run=enable";

/// The programs and the guest, by their paths.
#[derive(Clone, Debug)]
pub struct Files {
    /// The tracer.
    pub strace: PathBuf,
    /// The peer.
    pub qemu: PathBuf,
    /// Our program.
    pub vmm: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
}

/// Boots the guest with each program, and reports each program's counts.
///
/// # Errors
/// A program cannot be traced, or the guest does not switch itself off.
pub fn measure(files: &Files, mut report: impl FnMut(&str, &Counts)) -> Result<(), String> {
    // Ours says why it ends. QEMU stops and waits if KVM cannot go on.
    report("vmm", &traced(files, &files.ours())?);
    report("qemu", &traced(files, &files.peers())?);
    Ok(())
}

impl Files {
    fn ours(&self) -> Command {
        let mut command = Command::new(&self.vmm);
        command
            .args(["boot", "--json", "--kernel"])
            .arg(&self.kernel);
        command.arg("--initrd").arg(&self.initrd);
        command.args(["--memory", "256M", "--append", PARAMETERS]);
        for _ in 0..DEVICES {
            command.args(["--device", "memory:1M"]);
        }
        command
    }

    fn peers(&self) -> Command {
        let mut command = Command::new(&self.qemu);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio"]);
        command.args(["-accel", "kvm", "-cpu", "host", "-m", "256"]);
        command.arg("-kernel").arg(&self.kernel);
        command.arg("-initrd").arg(&self.initrd);
        command.arg("-append");
        command.arg(format!("console=ttyS0 panic=-1 {PARAMETERS}"));
        for number in 0..DEVICES {
            command.arg("-object");
            command.arg(format!("memory-backend-ram,id=m{number},size=1M,share=on"));
            command.arg("-device");
            command.arg(format!("ivshmem-plain,memdev=m{number}"));
        }
        command
    }
}

/// Runs a command under the tracer. The guest must have come to its end.
fn traced(files: &Files, command: &Command) -> Result<Counts, String> {
    let folder = std::env::temp_dir().join(format!("calls.{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(at("a folder"))?;
    let ended = trace_into(&folder, files, command);
    let _ = std::fs::remove_dir_all(&folder);
    ended
}

fn trace_into(folder: &Path, files: &Files, command: &Command) -> Result<Counts, String> {
    let trace = folder.join("trace");
    let mut tracer = Command::new(&files.strace);
    tracer
        .args(["-f", "-T", "-e", "trace=ioctl", "-o"])
        .arg(&trace);
    tracer.args(["timeout", "-s", "KILL", LIMIT]);
    tracer.arg(command.get_program()).args(command.get_args());
    let output = tracer.stdin(Stdio::null()).output().map_err(at("strace"))?;
    // QEMU's console is its output; ours has a report there, and the console among
    // the errors.
    let [printed, said] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let mut lines = printed.lines().chain(said.lines());
    let done = lines.any(|line| line.trim_end() == "guest: done");
    if !done || !output.status.success() {
        // Both programs start their messages with their names.
        let last = said.lines().rfind(|line| !line.is_empty());
        return Err(match last.or_else(|| printed.lines().last()) {
            Some(last) => last.to_string(),
            None => format!("{}: {}", command.get_program().display(), output.status),
        });
    }
    let reported: Option<Value> = serde_json::from_str(&printed).ok();
    let slots = reported.and_then(|report| Some(report["slots"].as_array()?.len() as u64));
    let mut found = Trace::default();
    let lines = BufReader::new(File::open(&trace).map_err(at("the trace"))?).lines();
    for line in lines {
        found.line(&line.map_err(at("the trace"))?);
    }
    Ok(found.counts(slots))
}
