// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Harvests the dirty ring of the simulated vCPU.

use super::dirty_ring::Flag;
use super::vm::SimVm;
use crate::dirty::vm::{DirtyEntry, DirtyRing};
use crate::vm::errno::Errno;

/// The dirty ring of the simulated vCPU.
#[derive(Debug)]
pub struct SimDirtyRing {
    vm: SimVm,
    next: usize,
}

impl SimVm {
    /// The ring of the guest's vCPU. Call this only once: two harvesters of one ring
    /// miss each other's entries.
    ///
    /// # Errors
    /// ENXIO before [`LoggingVm::enable_dirty_ring`](crate::dirty::LoggingVm).
    pub fn dirty_ring(&self) -> Result<SimDirtyRing, Errno> {
        match self.state().dirty.ring {
            Some(_) => Ok(SimDirtyRing {
                vm: self.clone(),
                next: 0,
            }),
            None => Err(Errno::ENXIO),
        }
    }

    /// Simulates a kernel error: the next `count` entries of the dirty ring are
    /// skipped.
    ///
    /// # Errors
    /// ENXIO before [`LoggingVm::enable_dirty_ring`](crate::dirty::LoggingVm).
    pub fn skip_ring_entries(&self, count: usize) -> Result<(), Errno> {
        let mut state = self.state();
        state.dirty.ring.as_mut().ok_or(Errno::ENXIO)?.skip = count;
        Ok(())
    }
}

impl DirtyRing for SimDirtyRing {
    fn harvest(&mut self) -> Option<DirtyEntry> {
        let mut state = self.vm.state();
        let ring = state.dirty.ring.as_mut()?;
        let at = self.next % ring.entries.len();
        let (flag, entry) = &mut ring.entries[at];
        if *flag != Flag::Dirty {
            return None;
        }
        *flag = Flag::Harvested;
        self.next += 1;
        Some(*entry)
    }

    fn skipped(&self) -> Option<usize> {
        let state = self.vm.state();
        let ring = state.dirty.ring.as_ref()?;
        let next = self.next % ring.entries.len();
        let is_dirty = |(flag, _): &(Flag, DirtyEntry)| *flag == Flag::Dirty;
        let any = ring.entries.iter().any(is_dirty);
        (any && !is_dirty(&ring.entries[next])).then_some(next)
    }
}
