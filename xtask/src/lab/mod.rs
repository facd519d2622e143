// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lab: kernels with a real KVM and a real VFIO on any machine, without
//! special hardware. An emulator provides a processor with a virtualisation
//! extension and an IOMMU. Linux runs in it, and the tests run in that Linux.

pub mod apt;
pub mod architecture;
pub mod boot;
mod build;
pub mod cache;
pub mod cli;
pub mod command;
pub mod disk;
pub mod doctor;
pub mod environment;
pub mod guest;
mod initramfs;
mod kernel;
mod manifest;
mod modules;
pub mod monitor;
mod obstacle;
mod packages;
mod selftests;
mod source;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use apt::{Apt, Network};
use architecture::{ARCHITECTURES, Architecture};
use boot::Console;
use build::Builder;
use cache::Cache;
use disk::Disk;
use environment::{Environment, Recipe, guest_of};
use initramfs::Guest;
pub use initramfs::Payload;
pub use kernel::Preloaded;
use kernel::{Lab, Ready};
pub use obstacle::Obstacle;

use crate::shell::build_static_program;

/// An environment that is ready to boot.
#[derive(Clone, Debug)]
pub struct Bootable {
    ready: Ready,
    initramfs: PathBuf,
    /// Keeps the cache's entries for as long as this lives.
    _holds: Arc<[File; 2]>,
}

impl Bootable {
    /// The environment's name.
    pub fn name(&self) -> &'static str {
        self.ready.environment.name
    }

    /// The text that its tests have in their names.
    pub fn only(&self) -> &'static str {
        self.ready.environment.variant.only
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

    /// The architecture of its machine.
    pub fn architecture(&self) -> &'static Architecture {
        self.ready.environment.architecture
    }

    /// The command that boots it.
    pub fn command(&self, console: Console<'_>, disk: &Disk) -> Command {
        boot::command(&self.ready, &self.initramfs, console, disk)
    }
}

/// The test program and the program `vmm`, which some tests run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The test program.
    pub tests: PathBuf,
    /// `vmm`.
    pub vmm: PathBuf,
}

impl Programs {
    /// Builds them for an architecture whose environments can be booted here.
    ///
    /// # Errors
    /// The reason why not.
    pub fn build(architecture: &Architecture) -> Result<Self, Obstacle> {
        doctor::can_boot(architecture).map_err(Obstacle::Missing)?;
        Ok(Self {
            tests: build_static_program("tests", "hw-tests", &architecture.target)?,
            vmm: build_static_program("vmm", "vmm", &architecture.target)?,
        })
    }

    /// The same as what a lab kernel runs.
    pub fn payload(&self, selftests: bool) -> Payload<'_> {
        Payload::Tests {
            program: &self.tests,
            vmm: &self.vmm,
            selftests,
        }
    }
}

/// Prepares environments for a payload. Returns each of them, or the reason why
/// it is not available. Building a kernel may take `limit`. An environment whose
/// guest or confidential guest lacks something is prepared without it.
pub fn make_bootable(
    environments: &[Environment],
    payload: &Payload<'_>,
    network: Network,
    limit: Option<Duration>,
) -> Vec<Result<Bootable, Obstacle>> {
    let all = |obstacle: Obstacle| environments.iter().map(|_| Err(obstacle.clone())).collect();
    let cache = match Cache::open() {
        Ok(cache) => cache,
        Err(error) => return all(Obstacle::Missing(error)),
    };
    let lab = lab(&cache, network, limit);
    let guests = ARCHITECTURES.map(|architecture| {
        let mut of = environments.iter().filter(|e| e.has_guest);
        let is_due = of.any(|environment| environment.architecture == architecture);
        is_due.then(|| guest(&lab, architecture))
    });
    let is_due = environments.iter().any(|e| e.has_confidential_guest);
    let confidential = is_due.then(|| confidential_kernel(&lab));
    let prepared = environments.iter().map(|environment| {
        let mut guests = ARCHITECTURES.iter().zip(&guests);
        let own = guests.find(|(other, _)| **other == environment.architecture);
        let guest = own.and_then(|(_, guest)| guest.clone());
        let guest = guest_for(*environment, guest, confidential.clone())?;
        bootable(&lab, *environment, payload, guest.as_ref())
    });
    prepared.collect()
}

