// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lab: kernels with a real KVM and a real VFIO on any machine, with no
//! special hardware. An emulator plays a processor with a virtualisation
//! extension and an IOMMU; a Linux runs in it, and in that Linux the tests.

pub mod apt;
pub mod boot;
mod build;
pub mod cache;
pub mod command;
pub mod doctor;
pub mod environment;
mod initramfs;
mod kernel;
mod manifest;
mod modules;
mod packages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use clap::Subcommand;

use crate::hw_test::{self, Wish};
use crate::shell::build_static_program;
use apt::{Apt, Network};
use boot::Console;
use build::Builder;
use cache::Cache;
use environment::{ENVIRONMENTS, Environment, Kernel, X86_64, find, select};
pub use initramfs::Errand;
use kernel::{Lab, Ready};
use manifest::Manifest;

/// What the lab can be asked for.
#[derive(Clone, Debug, Subcommand)]
pub enum LabCommand {
    /// Say what this machine lacks for the lab, and the one command that
    /// installs it.
    Doctor,
    /// List the environments, and what the cache has of them.
    List,
    /// Make environments ready: download or build their newest kernels.
    ///
    /// What was made before stays in the cache and needs no network again.
    /// Building a kernel takes minutes; an interrupted build goes on where it
    /// was.
    Build {
        /// Which; all but the slow ones where there is none.
        #[arg(value_name = "ENV")]
        names: Vec<String>,
    },
    /// Boot an environment and run the hardware tests in it, or a command.
    ///
    /// A command finds `vmm` and the folder `examples` there, as here:
    /// `cargo xtask lab run lab-7.3 -- vmm run examples/confidential.toml`.
    /// Its output is what is printed, its exit status is this command's.
    Run {
        /// Which.
        #[arg(value_name = "ENV")]
        name: String,
        /// A shell on the console instead of the tests. The tests are
        /// /hw-tests there; `poweroff -f`, or Ctrl-A x, ends it.
        #[arg(long)]
        shell: bool,
        /// Show the whole console afterwards.
        #[arg(long, conflicts_with = "shell")]
        console: bool,
        /// What to run there instead of the tests.
        #[arg(last = true, conflicts_with_all = ["shell", "console"])]
        command: Vec<String>,
    },
    /// Remove the cache, or what no environment uses any more.
    Clean {
        /// Only unfinished work, and all but the environments' latest kernels.
        #[arg(long)]
        stale: bool,
    },
}

/// Does what was asked for.
///
/// # Errors
/// What went wrong.
pub fn run(command: &LabCommand) -> Result<(), String> {
    match command {
        LabCommand::Doctor => doctor::examine(&X86_64),
        LabCommand::List => list(),
        LabCommand::Build { names } => build_named(names),
        LabCommand::Run {
            name, shell: true, ..
        } => shell(name),
        LabCommand::Run { name, command, .. } if !command.is_empty() => command::run(name, command),
        LabCommand::Run { name, console, .. } => run_tests(name, *console),
        LabCommand::Clean { stale } => clean(*stale),
    }
}

/// An environment that only needs to be booted.
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

    /// The command that boots it.
    pub fn command(&self, console: Console<'_>) -> Command {
        boot::command(&X86_64, &self.ready, &self.initramfs, console)
    }
}

/// Makes environments ready for an errand, each of them or the reason why
/// not. A kernel that must be built may take as long as `limit`.
pub fn make_bootable(
    environments: &[Environment],
    errand: &Errand<'_>,
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
        let initramfs = initramfs::assemble(&cache, &ready, errand, X86_64.serial[1])?;
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

fn list() -> Result<(), String> {
    let root = cache::place()?;
    for environment in ENVIRONMENTS {
        let name = environment.name;
        let state = match environment.kernel {
            Kernel::Host => "this machine".into(),
            _ => match made(&root, environment) {
                Some(origin) => format!("ready: {origin}"),
                None => format!("not made yet: cargo xtask lab build {name}"),
            },
        };
        println!("{name:<26} {state}");
    }
    let mebibytes = cache::size(&root) >> 20;
    println!("\n{mebibytes} MiB in {}", root.display());
    Ok(())
}

/// What an environment's kernel was made of, if it is in the cache.
fn made(root: &Path, environment: Environment) -> Option<String> {
    let manifest = Manifest::load(root, environment)?;
    let place = manifest.kernel_place(root, &X86_64, environment);
    place
        .is_ok_and(|place| place.exists())
        .then(|| manifest.origin())
}

fn build_named(names: &[String]) -> Result<(), String> {
    let cache = Cache::open()?;
    let apt = Apt::new(&cache, &X86_64, Network::Now);
    let lab = lab(&cache, &apt, None);
    let mut failed = Vec::new();
    for environment in select(names)? {
        if environment.kernel == Kernel::Host {
            continue;
        }
        match lab.ready(environment) {
            Ok(ready) => println!("{:<26} ready: {}", environment.name, ready.origin),
            Err(error) => {
                println!("{:<26} {error}", environment.name);
                failed.push(environment.name);
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("not ready: {}", failed.join(", "))),
    }
}

fn run_tests(name: &str, console: bool) -> Result<(), String> {
    let wish = Wish {
        names: vec![name.into()],
        ..Wish::default()
    };
    let result = hw_test::run(&wish);
    if console {
        let path = hw_test::results_folder()?.join(format!("{name}.console.log"));
        println!("{}", boot::console(&path));
    }
    result
}

fn shell(name: &str) -> Result<(), String> {
    let environment = find(name)?;
    if environment.kernel == Kernel::Host {
        return Err("the host is where you are".into());
    }
    doctor::can_boot(&X86_64)?;
    let program = build_static_program("tests", "hw-tests", X86_64.target)?;
    let errand = Errand::Tests { program: &program };
    let made = make_bootable(&[environment], &errand, Network::Daily, None);
    let bootable = made.into_iter().next().ok_or("no environment")??;
    let mut command = bootable.command(Console::Shell);
    let status = command
        .status()
        .map_err(|e| format!("{}: {e}", X86_64.qemu))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{}: {status}", X86_64.qemu)),
    }
}

/// What can be made or downloaded again is removed; apt's indexes are small
/// and stay where only what is stale goes.
fn clean(stale: bool) -> Result<(), String> {
    let root = cache::place()?;
    let before = cache::size(&root);
    if stale {
        let cache = Cache::open()?;
        let uses = ENVIRONMENTS.into_iter().filter_map(|environment| {
            let manifest = Manifest::load(&root, environment)?;
            Some(manifest.uses(&root, &X86_64, environment))
        });
        let used: Vec<PathBuf> = uses.flatten().collect();
        for folder in ["kernels", "busybox", "packages"] {
            for path in kernel::files(&cache.folder(folder)?) {
                if !used.contains(&path) {
                    cache::remove(&path)?;
                }
            }
        }
        for folder in ["unfinished", "builds"] {
            cache::remove(&root.join(folder))?;
        }
    } else {
        let _others_wait = Cache::open()?;
        cache::remove(&root)?;
    }
    let freed = before.saturating_sub(cache::size(&root)) >> 20;
    println!("{freed} MiB freed in {}", root.display());
    Ok(())
}
