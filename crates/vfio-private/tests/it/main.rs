// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests of `vfio-private`, in one program.
//!
//! `cargo test -p vfio-private --test it classify::` runs one folder.

mod common;

/// Configuration space, as bytes from a device.
mod config {
    mod bars_and_capabilities;
    mod enhanced_allocation;
}

/// What VFIO reports about a region, and about a container.
mod iommu_info;
mod region_info;

/// The reports of a device's interface, as bytes and as ranges of BARs.
mod interface_report;

/// All parsers on bytes that make no sense.
mod hostile_bytes;

/// Which bytes of a BAR are private, shared, trapped or blocked.
mod classify {
    mod hostile;
    mod msix;
    mod msix_in_tee;
    pub mod oracle;
    mod relocation;
    mod report;
}

/// The pieces as areas: lookups, places and moves.
mod areas {
    mod allocations;
    mod carve;
    mod places;
    mod public_dma_issues;
    mod public_issues;
}

/// Bugs of existing VMMs, from a device's bytes to the pieces of its BARs.
mod public_bugs;

/// Configuration space and the MSI-X table as the guest has them.
mod emulate {
    mod guest_config;
    mod guest_writes;
    mod msix_table;
    mod reach;
}

/// The life of a TEE device interface, on a simulated security manager.
mod tdi {
    mod explore;
    mod failures;
    mod invariants;
    mod random;
    mod reports;
    mod requests;
    mod world;
}
