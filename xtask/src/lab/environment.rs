// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The list of environments. An environment is a kernel: a package, or source
//! with a configuration and possibly patches; or it is this machine, with its own
//! KVM or the simulated one. Guests of `vmm boot` are listed in the same way.

/// An environment for hardware tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Its name.
    pub name: &'static str,
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

/// All environments, in the order of reports.
pub const ENVIRONMENTS: [Environment; 12] = [
    Environment::new("host", Kernel::Host),
    Environment::new("simulated", Kernel::Simulated(UNPATCHED)).with_selftests(),
    Environment::new("debian-6.1", packaged("6.1")),
    Environment::new("debian-6.12", packaged("6.12")).with_guest(),
    Environment::new("debian-7.3", packaged("7.3")).with_guest(),
    Environment::new("lab-7.3", Kernel::Built(UNPATCHED)).with_selftests(),
    Environment::new("lab-7.3-private-mmio", PRIVATE_MMIO)
        .with_guest()
        .with_confidential_guest()
        .with_selftests(),
    // Huge pages.
    Environment::new("lab-7.3-private-mmio-large-bars", PRIVATE_MMIO)
        .with_selftests()
        .with_variant(Variant {
            // A guest can ask KVM to emulate an instruction.
            parameters: "kvm.force_emulation_prefix=1",
            has_large_bars: true,
            only: "backing_fd",
            ..Variant::USUAL
        }),
    // Shadow pages instead of KVM's newer MMU.
    Environment::new("lab-7.3-private-mmio-no-tdp-mmu", PRIVATE_MMIO)
        .with_selftests()
        .with_variant(Variant {
            parameters: "kvm.tdp_mmu=0",
            has_large_bars: true,
            only: "backing_fd",
            ..Variant::USUAL
        }),
    // Shadow pages for the guest's page tables too.
    Environment::new("lab-7.3-private-mmio-no-npt", PRIVATE_MMIO)
        .with_selftests()
        .with_variant(Variant {
            parameters: "kvm_amd.npt=0",
            has_large_bars: true,
            only: "backing_fd",
            ..Variant::USUAL
        }),
    // What happens on several processors at once.
    Environment::new("lab-7.3-private-mmio-smp", PRIVATE_MMIO)
        .with_selftests()
        .with_variant(Variant {
            processors: 2,
            only: "without_vcpus",
            ..Variant::USUAL
        }),
    Environment {
        // Several times slower than the others.
        by_default: false,
        ..Environment::new(
            "lab-7.3-private-mmio-debug",
            Kernel::Built(Recipe {
                line: "7.3",
                configs: &["kernel-7.3.config", "private-mmio.config", "debug.config"],
                patches: &PATCHES,
                suffix: "-lab-private-mmio-debug",
                modules: &[
                    "virt/lib/irqbypass.ko",
                    "arch/x86/kvm/kvm.ko",
                    "arch/x86/kvm/kvm-amd.ko",
                    "drivers/vfio/vfio.ko",
                    "drivers/vfio/vfio_iommu_type1.ko",
                    "drivers/vfio/pci/vfio-pci-core.ko",
                    "drivers/vfio/pci/vfio-pci.ko",
                ],
            }),
        )
        .with_selftests()
    },
];

/// The kernel without patches.
const UNPATCHED: Recipe = Recipe {
    line: "7.3",
    configs: &["kernel-7.3.config"],
    patches: &[],
    suffix: "-lab",
    modules: &[],
};

/// The patches of the kernels that have private MMIO.
const PATCHES: [&str; 3] = ["kvm-fixes", "private-mmio", "confidential-host"];

/// The kernel that has private MMIO.
const PRIVATE_MMIO: Kernel = Kernel::Built(Recipe {
    line: "7.3",
    configs: &["kernel-7.3.config", "private-mmio.config"],
    patches: &PATCHES,
    suffix: "-lab-private-mmio",
    modules: &[],
});

/// Two environments whose kernels differ only by this project's patches: without
/// and with them. The kernel's selftests are compared between them.
pub const COMPARED: [&str; 2] = ["lab-7.3", "lab-7.3-private-mmio"];

/// Linux as a guest of `vmm boot`. The generic kernels have drivers of devices
/// that clouds do not have, such as e1000e, and nvme as a module.
pub const GUESTS: [Environment; 6] = [
    guest("guest-6.1", "6.1", "cloud-amd64"),
    guest("guest-6.12", "6.12", "cloud-amd64"),
    guest("guest-7.3", "7.3", "cloud-amd64"),
    guest("guest-6.1-generic", "6.1", "amd64"),
    guest("guest-6.12-generic", "6.12", "amd64"),
    guest("guest-7.3-generic", "7.3", "amd64"),
];

/// The guest in environments that have one.
pub const GUEST: Environment = GUESTS[5];

