// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Harvests and resets the dirty rings of a VM's vCPUs.

use super::error::DirtyError;
use super::vm::{DirtyEntry, DirtyRing, LoggingVm, RingId};
use crate::vm::errno::Errno;

/// The maximum number of resets without progress. A signal interrupts the ioctl
/// without an error; the next call continues.
const FRUITLESS_RESETS: usize = 16;

#[derive(Debug)]
struct Ring {
    ring: Box<dyn DirtyRing>,
    /// Whether entries were harvested since [`Rings::was_harvested`].
    harvested: bool,
}

/// All rings, by number.
#[derive(Debug, Default)]
pub(super) struct Rings {
    rings: Vec<Ring>,
    /// The number of harvested entries that are not reset yet.
    unreset: u64,
}

impl Rings {
    pub(super) fn add(&mut self, ring: Box<dyn DirtyRing>) -> RingId {
        let harvested = false;
        self.rings.push(Ring { ring, harvested });
        RingId(self.rings.len() - 1)
    }

    /// Whether entries of the ring were harvested since the last call.
    pub(super) fn was_harvested(&mut self, ring: RingId) -> bool {
        let ring = self.rings.get_mut(ring.0);
        ring.is_some_and(|ring| std::mem::take(&mut ring.harvested))
    }

    /// Harvests all entries. Also returns the first missing entry.
    pub(super) fn harvest(&mut self) -> (Vec<DirtyEntry>, Option<DirtyError>) {
        // Bounded by the size of the rings: only the reset frees entries.
        let (mut entries, mut skipped) = (Vec::new(), None);
        for (number, Ring { ring, harvested }) in self.rings.iter_mut().enumerate() {
            while let Some(entry) = ring.harvest() {
                entries.push(entry);
                self.unreset += 1;
                *harvested = true;
            }
            skipped = skipped.or(ring.skipped().map(|position| DirtyError::Skipped {
                ring: RingId(number),
                position,
            }));
        }
        (entries, skipped)
    }

    /// Resets the harvested entries. Returns the number of entries that the kernel did
    /// not reset.
    pub(super) fn reset(&mut self, vm: &impl LoggingVm) -> Result<u64, Errno> {
        let mut fruitless = 0;
        loop {
            let reset = vm.reset_dirty_rings()?;
            self.unreset = self.unreset.saturating_sub(reset.into());
            fruitless = if reset == 0 { fruitless + 1 } else { 0 };
            if self.unreset == 0 || fruitless == FRUITLESS_RESETS {
                return Ok(self.unreset);
            }
        }
    }
}
