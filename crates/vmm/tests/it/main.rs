// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests of `vmm`, in one program.
//!
//! `cargo test -p vmm --test it bars::` runs one folder. The tests that limit the
//! memory of a process are in the program `bombs`.

mod common;

/// `vmm bars`: sources, reports, notes and text.
mod bars {
    mod notes;
    mod reports;
    mod rules_and_text;
    mod sources;
}

/// `vmm boot`: its parts that need a process, and guests of a few instructions.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod boot {
    #[cfg(target_arch = "x86_64")]
    mod dma_order;
    mod guests;
    mod terminal;
}

/// The PCI bus of `vmm boot`: configuration space, and BARs that follow it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod boot_pci {
    mod bars;
    mod config_space;
    mod fixture;
    mod order;
    mod private_pages;
    mod random_writes;
}

/// The program as a user starts it: what it prints where, and how it exits.
mod cli {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    mod boot;
    mod map;
    mod mtree;
    mod run_and_exit_status;
    mod terminal;
    mod width;
}

/// Machine files and scripts that are built to do harm.
mod hostile {
    mod damaged_files;
    mod nasty_machines;
}

/// Machine files: every class of mistake, and `repeat`.
mod machine_files {
    mod regions;
    mod repeat;
    mod steps;
    mod tdi;
}

/// What single steps of a script come to, and the parts that they need.
mod run {
    mod address_width;
    mod decode_off;
    mod emulated_devices;
    mod error_causes;
    mod guest_code;
    mod memory_faults;
    mod tdi;
    mod tries;
}
