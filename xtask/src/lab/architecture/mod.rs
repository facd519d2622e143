// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the lab knows of a processor architecture. Everything that differs between
//! architectures is in its files.

mod aarch64;
mod x86_64;

pub use aarch64::AARCH64;
pub use x86_64::X86_64;

use crate::shell::Target;

/// The architectures of environments.
pub const ARCHITECTURES: [&Architecture; 2] = [&X86_64, &AARCH64];

/// A processor architecture: its machine in the emulator, its packages, and how
/// programs and kernels are built for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Rust's name of the architecture.
    pub rust: &'static str,
    /// The target of the test program: glibc, linked statically.
    pub target: Target,
    /// Debian's name of the architecture.
    pub debian: &'static str,
    /// The emulator, and the package that contains it.
    pub qemu: (&'static str, &'static str),
    /// The package of its C library for compilers on other machines.
    pub libc_package: &'static str,
    /// The emulator's arguments for the machine and the processor: one whose
    /// virtualisation extension the emulator knows, with second-stage paging, and
    /// an IOMMU that remaps interrupts too, without which VFIO refuses to work.
    pub machine: &'static [&'static str],
    /// The emulator's arguments for the port of the results, in addition to the
    /// machine's own serial port.
    pub results_device: &'static [&'static str],
    /// The kernel's names of the console and of the port of the results.
    pub ports: Ports,
    /// Kernel parameters. An emulated machine can stall for a long time on a
    /// busy host, which the kernel must not mistake for a broken timer or a
    /// lockup.
    pub parameters: &'static str,
    /// Whether a non-maskable interrupt makes the kernel panic.
    pub has_nmi: bool,
    /// How its kernel is built.
    pub kernel: KernelTarget,
}

/// The names of serial ports.
#[derive(Debug, PartialEq, Eq)]
pub struct Ports {
    /// The console.
    pub console: &'static str,
    /// The port of the results.
    pub results: &'static str,
}

/// What `make` is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelTarget {
    /// The kernel's name of the architecture: `ARCH`.
    pub name: &'static str,
    /// The prefix of the compiler's name on another machine: `CROSS_COMPILE`.
    pub cross_compile: &'static str,
    /// The target of `make`.
    pub goal: &'static str,
    /// The path of the image.
    pub image: &'static str,
}

/// The architecture of this machine; the first one if it is none of them.
pub fn native() -> &'static Architecture {
    let native = ARCHITECTURES.into_iter().find(|other| other.is_native());
    native.unwrap_or(ARCHITECTURES[0])
}

impl Architecture {
    /// Whether it is this machine's.
    pub fn is_native(&self) -> bool {
        std::env::consts::ARCH == self.rust
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_is_known_by_its_own_names() {
        let names = |of: fn(&Architecture) -> &'static str| {
            let mut names = ARCHITECTURES.map(of);
            names.sort_unstable();
            names.windows(2).all(|pair| pair[0] != pair[1])
        };
        assert!(names(|other| other.rust));
        assert!(names(|other| other.debian));
        assert!(names(|other| other.target.triple));
        assert!(names(|other| other.qemu.0));
        for other in ARCHITECTURES {
            assert!(other.target.triple.starts_with(other.rust));
        }
    }
}
