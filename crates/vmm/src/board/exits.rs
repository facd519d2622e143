// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The record of exits: what the guest accessed, and what answered.

use kvm_slots::Unsupported;

/// An exit and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The guest-physical address.
    pub gpa: u64,
    /// How many bytes.
    pub size: usize,
    /// Whether it was a store.
    pub write: bool,
    /// What answered.
    pub by: Answer,
}

/// What answered an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The region's device.
    Device,
    /// The VMM, through the host address of memory that shares its page with
    /// something that traps.
    Memory,
    /// Nothing: a store to ROM is dropped.
    DroppedRomWrite,
    /// Nothing: no region is there. Loads return all ones.
    Unassigned,
    /// Nothing: the addresses are reserved. Loads return all ones.
    Reserved,
    /// Nothing: the VMM has no host address for these bytes.
    NoHostAddress,
    /// Nothing: this kernel does not support the region.
    Refused(Unsupported),
    /// The device, but the effect of its answer failed.
    EffectFailed(String),
}
