// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lists the memslots of the simulated kernel, for tests.

use super::memslots::SimSlot;
use super::vm::SimVm;

/// A memslot of the simulated kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimMemslot {
    /// The number in address space 0; `None` for a push-style mapping.
    pub id: Option<u16>,
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes.
    pub size: u64,
    /// The host address.
    pub userspace_addr: u64,
    /// The flags.
    pub flags: u32,
    /// The offset of the bytes in the file, if there is one.
    pub file_offset: Option<u64>,
}

impl SimMemslot {
    fn new(id: Option<u16>, slot: &SimSlot) -> Self {
        Self {
            id,
            gpa: slot.gpa,
            size: slot.size,
            userspace_addr: slot.userspace_addr,
            flags: slot.flags,
            file_offset: slot.file.map(|file| file.offset),
        }
    }
}

impl SimVm {
    /// The memslots of address space 0 and the ranges mapped without one, each
    /// by guest-physical address.
    pub fn memslots(&self) -> Vec<SimMemslot> {
        let state = self.state();
        let slots = state.memslots.iter();
        let slots = slots.map(|(id, slot)| SimMemslot::new(Some(id), slot));
        let pushed = state
            .pushed
            .iter()
            .map(|range| SimMemslot::new(None, range));
        slots.chain(pushed).collect()
    }
}
