// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! 64-bit x86 with AMD's extension.

use super::{Architecture, KernelTarget, Ports};
use crate::shell::Target;

/// 64-bit x86 with AMD's extension. Without XSAVE: the emulator does not intercept
/// a guest's XSETBV, so that its KVM reports a wrong size to a guest that is Linux.
///
/// With a periodic tick (`nohz=off highres=off`): where the emulator enters a guest, it
/// sets a bit of the processor's pending interrupts by a load and a store, and forgets
/// an interrupt that a device raises between the two. If that is the timer's only one,
/// the machine stands still for good in a guest that does not exit. The next tick makes
/// up for it.
pub const X86_64: Architecture = Architecture {
    rust: "x86_64",
    target: Target {
        triple: "x86_64-unknown-linux-gnu",
        linker: "x86_64-linux-gnu-gcc",
        linker_package: "gcc-x86-64-linux-gnu",
    },
    debian: "amd64",
    qemu: ("qemu-system-x86_64", "qemu-system-x86"),
    libc_package: "libc6-dev-amd64-cross",
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
    results_device: &["-serial", "chardev:results"],
    ports: Ports {
        console: "ttyS0",
        results: "ttyS1",
    },
    parameters: "intel_iommu=on mitigations=off no_timer_check nowatchdog nohz=off highres=off \
                 rcupdate.rcu_cpu_stall_suppress=1 unknown_nmi_panic panic_print=0x41",
    has_nmi: true,
    kernel: KernelTarget {
        name: "x86",
        cross_compile: "x86_64-linux-gnu-",
        goal: "bzImage",
        image: "arch/x86/boot/bzImage",
    },
};
