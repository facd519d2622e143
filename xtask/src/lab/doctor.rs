// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks what this machine lacks for the lab, and shows one command that
//! installs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt;
use super::architecture::{ARCHITECTURES, Architecture};
use super::environment::{Environment, Kernel};
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
    /// The C library of a compiler for another architecture, for static programs.
    CrossLibrary(&'static str),
    /// A header in one of the compiler's folders.
    Header(&'static str),
    File(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Booting an environment.
    Booting,
    /// Linking programs, and building kernels, for another architecture.
    Linking,
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

/// The tools for every architecture.
const TOOLS: [Tool; 17] = [
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

/// The tools for one architecture: the emulator, and on another architecture's
/// machine a compiler, whose C library programs are linked with.
fn tools_for(architecture: &Architecture) -> impl Iterator<Item = Tool> {
    let (qemu, package) = architecture.qemu;
    let emulator = program(qemu, package, Purpose::Booting);
    let target = &architecture.target;
    let compiler = (!target.is_native()).then_some([
        program(target.linker, target.linker_package, Purpose::Linking),
        Tool {
            sign: Sign::CrossLibrary(architecture.rust),
            package: architecture.libc_package,
            purpose: Purpose::Linking,
        },
    ]);
    [emulator].into_iter().chain(compiler.into_iter().flatten())
}

/// All tools for some architectures.
fn tools(architectures: &[&Architecture]) -> Vec<Tool> {
    let own = architectures.iter().flat_map(|other| tools_for(other));
    own.chain(TOOLS).collect()
}

/// Prints what is installed and what is missing.
///
/// # Errors
/// Something is missing.
pub fn examine() -> Result<(), String> {
    let say = |word: &str, what: &str, purpose: &str| println!("{word:<8} {what:<46} {purpose}");
    let word = |is_there| if is_there { "ok" } else { "missing" };
    let mut missing = Vec::new();
    for tool in tools(&ARCHITECTURES) {
        let there = is_there(tool.sign);
        say(word(there), &name(tool.sign), purpose(tool.purpose));
        if !there {
            missing.push(tool.package);
        }
    }
    let archive = apt::source_list();
    let what = "an archive of Debian's in apt's set-up";
    say(word(archive.is_ok()), what, purpose(Purpose::Fetching));
    let mut standard_libraries = Ok(());
    for architecture in ARCHITECTURES {
        let there = standard_library(architecture);
        let what = format!("Rust for {}", architecture.target.triple);
        say(word(there.is_ok()), &what, "building the tests");
        standard_libraries = standard_libraries.and(there);
    }
    let kvm = Path::new("/dev/kvm").exists();
    let word = if kvm { "ok" } else { "no" };
    say(word, "/dev/kvm", "only the environment host");
    if !missing.is_empty() {
        let command = install_command(&missing, is_root());
        return Err(format!("to install what is missing:\n\n    {command}\n"));
    }
    archive?;
    standard_libraries
}

/// Checks whether an environment can be booted, before anything is downloaded.
///
/// # Errors
/// The reason why it cannot.
pub fn can_boot(architecture: &Architecture) -> Result<(), String> {
    needs(&[architecture], &[Purpose::Booting, Purpose::Linking])?;
    standard_library(architecture)
}

/// Checks whether programs that are built from a kernel's source run on this
/// machine and can be preloaded.
///
/// # Errors
/// The reason why not.
pub fn can_preload(architecture: &Architecture) -> Result<(), String> {
    if !architecture.is_native() {
        return Err(format!(
            "its programs are for {}, and this machine is {}",
            architecture.rust,
            std::env::consts::ARCH
        ));
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
    let architecture = [environment.architecture];
    match environment.kernel {
        Kernel::Host => Ok(()),
        Kernel::Packaged(_) => needs(&architecture, &[Purpose::Fetching]),
        Kernel::Simulated(_) => needs(&[], &[Purpose::Fetching, Purpose::Building]),
        Kernel::Built(_) => needs(
            &architecture,
            &[Purpose::Fetching, Purpose::Building, Purpose::Linking],
        ),
    }
}

/// Checks whether the kernel's own selftests can be built.
///
/// # Errors
/// The reason why they cannot.
pub fn can_build_selftests() -> Result<(), String> {
    needs(
        &[],
        &[Purpose::Fetching, Purpose::Building, Purpose::Selftests],
    )
}

/// Installs what is missing, if apt can run without a password.
///
/// # Errors
/// The reason why something is still missing.
pub fn install() -> Result<(), String> {
    let missing = missing(&ARCHITECTURES, |_| true);
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

fn needs(architectures: &[&Architecture], purposes: &[Purpose]) -> Result<(), String> {
    let missing = missing(architectures, |purpose| purposes.contains(&purpose));
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "this machine lacks what it takes: {}",
            install_command(&missing, is_root())
        )),
    }
}

/// The missing packages for some purposes.
fn missing(
    architectures: &[&Architecture],
    is_wanted: impl Fn(Purpose) -> bool,
) -> Vec<&'static str> {
    let wanted = tools(architectures).into_iter();
    let wanted = wanted.filter(|tool| is_wanted(tool.purpose));
    let missing = wanted.filter(|tool| !is_there(tool.sign));
    missing.map(|tool| tool.package).collect()
}

/// Checks that the compiler has the standard library for an architecture.
fn standard_library(architecture: &Architecture) -> Result<(), String> {
    let triple = architecture.target.triple;
    match shell::has_standard_library(triple) {
        true => Ok(()),
        false => Err(format!(
            "Rust's standard library for {triple} is missing: rustup target add {triple}"
        )),
    }
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

fn is_there(sign: Sign) -> bool {
    match sign {
        Sign::Program(name) => on_path(name),
        Sign::File(path) => Path::new(path).exists(),
        Sign::CrossLibrary(_) => Path::new(&name(sign)).exists(),
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

fn name(sign: Sign) -> String {
    match sign {
        Sign::Program(name) | Sign::Header(name) | Sign::File(name) => name.into(),
        Sign::CrossLibrary(architecture) => format!("/usr/{architecture}-linux-gnu/lib/libc.a"),
    }
}

fn purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Booting => "booting",
        Purpose::Linking => "another architecture",
        Purpose::Fetching => "getting kernels",
        Purpose::Building => "building kernels",
        Purpose::Selftests => "building selftests",
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
    fn an_architecture_needs_its_emulator_and_on_other_machines_a_compiler() {
        for architecture in ARCHITECTURES {
            let tools: Vec<Tool> = tools_for(architecture).collect();
            assert_eq!(tools[0].sign, Sign::Program(architecture.qemu.0));
            assert_eq!(tools.len() == 1, architecture.is_native());
        }
    }

    #[test]
    fn a_program_is_looked_for_on_the_path() {
        assert!(is_there(Sign::Program("sh")));
        assert!(!is_there(Sign::Program("no-such-program-anywhere")));
        assert!(!is_there(Sign::Header("no/such/header.h")));
    }
}
