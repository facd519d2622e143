// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Accesses that start in memory which the guest reaches directly, and end in
//! something that exits.

use kvm_slots::{SlotAccess, Vm};

use crate::board::Board;
use crate::machine::{Access, AccessKind};

/// What is reported of an access whose exit does not tell what the guest accessed.
pub(super) const UNKNOWN_BYTES: &str =
    "KVM does not tell on this architecture which of the access's bytes are in memory";

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// Whether the exit of this access would have all of its bytes, at an address
    /// where only the last ones are. If its first page exits, the exit has all of
    /// them at the right address, whatever the second page is.
    pub(super) fn has_unknown_bytes(&self, access: &Access) -> bool {
        let is_direct = |gpa: u64| {
            let slot = self.slots.table().find(gpa).map(|slot| slot.access());
            match access.kind {
                AccessKind::Read(_) => slot.is_some(),
                AccessKind::Write(_) => slot == Some(SlotAccess::ReadWrite),
            }
        };
        let crosses = access.gpa / self.page_size != access.last() / self.page_size;
        !self.splits_accesses && crosses && is_direct(access.gpa) && !is_direct(access.last())
    }
}