/// The guests of an environment, given what was made. A guest for which packages or
/// tools are missing is left out.
///
/// # Errors
/// One of them could not be made because of a fault.
fn guest_for(
    environment: Environment,
    guest: Option<Result<Guest, Obstacle>>,
    confidential: Option<Result<PathBuf, Obstacle>>,
) -> Result<Option<Guest>, Obstacle> {
    let guest = guest.filter(|_| environment.has_guest);
    let confidential = confidential.filter(|_| environment.has_confidential_guest);
    let (guest, confidential_kernel) = (unless_missing(guest)?, unless_missing(confidential)?);
    Ok(guest.map(|guest| Guest {
        confidential_kernel,
        ..guest
    }))
}

/// What was made, or nothing if this machine lacks something for it.
fn unless_missing<T>(made: Option<Result<T, Obstacle>>) -> Result<Option<T>, Obstacle> {
    match made {
        Some(Err(obstacle)) if obstacle.is_fault() => Err(obstacle),
        made => Ok(made.and_then(Result::ok)),
    }
}

/// Prepares the selftests that run with a preloaded library on this machine.
/// Building them may take `limit`.
///
/// # Errors
/// The reason why they are not available.
pub fn preloaded(
    environment: Environment,
    recipe: Recipe,
    network: Network,
    limit: Option<Duration>,
) -> Result<Preloaded, Obstacle> {
    doctor::can_preload(environment.architecture).map_err(Obstacle::Missing)?;
    let cache = Cache::open().map_err(Obstacle::Missing)?;
    lab(&cache, network, limit).preloaded(environment, recipe)
}

/// The guest for the environments of an architecture that have one.
fn guest(lab: &Lab<'_>, architecture: &Architecture) -> Result<Guest, Obstacle> {
    let none = || Obstacle::Missing(format!("none is known for {}", architecture.rust));
    let guest = guest_of(architecture).ok_or_else(none);
    let guest = guest.and_then(|guest| bootable(lab, guest, &Payload::Guest, None));
    let guest = guest.map(|guest| Guest {
        kernel: guest.ready.image,
        initrd: guest.initramfs,
        confidential_kernel: None,
    });
    guest.inspect_err(|error| eprintln!("xtask: lab: there is no guest to boot: {error}"))
}

/// The kernel for the environments that have a confidential guest.
fn confidential_kernel(lab: &Lab<'_>) -> Result<PathBuf, Obstacle> {
    let kernel = lab.guest_kernel();
    kernel.inspect_err(|error| eprintln!("xtask: lab: there is no confidential guest: {error}"))
}

fn bootable(
    lab: &Lab<'_>,
    environment: Environment,
    payload: &Payload<'_>,
    guest: Option<&Guest>,
) -> Result<Bootable, Obstacle> {
    let ready = lab.ready(environment)?;
    payload.accepts(&ready.selftests)?;
    let port = environment.architecture.ports.results;
    let (initramfs, in_use) = initramfs::assemble(lab.cache, &ready, payload, guest, port)?;
    Ok(Bootable {
        ready,
        initramfs,
        _holds: Arc::new([lab.cache.hold()?, in_use]),
    })
}

fn lab(cache: &Cache, network: Network, limit: Option<Duration>) -> Lab<'_> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    Lab {
        cache,
        apts: ARCHITECTURES.map(|architecture| Apt::new(cache, architecture, network)),
        builder: Builder { jobs, limit },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use environment::find;

    #[test]
    fn a_confidential_guest_whose_patch_does_not_apply_fails_the_environment_that_has_it() {
        let guest = Guest {
            kernel: "kernel".into(),
            initrd: "initrd".into(),
            confidential_kernel: None,
        };
        let with = |name: &str, confidential: Result<PathBuf, Obstacle>| {
            let environment = find(name).expect("known");
            guest_for(environment, Some(Ok(guest.clone())), Some(confidential))
        };
        let own = "lab-7.3-private-mmio";
        let fault = || Err(Obstacle::Fault("0001.patch does not apply".into()));
        assert!(with(own, fault()).is_err_and(|obstacle| obstacle.is_fault()));
        let others = with("debian-7.3", fault()).expect("it has no such guest");
        assert!(others.is_some());
        assert!(with("lab-7.3", fault()).is_ok_and(|guest| guest.is_none()));
        for confidential in [
            Ok("image".into()),
            Err(Obstacle::Missing("no flex".into())),
            Err(Obstacle::TooLong("25 minutes".into())),
        ] {
            let is_there = confidential.is_ok();
            let guest = with(own, confidential)
                .expect("usable")
                .expect("it has one");
            assert_eq!(guest.confidential_kernel.is_some(), is_there);
        }
    }
}
