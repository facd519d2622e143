// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What this machine lacks for the lab, and the one command that installs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt;
use super::environment::{Architecture, Environment, Kernel};
use crate::shell;

/// Something that the lab uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tool {
    /// What is looked for: a program on the path, or a file.
    sign: Sign,
    /// The package that has it.
    package: &'static str,
    /// What cannot be done without it.
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Program(&'static str),
    /// A header, wherever the compiler finds it.
    Header(&'static str),
    File(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Booting any environment.
    Booting,
    /// Getting kernels and their source.
    Fetching,
    /// Building a kernel.
    Building,
}

const fn program(name: &'static str, package: &'static str, purpose: Purpose) -> Tool {
    Tool {
        sign: Sign::Program(name),
        package,
        purpose,
    }
}

const TOOLS: [Tool; 15] = [
    program("qemu-system-x86_64", "qemu-system-x86", Purpose::Booting),
    Tool {
        sign: Sign::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        package: "debian-archive-keyring",
        purpose: Purpose::Fetching,
    },
    program("dpkg-deb", "dpkg", Purpose::Fetching),
    program("xz", "xz-utils", Purpose::Fetching),
    program("tar", "tar", Purpose::Building),
    program("nice", "coreutils", Purpose::Building),
    program("gcc", "gcc", Purpose::Building),
    program("make", "make", Purpose::Building),
    program("flex", "flex", Purpose::Building),
    program("bison", "bison", Purpose::Building),
    program("bc", "bc", Purpose::Building),
    program("perl", "perl", Purpose::Building),
    program("patch", "patch", Purpose::Building),
    Tool {
        sign: Sign::Header("libelf.h"),
        package: "libelf-dev",
        purpose: Purpose::Building,
    },
    Tool {
        sign: Sign::Header("openssl/opensslv.h"),
        package: "libssl-dev",
        purpose: Purpose::Building,
    },
];

/// Says what is there and what is missing.
///
/// # Errors
/// Something is missing.
pub fn examine(architecture: &Architecture) -> Result<(), String> {
    let mut missing = Vec::new();
    for tool in TOOLS {
        let there = is_there(tool.sign);
        let word = if there { "ok" } else { "missing" };
        println!(
            "{word:<8} {:<60} {}",
            name(tool.sign),
            purpose(tool.purpose)
        );
        if !there {
            missing.push(tool.package);
        }
    }
    let archive = apt::source_list();
    let word = if archive.is_ok() { "ok" } else { "missing" };
    println!(
        "{word:<8} {:<60} getting kernels",
        "an archive of Debian's in apt's set-up"
    );
    let fits = std::env::consts::ARCH == architecture.rust;
    let word = if fits { "ok" } else { "missing" };
    println!(
        "{word:<8} {:<60} building the tests",
        format!("a {} machine", architecture.rust)
    );
    let kvm = Path::new("/dev/kvm").exists();
    let word = if kvm { "ok" } else { "no" };
    println!(
        "{word:<8} {:<60} the environment host; the lab needs none",
        "/dev/kvm"
    );
    if !missing.is_empty() {
        let command = install_command(&missing, is_root());
        return Err(format!("to install what is missing:\n\n    {command}\n"));
    }
    archive?;
    match fits {
        true => Ok(()),
        false => Err(wrong_machine(architecture)),
    }
}

/// Why an environment cannot be booted here, before anything is fetched.
///
/// # Errors
/// The reason.
pub fn can_boot(architecture: &Architecture) -> Result<(), String> {
    if std::env::consts::ARCH != architecture.rust {
        return Err(wrong_machine(architecture));
    }
    needs(&[Purpose::Booting])
}

/// Why an environment cannot be made here. What is in the cache needs nothing
/// of this.
///
/// # Errors
/// The reason.
pub fn can_make(environment: Environment) -> Result<(), String> {
    match environment.kernel {
        Kernel::Host => Ok(()),
        Kernel::Packaged(_) => needs(&[Purpose::Fetching]),
        Kernel::Built(_) => needs(&[Purpose::Fetching, Purpose::Building]),
    }
}

/// Installs what is missing, where apt may be used without being asked.
///
/// # Errors
/// What is still missing, and why.
pub fn install() -> Result<(), String> {
    let missing: Vec<&str> = missing(&TOOLS.map(|tool| tool.purpose));
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: lab: installing {}", missing.join(", "));
    // A machine that cannot be reached is not waited for.
    const PATIENCE: [&str; 4] = [
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "Acquire::Retries=1",
    ];
    let as_root = is_root();
    let apt_get = |arguments: &[&str]| {
        let mut command = match as_root {
            true => Command::new("apt-get"),
            false => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "apt-get"]);
                sudo
            }
        };
        command.args(PATIENCE).args(arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        shell::must(&mut command)
    };
    apt_get(&["update", "-q"])?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    apt_get(&[&install[..], &missing].concat())
}

fn needs(purposes: &[Purpose]) -> Result<(), String> {
    let missing = missing(purposes);
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "this machine lacks what it takes: {}",
            install_command(&missing, is_root())
        )),
    }
}

/// The packages that are missing for some purposes.
fn missing(purposes: &[Purpose]) -> Vec<&'static str> {
    let wanted = TOOLS.iter().filter(|tool| purposes.contains(&tool.purpose));
    let missing = wanted.filter(|tool| !is_there(tool.sign));
    missing.map(|tool| tool.package).collect()
}

/// A machine that is new has not yet asked its archive what there is.
fn install_command(packages: &[&str], as_root: bool) -> String {
    let sudo = if as_root { "" } else { "sudo " };
    format!(
        "{sudo}apt-get update && {sudo}apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

fn is_root() -> bool {
    shell::capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn wrong_machine(architecture: &Architecture) -> String {
    format!(
        "the lab's kernels are for {}, and the tests are not built for it on {}",
        architecture.rust,
        std::env::consts::ARCH
    )
}

fn is_there(sign: Sign) -> bool {
    match sign {
        Sign::Program(name) => on_path(name),
        Sign::File(path) => Path::new(path).exists(),
        Sign::Header(name) => headers(name).iter().any(|path| path.exists()),
    }
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Where a header may be: in the common place, or in the architecture's own.
fn headers(name: &str) -> [PathBuf; 2] {
    let include = Path::new("/usr/include");
    let own = format!("{}-linux-gnu", std::env::consts::ARCH);
    [include.join(name), include.join(own).join(name)]
}

fn name(sign: Sign) -> &'static str {
    match sign {
        Sign::Program(name) | Sign::Header(name) | Sign::File(name) => name,
    }
}

fn purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Booting => "booting",
        Purpose::Fetching => "getting kernels",
        Purpose::Building => "building kernels",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_installs_all_that_is_missing() {
        let packages = ["flex", "bison"];
        assert_eq!(
            install_command(&packages, true),
            "apt-get update && apt-get install --no-install-recommends flex bison"
        );
        assert_eq!(
            install_command(&packages, false),
            "sudo apt-get update && sudo apt-get install --no-install-recommends flex bison"
        );
    }

    #[test]
    fn a_program_is_looked_for_on_the_path() {
        assert!(is_there(Sign::Program("sh")));
        assert!(!is_there(Sign::Program("no-such-program-anywhere")));
        assert!(!is_there(Sign::Header("no/such/header.h")));
    }
}
