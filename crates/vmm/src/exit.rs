// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exits, and who answered them.

use kvm_slots::Unsupported;

/// An exit, and who answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The guest-physical address.
    pub gpa: u64,
    /// How many bytes.
    pub size: usize,
    /// Whether the guest stored.
    pub write: bool,
    /// Who answered.
    pub by: Answer,
}

/// Who answered an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The region's device.
    Device,
    /// The VMM, through the host address of memory that shares its page with
    /// something that traps.
    Memory,
    /// Nobody: a store to ROM is dropped.
    DroppedRomWrite,
    /// Nobody: no region is there. Loads give all ones.
    Unassigned,
    /// Nobody: the addresses are reserved. Loads give all ones.
    Reserved,
    /// Nobody can: there is no host address to answer through.
    NoHostAddress,
    /// Nobody can: this kernel could not be given the region.
    Refused(Unsupported),
    /// The device, but what its answer led to failed.
    EffectFailed(String),
}
