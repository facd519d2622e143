// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The list of environments, of guests and of what their kernels are made of.

use super::super::architecture::{AARCH64, Architecture};
use super::{Environment, Kernel, Recipe, Selection, Variant};

/// All environments, in the order of reports.
pub const ENVIRONMENTS: [Environment; 17] = [
    Environment::new("host", Kernel::Host),
    Environment::new("simulated", Kernel::Simulated(UNPATCHED)).with_selftests(),
    Environment::new("debian-6.1", packaged("6.1")).requires(&RELEASED),
    Environment::new("debian-6.12", packaged("6.12"))
        .requires(&RELEASED)
        .with_guest(),
    Environment::new("debian-7.3", packaged("7.3"))
        .requires(&RELEASED_7_3)
        .with_guest(),
    Environment::new("lab-7.3", Kernel::Built(UNPATCHED))
        .requires(&BUILT)
        .with_selftests(),
    Environment::new("lab-7.3-private-mmio", PRIVATE_MMIO)
        .requires(&BUILT)
        .with_guest()
        .with_confidential_guest()
        .with_selftests(),
    // Huge pages.
    Environment::new("lab-7.3-private-mmio-large-bars", PRIVATE_MMIO)
        .requires(&BUILT)
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
        .requires(&SHADOW_PAGES)
        .with_selftests()
        .with_variant(Variant {
            parameters: "kvm.tdp_mmu=0",
            has_large_bars: true,
            only: "backing_fd",
            ..Variant::USUAL
        }),
    // Shadow pages for the guest's page tables too.
    Environment::new("lab-7.3-private-mmio-no-npt", PRIVATE_MMIO)
        .requires(&SHADOW_PAGES)
        .with_selftests()
        .with_variant(Variant {
            parameters: "kvm_amd.npt=0",
            has_large_bars: true,
            only: "backing_fd",
            ..Variant::USUAL
        }),
    // What happens on several processors at once.
    Environment::new("lab-7.3-private-mmio-smp", PRIVATE_MMIO)
        .requires(&BUILT)
        .with_selftests()
        .with_variant(Variant {
            processors: 2,
            only: "without_vcpus",
            ..Variant::USUAL
        }),
    // Several times slower than the others.
    Environment::new("lab-7.3-private-mmio-debug", PRIVATE_MMIO_DEBUG)
        .requires(&BUILT)
        .with_selftests()
        .by_name_only(),
    // One guest_memfd holds a page whether it is private or shared.
    Environment::new("lab-7.3-gmem-attributes", GMEM_ATTRIBUTES)
        .requires(&FILE_ATTRIBUTES)
        .with_variant(Variant {
            parameters: "kvm.gmem_in_place_conversion=1",
            ..Variant::USUAL
        })
        .by_name_only(),
    Environment::new("arm64-debian-6.12", packaged_arm64("6.12", "cloud-arm64"))
        .on(&AARCH64)
        .requires(&RELEASED)
        .with_guest(),
    Environment::new("arm64-debian-7.3", packaged_arm64("7.3", "cloud-arm64"))
        .on(&AARCH64)
        .requires(&RELEASED_7_3)
        .with_guest(),
    // Pages of 16 KiB.
    Environment::new("arm64-debian-7.3-16k", packaged_arm64("7.3", "arm64-16k"))
        .on(&AARCH64)
        .requires(&RELEASED)
        .with_guest(),
    Environment::new("arm64-lab-7.3-private-mmio", PRIVATE_MMIO_ARM64)
        .on(&AARCH64)
        .requires(&RELEASED)
        .with_guest()
        .by_name_only(),
];

/// What every kernel of the lab has on the emulated machine: a KVM, and the devices for
/// the tests, bound to VFIO.
const RELEASED: [&str; 2] = ["kvm", "vfio"];

/// The same and a guest_memfd that can be mapped.
const RELEASED_7_3: [&str; 3] = ["kvm", "vfio", "guest-memfd"];

