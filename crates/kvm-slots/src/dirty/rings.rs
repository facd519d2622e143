// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty rings of a VM's vCPUs: harvested and reset together.

use super::error::DirtyError;
use super::vm::{DirtyEntry, DirtyRing, LoggingVm, RingId};
use crate::errno::Errno;

/// How often the kernel is asked to reset rings without making progress. A
/// signal interrupts the ioctl without an error; the next call continues.
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
    /// How many entries were harvested and not reset yet.
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

    /// All entries that can be harvested, and the first that is missing.
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

    /// Has the kernel reset the harvested entries; returns how many it did not
    /// reset.
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
