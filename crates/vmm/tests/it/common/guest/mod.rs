// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of a few instructions for `vmm boot`: kernels whose entry point runs them on
//! the real KVM.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::stderr;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// The device of KVM, or `None`, with a message, if no guest can run here.
pub fn kvm() -> Option<&'static str> {
    let device = "/dev/kvm";
    match vmm::boot::native::vm::GuestVm::new(device.as_ref(), kvm_slots::AbiProfile::None, false) {
        Ok(_) => Some(device),
        Err(error) => {
            eprintln!("skipped: {}", vmm::with_causes(&error));
            None
        }
    }
}

/// A folder with a kernel.
pub struct Kernel {
    folder: TempDir,
}

impl Kernel {
    /// A kernel that runs this code.
    pub fn new(code: &Code) -> Self {
        Self::of(&image(header(), code.bytes()))
    }

    /// A file with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), bytes).unwrap();
        Self { folder }
    }

    /// The path of the kernel.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("kernel")
    }

    /// `vmm boot` with this kernel, little RAM and no keys.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command.args(["boot", "--memory", "32M", "--kernel"]);
        command.arg(self.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Boots it to its end, which must come with `status`.
    #[track_caller]
    pub fn boot(&self, args: &[&str], status: i32) -> Output {
        let output = self.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        output
    }

    /// Boots it with `--json`. Returns the numbers that it printed to its console and
    /// the report.
    #[track_caller]
    pub fn report(&self, args: &[&str], status: i32) -> (Vec<u32>, Value) {
        let output = self.boot(&[&["--json"], args].concat(), status);
        // The VMM's own line comes after the console.
        let console = output.stderr;
        let end = console.windows(6).position(|bytes| bytes == b"\nvmm: ");
        let (numbers, _) = console[..end.unwrap()].as_chunks();
        let numbers = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let report = serde_json::from_slice(&output.stdout).unwrap();
        (numbers.collect(), report)
    }
}
