// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! 64-bit Arm with EL2.

use super::{Architecture, KernelTarget, Ports};
use crate::shell::Target;

/// 64-bit Arm with EL2, a GICv3 with its ITS, and an SMMUv3. Pointer
/// authentication by the emulator's own function, as the architecture's takes a
/// multiple of the time. The machine has a single serial port, so that the one for
/// results is a PCI device. No vector extensions, which nothing here uses. Huge pages
/// only on request: with pages of 16 KiB they have 32 MiB, more than most memory of a
/// test.
pub const AARCH64: Architecture = Architecture {
    rust: "aarch64",
    target: Target {
        triple: "aarch64-unknown-linux-gnu",
        linker: "aarch64-linux-gnu-gcc",
        linker_package: "gcc-aarch64-linux-gnu",
    },
    debian: "arm64",
    qemu: ("qemu-system-aarch64", "qemu-system-arm"),
    libc_package: "libc6-dev-arm64-cross",
    machine: &[
        "-machine",
        "virt,virtualization=on,gic-version=3,iommu=smmuv3",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max,pauth-impdef=on,sve=off,sme=off",
    ],
    results_device: &["-device", "pci-serial,chardev=results"],
    ports: Ports {
        console: "ttyAMA0",
        results: "ttyS0",
    },
    parameters: "mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 \
                 transparent_hugepage=madvise",
    has_nmi: false,
    kernel: KernelTarget {
        name: "arm64",
        cross_compile: "aarch64-linux-gnu-",
        goal: "Image",
        image: "arch/arm64/boot/Image",
    },
};
