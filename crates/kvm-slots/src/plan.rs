// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From what a VM has to what it shall have: the memslot operations, decided
//! without touching anything.
//!
//! The rules are those of `kvm_set_memory_region` (virt/kvm/kvm_main.c): a
//! plain slot can move and toggle dirty logging; anything else about a slot,
//! and everything about a slot on a file, needs a new slot. Slots never
//! overlap, not even between two operations of one plan.
//!
//! Operations that the kernel could refuse come before those that take memory
//! from a running guest. Flags and the slots whose place is free come first,
//! then deletes, then moves in an order in which each finds its place free, and
//! then the other new slots. A page changes between private and shared while
//! neither an old nor a new slot is there.

pub(crate) mod change;
pub(crate) mod cut;
mod early;
pub(crate) mod error;
pub(crate) mod op;
mod order;
pub(crate) mod outcome;
mod pages;
mod pair;

use std::collections::BTreeMap;

pub use error::UnsupportedRange;

use crate::abi::AbiProfile;
use crate::caps::Capabilities;
use crate::range::SlotRange;
use crate::slot::{Slot, SlotId};
use crate::table::SlotTable;
use change::Change;
use cut::{NewSlot, Pages};
use early::Creates;
use error::PlanError;
use op::Op;
use outcome::Plan;
use pages::Attributes;
use pair::Pairs;

/// Plans how the slots of `table` become those that `wanted` needs: all that
/// the guest is to reach directly. No page changes between private and shared.
///
/// # Errors
/// [`PlanError`]; nothing was touched.
pub fn plan(
    table: &SlotTable,
    wanted: &[SlotRange],
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<Plan, PlanError> {
    let old = table.slots().map(|slot| (slot.gpa, slot)).collect();
    let wanted = cut::whole_pages(wanted, capabilities.page_size)?;
    decide(table, old, wanted, Attributes::default(), capabilities, abi)
}

/// Plans a change of some ranges. It costs what changes, with a search in the
/// table for each range, however many slots there are.
///
/// # Errors
/// [`PlanError`]; nothing was touched. That added ranges overlap ones
/// that stay is found where slots would overlap, and not within a page that
/// belongs to no slot.
pub fn plan_change(
    table: &SlotTable,
    change: &Change<'_>,
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<Plan, PlanError> {
    let page = capabilities.page_size;
    let old = slots_of(table, change.removed, page)?;
    let added = cut::whole_pages(change.added, page)?;
    for range in &added.ranges {
        let mut there = table.intersecting_downwards(range.gpa, range.last());
        if let Some(stays) = there.find(|slot| !old.contains_key(&slot.gpa)) {
            let (gpa, size) = (range.gpa, range.size);
            return Err(cut::overlap(gpa, size, stays.gpa, stays.size));
        }
    }
    let attributes = pages::attributes(change.was_private, change.is_private, page)?;
    decide(table, old, added, attributes, capabilities, abi)
}

/// The slots that these ranges have, by address.
fn slots_of<'a>(
    table: &'a SlotTable,
    ranges: &[SlotRange],
    page: u64,
) -> Result<BTreeMap<u64, &'a Slot>, PlanError> {
    let max = table.rules().max_slot_size(page)?;
    let mut old = BTreeMap::new();
    for range in cut::whole_pages(ranges, page)?.ranges {
        if cut::count(std::slice::from_ref(&range), max) > table.len() {
            return Err(not_there(&range));
        }
        for want in cut::split(vec![range], max) {
            let is_it =
                |slot: &&Slot| want.is_same_memory(slot) && want.log_dirty == slot.log_dirty;
            let slot = table.starting_at(want.gpa).filter(is_it);
            old.insert(want.gpa, slot.ok_or_else(|| not_there(&want))?);
        }
    }
    Ok(old)
}

fn not_there(range: &NewSlot) -> PlanError {
    PlanError::NotThere {
        gpa: range.gpa,
        size: range.size,
    }
}