/// Debian's kernel with the modules for the tests.
const fn packaged(line: &'static str) -> Kernel {
    Kernel::Packaged(Selection {
        line,
        flavour: "cloud-amd64",
        modules: &["kvm_amd", "vfio_pci", "vfio_iommu_type1"],
    })
}

const fn guest(name: &'static str, line: &'static str, flavour: &'static str) -> Environment {
    Environment {
        by_default: false,
        ..Environment::new(
            name,
            Kernel::Packaged(Selection {
                line,
                flavour,
                modules: &["nvme", "e1000e"],
            }),
        )
    }
}

/// The kernel of confidential guests. It is made like an environment's kernel, but
/// nothing is run in it on its own: `vmm boot --confidential` boots it.
pub const CONFIDENTIAL_GUEST: Environment = Environment::new(
    "confidential-guest",
    Kernel::Built(Recipe {
        line: "7.3",
        configs: &["confidential-guest/guest.config"],
        patches: &["confidential-guest"],
        suffix: "-lab-guest",
        modules: &[],
    }),
);

/// All kernels that the cache can have: those of environments and of guests.
pub fn kernels() -> impl Iterator<Item = Environment> {
    let guests = GUESTS.into_iter().chain([CONFIDENTIAL_GUEST]);
    ENVIRONMENTS.into_iter().chain(guests)
}

impl Environment {
    const fn new(name: &'static str, kernel: Kernel) -> Self {
        Self {
            name,
            kernel,
            variant: Variant::USUAL,
            by_default: true,
            has_guest: false,
            has_confidential_guest: false,
            has_selftests: false,
        }
    }

    /// Whether a kernel is booted.
    pub const fn is_booted(self) -> bool {
        matches!(self.kernel, Kernel::Packaged(_) | Kernel::Built(_))
    }

    /// The recipe of the source that has its selftests.
    pub const fn selftests(self) -> Option<Recipe> {
        match self.kernel {
            Kernel::Built(recipe) | Kernel::Simulated(recipe) if self.has_selftests => Some(recipe),
            _ => None,
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

/// The environment with that name.
///
/// # Errors
/// There is none. The message lists the environments.
pub fn find(name: &str) -> Result<Environment, String> {
    let found = ENVIRONMENTS.iter().find(|other| other.name == name);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = ENVIRONMENTS.iter().map(|other| other.name).collect();
        format!(
            "there is no environment '{name}'; there are: {}",
            known.join(", ")
        )
    })
}

/// The guest of a line, such as `7.3`.
///
/// # Errors
/// There is none. The message lists the lines.
pub fn find_guest(line: &str, generic: bool) -> Result<Environment, String> {
    let suffix = if generic { "-generic" } else { "" };
    let name = format!("guest-{line}{suffix}");
    let found = GUESTS.into_iter().find(|guest| guest.name == name);
    found.ok_or_else(|| format!("there is no guest with Linux {line}; there are: 6.1, 6.12, 7.3"))
}

/// The kernels with these names, each once, or the default ones if no name is
/// given. Unlike [`select`], this knows the kernels of guests.
///
/// # Errors
/// An unknown name.
pub fn select_kernels(names: &[String]) -> Result<Vec<Environment>, String> {
    let guests = || GUESTS.into_iter().chain([CONFIDENTIAL_GUEST]);
    let is_guest = |name: &String| guests().any(|guest| guest.name == name);
    let others: Vec<String> = names.iter().filter(|n| !is_guest(n)).cloned().collect();
    let mut selected = match names.is_empty() || !others.is_empty() {
        true => select(&others)?,
        false => Vec::new(),
    };
    let is_selected = |guest: &Environment| match names.is_empty() {
        true => *guest == CONFIDENTIAL_GUEST,
        false => names.iter().any(|name| name == guest.name),
    };
    selected.extend(guests().filter(is_selected));
    Ok(selected)
}

/// The environments with these names, each once, or the default ones if no name
/// is given.
///
/// # Errors
/// An unknown name.
pub fn select(names: &[String]) -> Result<Vec<Environment>, String> {
    match names.is_empty() {
        true => Ok(ENVIRONMENTS.into_iter().filter(|e| e.by_default).collect()),
        false => {
            let mut selected = Vec::new();
            for name in names {
                let environment = find(name)?;
                if !selected.contains(&environment) {
                    selected.push(environment);
                }
            }
            Ok(selected)
        }
    }
}

/// The properties of a processor architecture. Another one would be another
/// constant of this type.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// Rust's name of the architecture.
    pub rust: &'static str,
    /// The target of the test program: glibc, linked statically.
    pub target: &'static str,
    /// Debian's name of the architecture.
    pub debian: &'static str,
    /// The emulator.
    pub qemu: &'static str,
    /// The machine and the processor: one whose virtualisation extension the
    /// emulator knows, with second-stage paging, and an IOMMU that remaps
    /// interrupts too, without which VFIO refuses to work. Without XSAVE: the
    /// emulator does not intercept a guest's XSETBV, so that its KVM reports a wrong
    /// size to a guest that is Linux.
    pub machine: &'static [&'static str],
    /// The kernel's names of the first and the second serial port.
    pub serial: [&'static str; 2],
    /// Kernel parameters. An emulated machine can stall for a long time on a
    /// busy host, which the kernel must not mistake for a broken timer or a
    /// lockup.
    pub parameters: &'static str,
    /// The target of `make`, and the path of the image.
    pub image: (&'static str, &'static str),
}

