// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Acceptance: before it, the guest reaches nothing; after it, nothing changes.

use kvm_slots::exit::MEMORY_EXIT_FLAG_PRIVATE;
use kvm_slots::sim::VmType;
use memory_model::{CommitError, Region, RegionId, Transaction, TreeError};

use super::machine::{A, B, Memory, Seen, machine, private_region};
use super::{at, dma_buf, open, same};
use crate::subject::host_page_size;
use crate::vfio::Model;
use crate::vfio::registers::EDU_ID;

/// The guest's first access exits and requests a private page. The VMM accepts
/// it through the engine, and the same access succeeds.
pub(super) fn a_fault_asks_for_it() -> Result<(), String> {
    let device = open(Model::Edu)?;
    let (bar, file) = dma_buf(&device, 0)?;
    let (mut guest, mut memory) = machine(VmType::SwProtected)?;
    memory.show_private(&file, 0, bar.bar.size(), A)?;
    let page = host_page_size();
    for (gpa, value) in [(A, None), (A + page, Some(5))] {
        let fault = guest.access(gpa + 4, value)?;
        same(
            "unaccepted",
            fault,
            Seen::Fault(MEMORY_EXIT_FLAG_PRIVATE, gpa),
        )?;
        same("once more", guest.access(gpa + 4, value)?, fault)?;
        same(
            "bytes",
            memory.resolve(MEMORY_EXIT_FLAG_PRIVATE, gpa)?,
            page,
        )?;
        guest.load(gpa + 4)?;
    }
    same("identification", guest.load(A)?, EDU_ID)?;
    let accepted: Vec<_> = memory.model.accepted(memory.space).iter().collect();
    same("accepted ranges", accepted.len(), 1)?;
    same("accepted", accepted[0].start(), A)?;
    same("accepted", accepted[0].last(), A + 2 * page - 1)?;
    let beside = guest.access(A + 2 * page, None)?;
    let fault = Seen::Fault(MEMORY_EXIT_FLAG_PRIVATE, A + 2 * page);
    same("beside", beside, fault)?;
    same("exits", guest.exits.count, 0)
}

type Change = fn(&mut Transaction<'_, ()>, RegionId) -> Result<(), TreeError>;

/// Changes that would take accepted registers away from the guest.
const CHANGES: [(&str, Change); 3] = [
    ("a move", |change, bar| change.move_to(bar, B)),
    ("hiding", |change, bar| change.set_enabled(bar, false)),
    ("removal", |change, bar| change.unplace(bar)),
];

/// Each change is refused. The guest sees the same registers, through the same
/// slots.
pub(super) fn it_is_fixed(vm_type: VmType) -> Result<(), String> {
    let device = open(Model::Edu)?;
    let (bar, file) = dma_buf(&device, 0)?;
    let size = bar.bar.size();
    let (mut guest, mut memory) = machine(vm_type)?;
    let region = memory.show_private(&file, 0, size, A)?;
    memory.accept(A, size)?;
    same("identification", guest.load(A)?, EDU_ID)?;
    let slots = memory.slots.table();

    for (what, change) in CHANGES {
        refused(what, memory.change(|t| change(t, region)))?;
    }
    let (root, page) = (memory.root(), host_page_size());
    // Cover the last page with other bytes of the same file, and with a hole.
    let other = private_region(&file, 0, page)?;
    refused("other bytes", cover(&mut memory, other, A + size - page))?;
    let hole = Region::reservation("hole", page.into());
    refused("a hole", cover(&mut memory, hole, A + size - page))?;
    let aside = memory.change(|t| {
        let hole = t.add(Region::reservation("aside", page.into()))?;
        t.place(hole, root, A + size, 0)
    });
    aside.map_err(at("a change beside it"))?;

    same("the slots", memory.slots.table(), slots)?;
    same("identification", guest.load(A)?, EDU_ID)?;
    same("exits", guest.exits.count, 0)?;
    // Only the guest or the device ends the acceptance.
    same("revoked", memory.revoke(A, size)?, size)?;
    memory
        .change(|t| t.move_to(region, B))
        .map_err(at("a move"))?;
    memory.accept(B, size)?;
    same("identification", guest.load(B)?, EDU_ID)
}

fn cover(memory: &mut Memory, region: Region<()>, gpa: u64) -> Result<(), CommitError> {
    let root = memory.root();
    memory.change(|t| {
        let id = t.add(region)?;
        t.place(id, root, gpa, 1)
    })
}

fn refused(what: &str, changed: Result<(), CommitError>) -> Result<(), String> {
    match changed {
        Err(CommitError::Accepted { .. }) => Ok(()),
        other => Err(format!("{what} of what was accepted: {other:?}")),
    }
}