/// What the configuration of the lab's own kernels adds to them.
const BUILT: [&str; 6] = [
    "kvm",
    "vfio",
    "guest-memfd",
    "vfio-cdev",
    "private-pages",
    "convertible-pages",
];

/// The same without software-protected VMs, for which KVM needs its newer MMU.
const SHADOW_PAGES: [&str; 3] = ["kvm", "vfio", "vfio-cdev"];

/// The same where a VM has no attributes of its own.
const FILE_ATTRIBUTES: [&str; 4] = ["kvm", "vfio", "vfio-cdev", "convertible-pages"];

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

/// The same with the kernel's own checks, and KVM and VFIO as modules.
const PRIVATE_MMIO_DEBUG: Kernel = Kernel::Built(Recipe {
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
});

/// The kernel whose guest_memfds have attributes of their pages.
const GMEM_ATTRIBUTES: Kernel = Kernel::Built(Recipe {
    line: "7.3",
    configs: &["kernel-7.3.config"],
    patches: &["kvm-fixes", "gmem-attributes"],
    suffix: "-lab-gmem-attributes",
    modules: &[],
});

/// The kernel that has private MMIO, for Arm.
const PRIVATE_MMIO_ARM64: Kernel = Kernel::Built(Recipe {
    line: "7.3",
    configs: &["kernel-7.3-arm64.config", "private-mmio.config"],
    patches: &PATCHES,
    suffix: "-lab-private-mmio",
    modules: &[],
});

/// Two environments whose kernels differ only by this project's patches: without
/// and with them. The kernel's selftests are compared between them.
pub const COMPARED: [&str; 2] = ["lab-7.3", "lab-7.3-private-mmio"];

/// Linux as a guest of `vmm boot`. The generic kernels have drivers of devices
/// that clouds do not have, such as e1000e, and nvme as a module.
pub const GUESTS: [Environment; 10] = [
    guest("guest-6.1", "6.1", "cloud-amd64"),
    guest("guest-6.12", "6.12", "cloud-amd64"),
    guest("guest-7.3", "7.3", "cloud-amd64"),
    guest("guest-6.1-generic", "6.1", "amd64"),
    guest("guest-6.12-generic", "6.12", "amd64"),
    guest("guest-7.3-generic", "7.3", "amd64"),
    guest("arm64-guest-6.12", "6.12", "cloud-arm64").on(&AARCH64),
    guest("arm64-guest-7.3", "7.3", "cloud-arm64").on(&AARCH64),
    guest("arm64-guest-6.12-generic", "6.12", "arm64").on(&AARCH64),
    guest("arm64-guest-7.3-generic", "7.3", "arm64").on(&AARCH64),
];

/// The guest in environments of an architecture that have one: the generic kernel of the
/// newest line, which is the architecture's last one in the list. `None` if there is none.
pub fn guest_of(architecture: &Architecture) -> Option<Environment> {
    let of = |guest: &&Environment| guest.architecture == architecture;
    GUESTS.iter().rfind(of).copied()
}

/// Debian's kernel with the modules for the tests.
const fn packaged(line: &'static str) -> Kernel {
    Kernel::Packaged(Selection {
        line,
        flavour: "cloud-amd64",
        modules: &["kvm_amd", "vfio_pci", "vfio_iommu_type1"],
        modules_are_optional: false,
    })
}

/// The same for Arm, where KVM is built in.
const fn packaged_arm64(line: &'static str, flavour: &'static str) -> Kernel {
    Kernel::Packaged(Selection {
        line,
        flavour,
        modules: &["vfio_pci", "vfio_iommu_type1"],
        modules_are_optional: false,
    })
}

const fn guest(name: &'static str, line: &'static str, flavour: &'static str) -> Environment {
    let kernel = Kernel::Packaged(Selection {
        line,
        flavour,
        modules: &["nvme", "e1000e"],
        modules_are_optional: true,
    });
    Environment::new(name, kernel).by_name_only()
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
