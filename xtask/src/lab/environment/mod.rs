// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Environments. An environment is a kernel: a package, or source with a
//! configuration and possibly patches; or it is this machine, with its own KVM or
//! the simulated one. Guests of `vmm boot` are described in the same way.

mod list;
mod select;

pub use list::{COMPARED, CONFIDENTIAL_GUEST, guest_of, kernels};
pub use select::{find, find_guest, select, select_kernels};

use super::architecture::{Architecture, X86_64};

/// An environment for hardware tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Its name.
    pub name: &'static str,
    /// The architecture of a kernel that is booted, and of programs for the
    /// simulated KVM.
    pub architecture: &'static Architecture,
    /// Its kernel.
    pub kernel: Kernel,
    /// How its machine and its tests differ from those of others.
    pub variant: Variant,
    /// Whether it is selected if no name is given.
    pub by_default: bool,
    /// Whether it has a Linux to boot as a guest.
    pub has_guest: bool,
    /// Whether it has a Linux to boot as a confidential guest too.
    pub has_confidential_guest: bool,
    /// Whether it has the selftests of its kernel's source.
    pub has_selftests: bool,
    /// What its tests must find, by the names of `tests/src/needs.rs`. A test that
    /// lacks one of these needs fails; one that lacks another is skipped.
    pub required: &'static [&'static str],
}

/// What an environment has that others with the same kernel do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The number of processors. Guests do not run reliably in an emulator that
    /// has more than one.
    pub processors: u32,
    /// Parameters of the kernel.
    pub parameters: &'static str,
    /// Whether ivshmem has a BAR of 16 MiB instead of 1 MiB, and pci-testdev
    /// another one of 2 GiB, which can be mapped in huge pages.
    pub has_large_bars: bool,
    /// Only tests with this text in their names exist.
    pub only: &'static str,
}

impl Variant {
    /// The usual machine and all tests.
    pub const USUAL: Self = Self {
        processors: 1,
        parameters: "",
        has_large_bars: false,
        only: "",
    };
}

/// The source of an environment's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// This machine's own kernel: nothing is booted.
    Host,
    /// Debian's package.
    Packaged(Selection),
    /// Built from Debian's source package.
    Built(Recipe),
    /// This machine's own kernel, and the simulated KVM. The source has the
    /// selftests that run on it.
    Simulated(Recipe),
}

/// What is taken of Debian's packages of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The newest of this line, such as `6.12`.
    pub line: &'static str,
    /// The suffix of the packages' names.
    pub flavour: &'static str,
    /// The modules that are loaded, unless they are built in.
    pub modules: &'static [&'static str],
    /// Whether the kernel may lack some of them.
    pub modules_are_optional: bool,
}

/// How a kernel is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The line of the source package, such as `7.3`.
    pub line: &'static str,
    /// The options on top of `make tinyconfig`: files of `xtask/lab`. Later
    /// files override earlier ones.
    pub configs: &'static [&'static str],
    /// Folders of `xtask/lab` whose `*.patch` files are applied, in this order
    /// and in the order of their names.
    pub patches: &'static [&'static str],
    /// The suffix of the kernel's release, by which tests recognise it.
    pub suffix: &'static str,
    /// The modules that are built and loaded, in this order: paths in the tree.
    pub modules: &'static [&'static str],
}

impl Environment {
    const fn new(name: &'static str, kernel: Kernel) -> Self {
        Self {
            name,
            architecture: &X86_64,
            kernel,
            variant: Variant::USUAL,
            by_default: true,
            has_guest: false,
            has_confidential_guest: false,
            has_selftests: false,
            required: &[],
        }
    }

    /// Whether a kernel is booted.
    pub const fn is_booted(self) -> bool {
        matches!(self.kernel, Kernel::Packaged(_) | Kernel::Built(_))
    }

    /// Rust's name of the architecture that its tests run on.
    pub const fn runs_on(self) -> &'static str {
        match self.kernel {
            Kernel::Host => std::env::consts::ARCH,
            _ => self.architecture.rust,
        }
    }

    /// The recipe of the source that has its selftests.
    pub const fn selftests(self) -> Option<Recipe> {
        match self.kernel {
            Kernel::Built(recipe) | Kernel::Simulated(recipe) if self.has_selftests => Some(recipe),
            _ => None,
        }
    }

    /// The same for another architecture.
    const fn on(self, architecture: &'static Architecture) -> Self {
        Self {
            architecture,
            ..self
        }
    }

    const fn by_name_only(self) -> Self {
        Self {
            by_default: false,
            ..self
        }
    }

    const fn with_guest(self) -> Self {
        Self {
            has_guest: true,
            ..self
        }
    }

    const fn with_confidential_guest(self) -> Self {
        Self {
            has_confidential_guest: true,
            ..self
        }
    }

    const fn requires(self, required: &'static [&'static str]) -> Self {
        Self { required, ..self }
    }

    const fn with_variant(self, variant: Variant) -> Self {
        Self { variant, ..self }
    }

    const fn with_selftests(self) -> Self {
        Self {
            has_selftests: true,
            ..self
        }
    }
}
