// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds the new slots that can be created before the plan takes memory from the
//! guest, and checks whether the rest of the plan leaves a gap.

use crate::abi::AbiProfile;
use crate::range::{SlotBacking, SlotRange};
use crate::slots::slot::Slot;
use crate::slots::table::SlotTable;

/// New slots, by the time at which they can be created.
#[derive(Debug, Default)]
pub(super) struct Creates {
    /// Before any slot is deleted or moved.
    pub(super) early: Vec<SlotRange>,
    /// Afterwards: another slot occupies the addresses, the file or the number.
    pub(super) late: Vec<SlotRange>,
}

/// Splits `creates` by the time at which they can be created, and sorts them by
/// address. `room` more slots fit into the table before any is deleted.
pub(super) fn split(
    table: &SlotTable,
    deletes: &[Slot],
    mut creates: Vec<SlotRange>,
    room: usize,
    abi: AbiProfile,
) -> Creates {
    creates.sort_by_key(|range| range.gpa());
    let mut split = Creates::default();
    for range in creates {
        let fits = split.early.len() < room
            && table
                .intersecting_downwards(range.gpa(), range.last())
                .next()
                .is_none()
            && !is_bound(range.backing(), deletes, abi);
        match fits {
            true => split.early.push(range),
            false => split.late.push(range),
        }
    }
    split
}

/// Whether one of the slots in `deletes` could prevent a new slot on the same
/// bytes of a file. Different descriptors can refer to the same file.
fn is_bound(backing: &SlotBacking, deletes: &[Slot], abi: AbiProfile) -> bool {
    let any = |kind: fn(&SlotBacking) -> bool| deletes.iter().any(|slot| kind(slot.backing()));
    match backing {
        SlotBacking::Host(_) => false,
        // `kvm_gmem_bind` (virt/kvm/guest_memfd.c).
        SlotBacking::GuestMemfd { .. } => {
            any(|other| matches!(other, SlotBacking::GuestMemfd { .. }))
        }
        // With this profile, several slots can have the same bytes.
        SlotBacking::FdOffset(_) if matches!(abi, AbiProfile::FdOffset { .. }) => false,
        SlotBacking::FdOffset(_) => any(|other| matches!(other, SlotBacking::FdOffset(_))),
    }
}

/// Whether a running guest could lose memory for a time: while the plan is
/// applied, or while it is rolled back because a later operation failed.
///
/// `deletes` and `moves` take addresses from the guest; `others` operations
/// follow. A single operation that nothing follows leaves no gap: it succeeds or
/// fails as a whole.
pub(super) fn has_gap(deletes: &[Slot], moves: &[(Slot, Slot)], others: usize) -> bool {
    match (deletes, moves) {
        ([], []) => false,
        ([], [(from, to)]) if others == 0 => overlap(from, to),
        ([_], []) if others == 0 => false,
        _ => true,
    }
}

/// Whether a slot moves by less than its size. KVM invalidates the slot during the
/// move (`kvm_invalidate_memslot`). Some hosts emulate an access to it instead of
/// letting the guest retry, and the access exits as MMIO.
fn overlap(from: &Slot, to: &Slot) -> bool {
    from.gpa() <= to.last() && to.gpa() <= from.last()
}