/// 64-bit x86 with AMD's extension.
pub const X86_64: Architecture = Architecture {
    rust: "x86_64",
    target: "x86_64-unknown-linux-gnu",
    debian: "amd64",
    qemu: "qemu-system-x86_64",
    machine: &[
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "EPYC,+svm,+npt,-xsave,-avx,-avx2,-fma,-f16c",
        "-device",
        "intel-iommu,caching-mode=on,intremap=on",
    ],
    serial: ["ttyS0", "ttyS1"],
    parameters: "intel_iommu=on mitigations=off no_timer_check nowatchdog \
                 rcupdate.rcu_cpu_stall_suppress=1",
    image: ("bzImage", "arch/x86/boot/bzImage"),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_selects_all_but_the_slow_environments() {
        let selected = select(&[]).expect("most of them");
        for environment in ENVIRONMENTS {
            assert_eq!(find(environment.name), Ok(environment));
            let is_slow = environment.name.ends_with("-debug");
            assert_eq!(selected.contains(&environment), !is_slow);
            let name = environment.name.to_string();
            assert_eq!(select(&[name]), Ok(vec![environment]));
        }
    }

    #[test]
    fn a_guest_is_found_by_its_line_and_flavour() {
        for (generic, name) in [(false, "guest-7.3"), (true, "guest-7.3-generic")] {
            assert_eq!(find_guest("7.3", generic).map(|guest| guest.name), Ok(name));
        }
        assert!(find_guest("5.10", false).is_err());
    }

    #[test]
    fn the_kernel_of_guests_is_built_by_default_and_is_no_environment() {
        let names = |of: &[&str]| {
            let of: Vec<String> = of.iter().map(ToString::to_string).collect();
            let selected = select_kernels(&of).expect("known");
            selected.iter().map(|e| e.name).collect::<Vec<_>>()
        };
        assert!(find(CONFIDENTIAL_GUEST.name).is_err());
        assert!(names(&[]).ends_with(&["lab-7.3-private-mmio-smp", CONFIDENTIAL_GUEST.name]));
        assert_eq!(names(&[CONFIDENTIAL_GUEST.name]), [CONFIDENTIAL_GUEST.name]);
        assert_eq!(names(&["guest-6.1"]), ["guest-6.1"]);
        assert_eq!(
            names(&[CONFIDENTIAL_GUEST.name, "host"]),
            ["host", CONFIDENTIAL_GUEST.name]
        );
        assert_eq!(names(&["host"]), ["host"]);
    }

    #[test]
    fn a_variant_has_the_kernel_of_another_environment_and_some_tests() {
        let usual = |environment: &&Environment| environment.variant == Variant::USUAL;
        for variant in ENVIRONMENTS.iter().filter(|other| !usual(other)) {
            let mut others = ENVIRONMENTS.iter().filter(usual);
            let has_kernel = others.any(|other| other.kernel == variant.kernel);
            assert!(
                has_kernel && !variant.variant.only.is_empty(),
                "{variant:?}"
            );
        }
    }

    #[test]
    fn the_compared_environments_differ_by_patches_and_have_selftests() {
        let recipe = |name: &str| {
            let environment = find(name).expect("it is known");
            assert!(environment.has_selftests && environment.by_default);
            match environment.kernel {
                Kernel::Built(recipe) => recipe,
                other => panic!("{name} is not built: {other:?}"),
            }
        };
        let [without, with] = COMPARED.map(recipe);
        assert_eq!(without.line, with.line);
        assert!(without.patches.is_empty() && !with.patches.is_empty());
    }

    #[test]
    fn the_selftests_on_the_simulated_kvm_are_those_of_linux_without_patches() {
        let [simulated, without] = ["simulated", COMPARED[0]].map(|name| {
            let environment = find(name).expect("it is known");
            (environment.is_booted(), environment.selftests())
        });
        assert!(!simulated.0 && without.0);
        assert!(simulated.1.is_some());
        assert_eq!(simulated.1, without.1);
    }

    #[test]
    fn an_environment_that_is_named_twice_is_selected_once() {
        let names = ["host", "lab-7.3", "host"].map(String::from);
        let names: Vec<&str> = select(&names)
            .expect("known")
            .iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(names, ["host", "lab-7.3"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_environments() {
        let error = select(&["lab-0.1".to_string()]).expect_err("there is none");
        assert!(error.contains("'lab-0.1'") && error.contains("debian-6.12, debian-7.3"));
    }
}
