// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lab: kernels with a real KVM and a real VFIO on any machine, without
//! special hardware. An emulator provides a processor with a virtualisation
//! extension and an IOMMU. Linux runs in it, and the tests run in that Linux.

pub mod apt;
pub mod boot;
mod build;
pub mod cache;
pub mod cli;
pub mod command;
pub mod doctor;
pub mod environment;
mod guest;
mod initramfs;
mod kernel;
mod manifest;
mod modules;
mod packages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use apt::{Apt, Network};
use boot::Console;
use build::Builder;
use cache::Cache;
use environment::{Environment, X86_64};
pub use initramfs::Payload;
use kernel::{Lab, Ready};

/// An environment that is ready to boot.
#[derive(Clone, Debug)]
pub struct Bootable {
    ready: Ready,
    initramfs: PathBuf,
}

impl Bootable {
    /// The environment's name.
    pub fn name(&self) -> &'static str {
        self.ready.environment
    }

    /// The packages that it is made of, for display.
    pub fn origin(&self) -> &str {
        &self.ready.origin
    }

    /// Its kernel.
    pub fn kernel(&self) -> &Path {
        &self.ready.image
    }

    /// Its initramfs.
    pub fn initramfs(&self) -> &Path {
        &self.initramfs
    }

    /// The command that boots it.
    pub fn command(&self, console: Console<'_>) -> Command {
        boot::command(&X86_64, &self.ready, &self.initramfs, console)
    }
}

/// Prepares environments for a payload. Returns each of them, or the reason why
/// it is not available. Building a kernel may take `limit`.
pub fn make_bootable(
    environments: &[Environment],
    payload: &Payload<'_>,
    network: Network,
    limit: Option<Duration>,
) -> Vec<Result<Bootable, String>> {
    let all = |error: String| environments.iter().map(|_| Err(error.clone())).collect();
    let cache = match Cache::open() {
        Ok(cache) => cache,
        Err(error) => return all(error),
    };
    let apt = Apt::new(&cache, &X86_64, network);
    let lab = lab(&cache, &apt, limit);
    let bootable = |environment: &Environment| {
        let ready = lab.ready(*environment)?;
        let initramfs = initramfs::assemble(&cache, &ready, payload, X86_64.serial[1])?;
        Ok(Bootable { ready, initramfs })
    };
    environments.iter().map(bootable).collect()
}

fn lab<'a>(cache: &'a Cache, apt: &'a Apt<'a>, limit: Option<Duration>) -> Lab<'a> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    Lab {
        cache,
        apt,
        architecture: &X86_64,
        builder: Builder { jobs, limit },
    }
}
