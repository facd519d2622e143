// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks what this machine lacks for the lab, and shows one command that
//! installs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt;
use super::environment::{Architecture, Environment, Kernel};
use crate::shell;

/// Something that the lab uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tool {
    /// How it is found: a program on the path, or a file.
    sign: Sign,
    /// The package that contains it.
    package: &'static str,
    /// What it is needed for.
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Program(&'static str),
    /// A header in one of the compiler's folders.
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
    /// Building the kernel's own selftests.
    Selftests,
}

const fn program(name: &'static str, package: &'static str, purpose: Purpose) -> Tool {
    Tool {
        sign: Sign::Program(name),
        package,
        purpose,
    }
}

const TOOLS: [Tool; 18] = [
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
    program("strip", "binutils", Purpose::Selftests),
    Tool {
        sign: Sign::Header("uuid/uuid.h"),
        package: "uuid-dev",
        purpose: Purpose::Selftests,
    },
    Tool {
        sign: Sign::Header("sys/capability.h"),
        package: "libcap-dev",
        purpose: Purpose::Selftests,
    },
];

/// Prints what is installed and what is missing.
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

/// Checks whether an environment can be booted, before anything is downloaded.
///
/// # Errors
/// The reason why it cannot.
pub fn can_boot(architecture: &Architecture) -> Result<(), String> {
    if std::env::consts::ARCH != architecture.rust {
        return Err(wrong_machine(architecture));
    }
    needs(&[Purpose::Booting])
}

/// Checks whether programs that are built from a kernel's source run on this
/// machine and can be preloaded.
///
/// # Errors
/// The reason why not.
pub fn can_preload(architecture: &Architecture) -> Result<(), String> {
    if std::env::consts::ARCH != architecture.rust {
        return Err(wrong_machine(architecture));
    }
    match cfg!(target_env = "gnu") {
        true => Ok(()),
        false => Err("the library that is preloaded needs glibc".into()),
    }
}

/// Checks whether an environment can be made. One in the cache needs none of
/// this.
///
/// # Errors
/// The reason why it cannot.
pub fn can_make(environment: Environment) -> Result<(), String> {
    match environment.kernel {
        Kernel::Host => Ok(()),
        Kernel::Packaged(_) => needs(&[Purpose::Fetching]),
        Kernel::Built(_) | Kernel::Simulated(_) => needs(&[Purpose::Fetching, Purpose::Building]),
    }
}

/// Checks whether the kernel's own selftests can be built.
///
/// # Errors
/// The reason why they cannot.
pub fn can_build_selftests() -> Result<(), String> {
    needs(&[Purpose::Fetching, Purpose::Building, Purpose::Selftests])
}

/// Installs what is missing, if apt can run without a password.
///
/// # Errors
/// The reason why something is still missing.
pub fn install() -> Result<(), String> {
    let missing: Vec<&str> = missing(&TOOLS.map(|tool| tool.purpose));
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: lab: installing {}", missing.join(", "));
    // Do not wait for an archive that does not respond.
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

/// The missing packages for some purposes.
fn missing(purposes: &[Purpose]) -> Vec<&'static str> {
    let wanted = TOOLS.iter().filter(|tool| purposes.contains(&tool.purpose));
    let missing = wanted.filter(|tool| !is_there(tool.sign));
    missing.map(|tool| tool.package).collect()
}

/// Includes `update`, because a new machine has no indexes yet.
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

/// The possible paths of a header: the common folder and the architecture's.
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
        Purpose::Selftests => "building the kernels' selftests",
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
