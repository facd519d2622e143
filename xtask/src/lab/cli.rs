// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands `cargo xtask lab …`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;

use super::apt::Network;
use super::boot::{self, Console};
use super::cache::{self, Cache};
use super::command;
use super::disk::Disk;
use super::doctor;
use super::environment::{Environment, Kernel, find, guest_of, kernels, select_kernels};
use super::guest;
use super::kernel::Ready;
use super::manifest::Manifest;
use super::{Programs, lab, make_bootable};
use crate::hw_test::{self, HwTestOptions};

/// Commands of the lab.
#[derive(Clone, Debug, Subcommand)]
pub enum LabCommand {
    /// List what the lab needs, and print one command that installs what is
    /// missing.
    Doctor,
    /// List the environments and the kernels of guests, and whether the cache has
    /// them.
    List,
    /// Download or build the newest kernels of environments.
    ///
    /// The results stay in the cache and need no network later. Building a
    /// kernel takes minutes. An interrupted build is resumed.
    Build {
        /// The environments, or kernels of guests such as `confidential-guest`: see
        /// `list`. Default: `confidential-guest`, and the environments of all
        /// architectures, except those that run only by name.
        #[arg(value_name = "ENV")]
        names: Vec<String>,
    },
    /// Boot an environment and run the hardware tests or a command in it.
    ///
    /// A command has `vmm` on its path and the folder `examples`: `cargo xtask
    /// lab run lab-7.3 -- vmm run examples/confidential.toml`. A lab kernel has
    /// its own selftests in `/selftests`: `cargo xtask lab run lab-7.3 --
    /// /selftests/kvm/x86/smm_test`. This command prints the output, and the errors
    /// when the command has ended. It fails if the command fails, or if the kernel
    /// gives a warning of itself.
    Run {
        /// The environment.
        #[arg(value_name = "ENV")]
        name: String,
        /// Start a shell on the console instead of the tests. The tests are in
        /// /hw-tests. Leave with `poweroff -f` or Ctrl-A x.
        #[arg(long)]
        shell: bool,
        /// Print the console afterwards, or its last 512 KiB.
        #[arg(long, conflicts_with = "shell")]
        console: bool,
        /// The command's time limit in minutes. 0: none. Default: 60.
        #[arg(long, value_name = "MINUTES", requires = "command")]
        limit: Option<u64>,
        /// The command to run instead of the tests.
        #[arg(last = true, conflicts_with_all = ["shell", "console"])]
        command: Vec<String>,
    },
    /// Get a Linux to boot with `vmm boot`: a kernel of Debian's, and an initramfs
    /// with a shell and scenarios. Prints the command to boot it.
    ///
    /// Needs apt, dpkg-deb and xz, but none of the lab's other tools.
    FetchGuest {
        /// The line of the kernel: 6.1, 6.12 or 7.3.
        #[arg(long, value_name = "LINE", default_value = "7.3")]
        kernel: String,
        /// Get Debian's kernel for all machines. It is larger than the one for
        /// clouds, and has drivers that clouds do not need, such as e1000e.
        #[arg(long)]
        generic: bool,
        /// The folder for `kernel` and `initrd`. Default: target/guest.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Remove the cache, or the parts that no environment uses.
    Clean {
        /// Remove only unfinished work and outdated kernels.
        #[arg(long)]
        stale: bool,
    },
}

/// Runs a command of the lab.
///
/// # Errors
/// A message that says what went wrong.
pub fn run(command: &LabCommand) -> Result<(), String> {
    match command {
        LabCommand::Doctor => doctor::examine(),
        LabCommand::List => list(),
        LabCommand::Build { names } => build_named(names),
        LabCommand::Run {
            name, shell: true, ..
        } => shell(name),
        LabCommand::Run {
            name,
            command,
            limit,
            ..
        } if !command.is_empty() => command::run(name, command, limit_of(*limit)),
        LabCommand::Run { name, console, .. } => run_tests(name, *console),
        LabCommand::FetchGuest {
            kernel,
            generic,
            to,
        } => guest::fetch(kernel, *generic, to.as_deref()),
        LabCommand::Clean { stale } => clean(*stale),
    }
}

/// The time limit of a command that is given in minutes, if there is one.
fn limit_of(minutes: Option<u64>) -> Option<Duration> {
    match minutes {
        None => Some(command::USUAL_LIMIT),
        Some(0) => None,
        Some(minutes) => Some(Duration::from_secs(minutes.saturating_mul(60))),
    }
}

fn list() -> Result<(), String> {
    let root = cache::place()?;
    let width = name_width();
    for environment in kernels() {
        let name = environment.name;
        let state = match environment.kernel {
            Kernel::Host => "this machine".into(),
            _ => match made(&root, environment) {
                Some(origin) => format!("ready: {origin}"),
                None => format!("not made yet: cargo xtask lab build {name}"),
            },
        };
        println!("{name:<width$} {state}");
    }
    let mebibytes = cache::size(&root) >> 20;
    println!("\n{mebibytes} MiB in {}", root.display());
    Ok(())
}

/// The length of the longest name.
fn name_width() -> usize {
    let lengths = kernels().map(|environment| environment.name.len());
    lengths.max().unwrap_or(0)
}

/// The packages of an environment's kernel, if the kernel or, if none is booted,
/// its selftests are in the cache.
fn made(root: &Path, environment: Environment) -> Option<String> {
    let manifest = Manifest::load(root, environment)?;
    let place = match environment.kernel {
        Kernel::Simulated(recipe) => {
            manifest.selftests_place(root, environment.architecture, recipe)
        }
        _ => manifest.kernel_place(root, environment),
    };
    place
        .is_ok_and(|place| place.exists())
        .then(|| manifest.origin())
}

fn build_named(names: &[String]) -> Result<(), String> {
    let cache = Cache::open()?;
    let lab = lab(&cache, Network::Now, None);
    let (mut failed, width) = (Vec::new(), name_width());
    let environments = select_kernels(names)?;
    // One with a guest needs the guest's kernel too.
    let with_guest = environments.iter().filter(|e| e.has_guest);
    let mut guests: Vec<Environment> = Vec::new();
    for guest in with_guest.filter_map(|e| guest_of(e.architecture)) {
        if !environments.contains(&guest) && !guests.contains(&guest) {
            guests.push(guest);
        }
    }
    for environment in environments.into_iter().chain(guests) {
        let origin = match environment.kernel {
            Kernel::Host => continue,
            Kernel::Simulated(recipe) => {
                let programs = lab.preloaded(environment, recipe);
                programs.map(|programs| programs.origin)
            }
            _ => lab.ready(environment).and_then(Ready::without_faults),
        };
        match origin {
            Ok(origin) => println!("{:<width$} ready: {origin}", environment.name),
            Err(error) => {
                println!("{:<width$} {error}", environment.name);
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
    let options = HwTestOptions {
        names: vec![name.into()],
        ..HwTestOptions::default()
    };
    let result = hw_test::run(&options);
    if console {
        let path = boot::results_folder()?.join(format!("{name}.console.log"));
        println!("{}", boot::console(&path));
    }
    result
}

fn shell(name: &str) -> Result<(), String> {
    let environment = find(name)?;
    if !environment.is_booted() {
        return Err(format!("{name} is where you are"));
    }
    let programs = Programs::build(environment.architecture)?;
    let payload = programs.payload(true);
    let made = make_bootable(&[environment], &payload, Network::Daily, None);
    let bootable = made.into_iter().next().ok_or("no environment")??;
    let path = boot::results_folder()?.join(format!("{name}.shell.disk"));
    let _lock = boot::lock(name, &path)?;
    let disk = Disk::create(&path)?;
    let mut command = bootable.command(Console::Shell, &disk);
    let status = command
        .status()
        .map_err(|e| format!("{}: {e}", environment.architecture.qemu.0))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{}: {status}", environment.architecture.qemu.0)),
    }
}

/// Removes the cache. With `stale`, apt's indexes stay, because they are small.
fn clean(stale: bool) -> Result<(), String> {
    let root = cache::place()?;
    let before = cache::size(&root);
    if stale {
        let cache = Cache::open()?;
        let uses = kernels().filter_map(|environment| {
            let manifest = Manifest::load(&root, environment)?;
            Some(manifest.uses(&root, environment))
        });
        let used: Vec<PathBuf> = uses.flatten().collect();
        cache.remove_unused(&["kernels", "selftests", "busybox", "packages"], &used)?;
        for folder in ["unfinished", "builds"] {
            cache::remove(&root.join(folder))?;
        }
    } else {
        Cache::open()?.clear()?;
    }
    let freed = before.saturating_sub(cache::size(&root)) >> 20;
    println!("{freed} MiB freed in {}", root.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_fits_into_its_column() {
        assert!(kernels().all(|environment| environment.name.len() <= name_width()));
        assert!(name_width() < 40, "a line has room for more");
    }

    #[test]
    fn a_command_has_a_time_limit_unless_it_is_set_to_zero() {
        assert_eq!(limit_of(None), Some(Duration::from_secs(3600)));
        assert_eq!(limit_of(Some(2)), Some(Duration::from_secs(120)));
        assert_eq!(limit_of(Some(0)), None);
    }
}