/// Decides how the slots `old` become those of the added ranges, and which slot
/// becomes which. All other slots of the table stay.
fn decide(
    table: &SlotTable,
    old: BTreeMap<u64, &Slot>,
    added: Pages,
    attributes: Attributes,
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<Plan, PlanError> {
    reachable(&added.ranges, capabilities)?;
    supported(&added.ranges, &attributes, capabilities, abi)?;
    let max = table.rules().max_slot_size(capabilities.page_size)?;
    let needed = (table.len() - old.len()).saturating_add(cut::count(&added.ranges, max));
    let mut room = enough(table, needed, capabilities)?;
    if !attributes.is_empty() {
        // Pages change before a new slot is there.
        room = 0;
    }

    let Pairs {
        deletes,
        moves,
        flags,
        creates,
    } = pair::pair(old, cut::split(added.ranges, max));
    let hostless = creates.iter().any(|want| want.backing.host().is_none())
        || deletes.iter().any(|slot| slot.backing.host().is_none());
    let count = deletes.len() + attributes.len() + moves.len() + creates.len();
    // The usual plan moves a slot and adds none.
    let [early, late] = match creates.is_empty() {
        true => [Vec::new(), Vec::new()],
        false => {
            let creates = early::split(table, &deletes, creates, room, abi);
            number(table, &deletes, creates)
        }
    };
    let others = attributes.len() + late.len();
    let may_fail = !moves.is_empty() && capabilities.address_bits.is_none();
    let holds_vcpus = early::has_gap(&deletes, &moves, others) || hostless || may_fail;
    let mut ops = flags;
    ops.reserve_exact(count);
    ops.extend(early.into_iter().map(Op::Create));
    ops.extend(deletes.into_iter().map(Op::Delete));
    ops.extend(attributes.shared);
    for (from, to) in moves {
        ops.push(Op::Move { from, to });
    }
    ops.extend(attributes.private);
    ops.extend(late.into_iter().map(Op::Create));
    Ok(Plan {
        ops,
        trapped: added.trapped,
        holds_vcpus,
    })
}

/// Refuses ranges that the guest has no addresses for.
fn reachable(wanted: &[NewSlot], capabilities: &Capabilities) -> Result<(), PlanError> {
    let Some(bits) = capabilities.address_bits else {
        return Ok(());
    };
    let beyond = |want: &&NewSlot| want.last().checked_shr(bits).is_some_and(|high| high != 0);
    match wanted.iter().find(beyond) {
        None => Ok(()),
        Some(want) => Err(PlanError::BeyondAddresses {
            gpa: want.gpa,
            size: want.size,
            bits,
        }),
    }
}

/// Refuses what this kernel has no slot for: all of it, not just the first.
fn supported(
    wanted: &[NewSlot],
    attributes: &Attributes,
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<(), PlanError> {
    let refused = wanted.iter().filter_map(|w| {
        let why = w.check(capabilities, abi).err()?;
        Some(UnsupportedRange {
            gpa: w.gpa,
            size: w.size,
            why,
        })
    });
    let refused: Vec<_> = refused
        .chain(attributes.unsupported(capabilities))
        .collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(PlanError::Unsupported(refused)),
    }
}

/// Refuses more slots than there are numbers for; returns how many more slots
/// there can be than now.
fn enough(
    table: &SlotTable,
    needed: usize,
    capabilities: &Capabilities,
) -> Result<usize, PlanError> {
    // No kernel has more numbers than fit a `SlotId`.
    let limit = capabilities.nr_memslots.min(1 << SlotId::BITS);
    let reserved = table.rules().reserved_below(limit);
    let most = (limit - reserved) as usize;
    match needed <= most {
        true => Ok(most.saturating_sub(table.len())),
        false => Err(PlanError::TooManySlots {
            needed,
            limit,
            reserved,
        }),
    }
}

/// Gives new slots the lowest numbers: early ones those that are free now, late
/// ones those that are free after the deletes.
fn number(table: &SlotTable, deletes: &[Slot], creates: Creates) -> [Vec<Slot>; 2] {
    let Creates { early, late } = creates;
    let mut free = table.free_ids().iter();
    let numbered = early.into_iter().zip(&mut free);
    let early = numbered.map(|(want, id)| want.numbered(id)).collect();
    if late.is_empty() {
        return [early, Vec::new()];
    }
    let mut deleted: Vec<SlotId> = deletes.iter().map(|slot| slot.id).collect();
    deleted.sort_unstable();
    let mut deleted = deleted.into_iter().peekable();
    let mut free = free.peekable();
    let numbered = late.into_iter().map_while(|want| {
        let lower = deleted.next_if(|id| free.peek().is_none_or(|free| id < free));
        Some(want.numbered(lower.or_else(|| free.next())?))
    });
    [early, numbered.collect()]
}
