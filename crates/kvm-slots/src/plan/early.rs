// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which new slots can be created before anything is taken from the guest, and
//! whether the guest could see a gap in the rest of a plan.

use super::cut::NewSlot;
use crate::abi::AbiProfile;
use crate::range::Backing;
use crate::slot::Slot;
use crate::table::SlotTable;

/// New slots, by when they can be created.
#[derive(Debug, Default)]
pub(super) struct Creates {
    /// Before any slot is deleted or moved.
    pub(super) early: Vec<NewSlot>,
    /// Only afterwards: another slot has the place, the file or the number.
    pub(super) late: Vec<NewSlot>,
}

/// Sorts `creates` by address and by when they can be created. `room` more slots
/// fit in the table before any is deleted.
pub(super) fn split(
    table: &SlotTable,
    deletes: &[Slot],
    mut creates: Vec<NewSlot>,
    room: usize,
    abi: AbiProfile,
) -> Creates {
    creates.sort_by_key(|want| want.gpa);
    let mut split = Creates::default();
    for want in creates {
        let fits = split.early.len() < room
            && table
                .intersecting_downwards(want.gpa, want.last())
                .next()
                .is_none()
            && !is_bound(&want.backing, deletes, abi);
        match fits {
            true => split.early.push(want),
            false => split.late.push(want),
        }
    }
    split
}

/// Whether a slot that is to be deleted may keep the kernel from a new one on
/// the same bytes of a file. Descriptors do not tell which files are the same.
fn is_bound(backing: &Backing, deletes: &[Slot], abi: AbiProfile) -> bool {
    let any = |kind: fn(&Backing) -> bool| deletes.iter().any(|slot| kind(&slot.backing));
    match backing {
        Backing::Host(_) => false,
        // `kvm_gmem_bind` (virt/kvm/guest_memfd.c).
        Backing::GuestMemfd { .. } => any(|other| matches!(other, Backing::GuestMemfd { .. })),
        // With this profile, the same bytes may be in several slots.
        Backing::FdOffset(_) if matches!(abi, AbiProfile::FdOffset { .. }) => false,
        Backing::FdOffset(_) => any(|other| matches!(other, Backing::FdOffset(_))),
    }
}

/// Whether a running guest could miss memory that it has before: while the plan
/// is applied, or while it is rolled back because a later operation failed.
///
/// `deletes` and `moves` take addresses from the guest; `others` operations
/// follow the first of them. A single one that nothing follows either happens
/// or does not.
pub(super) fn has_gap(deletes: &[Slot], moves: &[(Slot, Slot)], others: usize) -> bool {
    match (deletes, moves) {
        ([], []) => false,
        ([], [(from, to)]) if others == 0 => overlap(from, to),
        ([_], []) if others == 0 => false,
        _ => true,
    }
}

/// Whether a slot moves by less than its size. KVM invalidates it during the
/// move (`kvm_invalidate_memslot`). Not every host then lets the guest retry an
/// access to it: some emulate the access, and it exits as MMIO.
fn overlap(from: &Slot, to: &Slot) -> bool {
    from.gpa <= to.last() && to.gpa <= from.last()
}
