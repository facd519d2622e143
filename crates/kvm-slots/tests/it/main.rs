// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests of `kvm-slots`, in one program.
//!
//! `cargo test -p kvm-slots --test it plan::` runs one folder.

mod common;

/// The operations of a change of ranges.
mod plan {
    mod cycles;
    mod from_changes;
    mod limits;
    mod operations;
    mod oracle;
    mod private_pages;
    mod shortest;
    mod table_rules;
}

/// The calls of a VM.
mod vm {
    mod shared;
}

/// Plans on a simulated VM: failures, panics, rollbacks.
mod apply {
    mod drop;
    mod older_ioctl;
    mod panics;
    mod random_plans;
    mod signals;
    mod undo;
    mod undo_blocked;
    mod undo_private_pages;
}

/// A guest's memory on a new VM.
mod rebuild {
    mod new_vm;
}

/// Slots and page states as data.
mod state {
    mod pages;
    mod slots;
}

/// Conversions between private and shared.
mod convert {
    mod bytes;
    mod discard;
    mod far_apart;
    mod faults;
    mod guest_memory;
    mod homes;
    mod host_pages;
    mod in_place;
    mod listeners;
    mod memory_changes;
    mod model;
    mod panics;
    mod parts;
    mod pre_fault;
    mod races;
    mod state_limit;
    mod stays;
    mod steps;
}

/// Dirty pages: tracker, logs, rings.
mod dirty {
    mod faults;
    mod listener;
    mod log_beside_ring;
    mod oracle;
    mod sim_ioctls;
    mod stale_plans;
    mod tracker;
}

/// Slots that follow a flat view.
mod listener {
    mod dirty_logs;
    mod faults;
    mod guest;
    mod vcpus;
    mod view_changes;
}

/// Every access of a running guest, in every interleaving with a commit.
mod guest_sees;

/// Probes of kernels, with and without an ABI.
mod probe {
    mod kernels;
    mod profiles;
}

/// Push-style mappings that the guest validates and releases.
mod push {
    mod decision;
    mod release;
    mod request;
    mod validate;
}

/// The simulated KVM against the rules of the real one.
mod sim {
    mod aarch64;
    mod fd_offset;
    mod guest_accesses;
    mod guest_memfd_files;
    mod guest_memfd_slots;
    mod kernel_options;
    mod memslots;
    mod mmio_entries;
    mod other_abis;
    mod private_pages;
    mod slot_changes;
}
