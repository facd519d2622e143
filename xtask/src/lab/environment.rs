// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which environments there are: an environment is a kernel, and a kernel is
//! a package, or source with a configuration and perhaps patches.

/// Where hardware tests can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// What users call it.
    pub name: &'static str,
    /// What it runs.
    pub kernel: Kernel,
    /// Whether it is meant where no name is given.
    pub by_default: bool,
}

/// Where an environment's kernel comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// This machine's own: nothing is booted.
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
    /// What is set on top of `make tinyconfig`: files of `xtask/lab`, of which
    /// later ones win.
    pub configs: &'static [&'static str],
    /// A folder of `xtask/lab` whose `*.patch` files are applied by name.
    pub patches: Option<&'static str>,
    /// What the kernel's release ends with, so that tests can tell it.
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
            patches: None,
            suffix: "-lab",
        }),
    ),
    Environment::new(
        "lab-7.3-private-mmio",
        Kernel::Built(Recipe {
            line: "7.3",
            configs: &["kernel-7.3.config", "private-mmio.config"],
            patches: Some("private-mmio"),
            suffix: "-lab-private-mmio",
        }),
    ),
    Environment {
        // Several times as slow as the others.
        by_default: false,
        ..Environment::new(
            "lab-7.3-private-mmio-debug",
            Kernel::Built(Recipe {
                line: "7.3",
                configs: &["kernel-7.3.config", "private-mmio.config", "debug.config"],
                patches: Some("private-mmio"),
                suffix: "-lab-private-mmio-debug",
            }),
        )
    },
];

impl Environment {
    const fn new(name: &'static str, kernel: Kernel) -> Self {
        Self {
            name,
            kernel,
            by_default: true,
        }
    }
}

/// The environment of that name.
///
/// # Errors
/// There is none; says which there are.
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

/// The environments of these names, each once, or those that are meant where
/// none is given.
///
/// # Errors
/// A name that none has.
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

/// What the lab needs to know of a processor's architecture. Another one would
/// be another constant of this type.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// Rust's name of it.
    pub rust: &'static str,
    /// What the test program is built for: glibc, linked statically.
    pub target: &'static str,
    /// Debian's name of it.
    pub debian: &'static str,
    /// How the names of Debian's kernel packages for virtual machines end.
    pub flavour: &'static str,
    /// The emulator.
    pub qemu: &'static str,
    /// The machine and the processor: one whose virtualisation extension the
    /// emulator knows, with second-stage paging, and an IOMMU that remaps
    /// interrupts too, without which VFIO refuses to work.
    pub machine: &'static [&'static str],
    /// The kernel's own words for the first and the second serial port.
    pub serial: [&'static str; 2],
    /// What the kernel is told about this machine. Emulated, and with other
    /// work beside it, it may stand still for long: what the kernel takes for
    /// a broken timer or a lockup then is neither.
    pub parameters: &'static str,
    /// The modules that tests need, where they are not built in.
    pub modules: &'static [&'static str],
    /// What `make` builds, and where it puts it.
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
    fn no_name_selects_all_but_the_slow_environments_and_each_can_be_found() {
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
    fn a_name_that_none_has_is_told_which_there_are() {
        let error = select(&["lab-0.1".to_string()]).expect_err("there is none");
        assert!(error.contains("'lab-0.1'") && error.contains("debian-6.12, debian-7.3"));
    }
}
