// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The list of environments. An environment is a kernel: a package, or source
//! with a configuration and possibly patches.

/// An environment for hardware tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Its name.
    pub name: &'static str,
    /// Its kernel.
    pub kernel: Kernel,
    /// Whether it is selected if no name is given.
    pub by_default: bool,
}

/// The source of an environment's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// This machine's own kernel: nothing is booted.
    Host,
    /// Debian's package, the newest of a line such as `6.12`.
    Packaged(&'static str),
    /// Built from Debian's source package.
    Built(Recipe),
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
}

/// All environments, in the order of reports.
pub const ENVIRONMENTS: [Environment; 7] = [
    Environment::new("host", Kernel::Host),
    Environment::new("debian-6.1", Kernel::Packaged("6.1")),
    Environment::new("debian-6.12", Kernel::Packaged("6.12")),
    Environment::new("debian-7.3", Kernel::Packaged("7.3")),
    Environment::new(
        "lab-7.3",
        Kernel::Built(Recipe {
            line: "7.3",
            configs: &["kernel-7.3.config"],
            patches: &[],
            suffix: "-lab",
        }),
    ),
    Environment::new(
        "lab-7.3-private-mmio",
        Kernel::Built(Recipe {
            line: "7.3",
            configs: &["kernel-7.3.config", "private-mmio.config"],
            patches: &["private-mmio", "confidential-host"],
            suffix: "-lab-private-mmio",
        }),
    ),
    Environment {
        // Several times slower than the others.
        by_default: false,
        ..Environment::new(
            "lab-7.3-private-mmio-debug",
            Kernel::Built(Recipe {
                line: "7.3",
                configs: &["kernel-7.3.config", "private-mmio.config", "debug.config"],
                patches: &["private-mmio", "confidential-host"],
                suffix: "-lab-private-mmio-debug",
            }),
        )
    },
];

/// The kernel of confidential guests. It is made like an environment's kernel, but
/// nothing is run in it on its own: `vmm boot --confidential` boots it.
pub const GUEST: Environment = Environment::new(
    "confidential-guest",
    Kernel::Built(Recipe {
        line: "7.3",
        configs: &["confidential-guest/guest.config"],
        patches: &["confidential-guest"],
        suffix: "-lab-guest",
    }),
);

/// All kernels that the cache can have: those of environments, and the guest's.
pub fn kernels() -> impl Iterator<Item = Environment> {
    ENVIRONMENTS.into_iter().chain([GUEST])
}

impl Environment {
    const fn new(name: &'static str, kernel: Kernel) -> Self {
        Self {
            name,
            kernel,
            by_default: true,
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

/// The kernels with these names, each once, or the default ones if no name is
/// given. Unlike [`select`], this knows the guest's kernel.
///
/// # Errors
/// An unknown name.
pub fn select_kernels(names: &[String]) -> Result<Vec<Environment>, String> {
    let is_guest = |name: &String| name == GUEST.name;
    let others: Vec<String> = names.iter().filter(|n| !is_guest(n)).cloned().collect();
    let mut selected = match names.is_empty() || !others.is_empty() {
        true => select(&others)?,
        false => Vec::new(),
    };
    if names.is_empty() || names.iter().any(is_guest) {
        selected.push(GUEST);
    }
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
    /// The suffix of Debian's kernel packages for virtual machines.
    pub flavour: &'static str,
    /// The emulator.
    pub qemu: &'static str,
    /// The machine and the processor: one whose virtualisation extension the
    /// emulator knows, with second-stage paging, and an IOMMU that remaps
    /// interrupts too, without which VFIO refuses to work.
    pub machine: &'static [&'static str],
    /// The kernel's names of the first and the second serial port.
    pub serial: [&'static str; 2],
    /// Kernel parameters. An emulated machine can stall for a long time on a
    /// busy host, which the kernel must not mistake for a broken timer or a
    /// lockup.
    pub parameters: &'static str,
    /// The modules that tests need, unless they are built in.
    pub modules: &'static [&'static str],
    /// The target of `make`, and the path of the image.
    pub image: (&'static str, &'static str),
}

/// 64-bit x86 with AMD's extension.
pub const X86_64: Architecture = Architecture {
    rust: "x86_64",
    target: "x86_64-unknown-linux-gnu",
    debian: "amd64",
    flavour: "cloud-amd64",
    qemu: "qemu-system-x86_64",
    machine: &[
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "EPYC,+svm,+npt",
        "-device",
        "intel-iommu,caching-mode=on,intremap=on",
    ],
    serial: ["ttyS0", "ttyS1"],
    parameters: "intel_iommu=on mitigations=off no_timer_check nowatchdog \
                 rcupdate.rcu_cpu_stall_suppress=1",
    modules: &["kvm_amd", "vfio_pci", "vfio_iommu_type1"],
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
    fn the_kernel_of_guests_is_built_by_default_and_is_no_environment() {
        let names = |of: &[&str]| {
            let of: Vec<String> = of.iter().map(ToString::to_string).collect();
            let selected = select_kernels(&of).expect("known");
            selected.iter().map(|e| e.name).collect::<Vec<_>>()
        };
        assert!(find(GUEST.name).is_err());
        assert!(names(&[]).ends_with(&["lab-7.3-private-mmio", GUEST.name]));
        assert_eq!(names(&[GUEST.name]), [GUEST.name]);
        assert_eq!(names(&[GUEST.name, "host"]), ["host", GUEST.name]);
        assert_eq!(names(&["host"]), ["host"]);
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
