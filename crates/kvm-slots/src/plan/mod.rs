// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans memslot operations: a pure function of the current slots and the
//! memory that the guest needs.
//!
//! # KVM's rules
//!
//! The rules are those of `kvm_set_memory_region` (virt/kvm/kvm_main.c).
//!
//! | KVM | so the planner |
//! | --- | --- |
//! | can change the address of a slot on host memory | moves it with one [`Op::Move`]; nothing is unmapped meanwhile |
//! | can start or stop dirty logging of such a slot | uses one [`Op::SetFlags`] |
//! | cannot change a slot's size, host address or access | deletes and recreates it |
//! | can only delete a slot on a file | deletes and recreates it, whatever changed |
//! | never lets slots overlap, not even for a moment | deletes the slots that are in the way first, and orders moves so that each target is free |
//! | can refuse any operation | creates slots at free addresses before it deletes or moves any, so that a failure takes nothing from the guest |
//! | has no operation that swaps slots | breaks cycles by deleting and recreating as few slots as possible |
//! | allows at most 2^31 - 1 pages in a slot | cuts larger ranges into several slots, always at the same places, so that each can move: [`SlotRules`](crate::SlotRules) |
//! | makes slots of whole pages | cuts ranges to pages and lists the other bytes as [`Plan::trapped`] |
//! | requires guest and host address to agree within a page | refuses other ranges: [`Unsupported::Misaligned`](crate::Unsupported::Misaligned) |
//! | has no read-only or logged slots on a file | refuses such ranges and lists all of them: [`PlanError::Unsupported`] |
//! | limits the number of slots | assigns the lowest free numbers, except reserved ones, and refuses more: [`PlanError::TooManySlots`] |
//! | keeps private pages by guest-physical address, with or without a slot | leaves them alone, or moves them with the memory: [`Change`], [`Op::SetPrivate`] |
//! | has no operation on two slots at once | reports when vCPUs must be held, because the plan or its rollback leaves a gap: [`Plan::holds_vcpus`] |
//! | limits guest-physical addresses, and refuses slots beyond (EINVAL on x86-64, EFAULT on Arm) | refuses such ranges itself, as far as it knows the width: [`PlanError::BeyondAddresses`] |
//!
//! # The order of operations
//!
//! Operations that the kernel could refuse come before those that take memory
//! from a running guest:
//!
//! 1. flags, and new slots at free addresses
//! 2. deletes
//! 3. pages that become shared
//! 4. moves, each to a free address
//! 5. pages that become private
//! 6. the other new slots
//!
//! If the slot of a page is deleted or created, the page changes between private and
//! shared while neither slot exists. Slots that stay or move exist meanwhile.
//!
//! # The length of a plan
//!
//! A slot that stays the same needs no operation. A plan is as short as possible
//! unless the search for it exceeds its budget (some milliseconds); it is then valid
//! but may be longer. The tests compare every change in some small worlds with an
//! exhaustive search.

pub(crate) mod change;
pub(crate) mod cut;
mod early;
pub(crate) mod error;
pub(crate) mod op;
mod order;
pub(crate) mod outcome;
mod pages;
mod pair;
mod supported;

use std::collections::BTreeMap;

pub use error::UnsupportedRange;

use guest_ranges::PageSize;

use crate::abi::AbiProfile;
use crate::range::SlotRange;
use crate::slots::slot::{Slot, SlotId};
use crate::slots::table::SlotTable;
use crate::vm::address_bits::AddressBits;
use crate::vm::caps::Capabilities;
use change::Change;
use cut::Pages;
use early::Creates;
use error::PlanError;
use op::Op;
use outcome::Plan;
use pages::Attributes;
use pair::Pairs;
use supported::{reachable, supported};

/// Plans the change from the slots of `table` to the slots for `ranges`: all
/// memory that the guest reaches directly. No page changes between private and
/// shared.
///
/// # Errors
/// [`PlanError`].
pub fn plan(
    table: &SlotTable,
    ranges: &[SlotRange],
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<Plan, PlanError> {
    let old = table.slots().map(|slot| (slot.gpa(), slot)).collect();
    let new = cut::whole_pages(ranges, capabilities.page_size)?;
    decide(table, old, new, Attributes::default(), capabilities, abi)
}

/// Plans a change of some ranges. The cost depends on the change, with one
/// search for each range, and not on the number of slots.
///
/// # Errors
/// [`PlanError`]. An added range that overlaps a range that stays is refused
/// only if their slots overlap, not if they share a page without a slot.
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
        let mut there = table.intersecting_downwards(range.gpa(), range.last());
        if let Some(stays) = there.find(|slot| !old.contains_key(&slot.gpa())) {
            return Err(cut::overlap(range, &stays.range));
        }
    }
    let attributes = pages::attributes(change.was_private, change.is_private, page)?;
    decide(table, old, added, attributes, capabilities, abi)
}

/// The slots of these ranges, by address.
fn slots_of<'a>(
    table: &'a SlotTable,
    ranges: &[SlotRange],
    page: PageSize,
) -> Result<BTreeMap<u64, &'a Slot>, PlanError> {
    let max = table.rules().max_slot_size(page)?;
    let mut old = BTreeMap::new();
    for range in cut::whole_pages(ranges, page)?.ranges {
        if cut::count(std::slice::from_ref(&range), max) > table.len() {
            return Err(not_there(&range));
        }
        for part in cut::split(vec![range], max) {
            let slot = table.starting_at(part.gpa());
            let slot = slot.filter(|slot| slot.range == part);
            old.insert(part.gpa(), slot.ok_or_else(|| not_there(&part))?);
        }
    }
    Ok(old)
}

fn not_there(range: &SlotRange) -> PlanError {
    PlanError::NotThere {
        gpa: range.gpa(),
        size: range.size(),
    }
}

/// Plans the change from the slots `old` to slots for the added ranges. All other
/// slots of the table stay.
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
        // Pages change before any new slot exists.
        room = 0;
    }

    let Pairs {
        deletes,
        moves,
        flags,
        creates,
    } = pair::pair(old, cut::split(added.ranges, max));
    let hostless = creates.iter().any(|range| range.backing().host().is_none())
        || deletes.iter().any(|slot| slot.backing().host().is_none());
    // The usual plan moves a slot and creates none.
    let [early, late] = match creates.is_empty() {
        true => [Vec::new(), Vec::new()],
        false => {
            let creates = early::split(table, &deletes, creates, room, abi);
            number(table, &deletes, creates)
        }
    };
    let others = attributes.len() + late.len();
    // KVM refuses a move beyond the guest's addresses after it has invalidated the slot.
    let any_address_fits = matches!(capabilities.address_bits, Some(AddressBits::Exact(_)));
    let may_fail = !moves.is_empty() && !any_address_fits;
    let holds_vcpus = early::has_gap(&deletes, &moves, others) || hostless || may_fail;
    let early = early.into_iter().map(Op::Create);
    let deletes = deletes.into_iter().map(Op::Delete);
    let moves = moves.into_iter().map(|(from, to)| Op::Move { from, to });
    let late = late.into_iter().map(Op::Create);
    let mut ops = flags;
    let before_moves = early.chain(deletes).chain(attributes.shared);
    ops.extend(
        before_moves
            .chain(moves)
            .chain(attributes.private)
            .chain(late),
    );
    Ok(Plan {
        ops,
        trapped: added.trapped,
        holds_vcpus,
    })
}

/// Refuses more slots than there are numbers. Returns how many slots can be
/// added to the table now.
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

/// Gives new slots the lowest numbers: early slots get numbers that are free now,
/// late slots get numbers that are free after the deletes.
fn number(table: &SlotTable, deletes: &[Slot], creates: Creates) -> [Vec<Slot>; 2] {
    let Creates { early, late } = creates;
    let mut free = table.free_ids().iter();
    let numbered = early.into_iter().zip(&mut free);
    let early = numbered.map(|(range, id)| Slot { id, range }).collect();
    if late.is_empty() {
        return [early, Vec::new()];
    }
    let mut deleted: Vec<SlotId> = deletes.iter().map(|slot| slot.id).collect();
    deleted.sort_unstable();
    let mut deleted = deleted.into_iter().peekable();
    let mut free = free.peekable();
    let numbered = late.into_iter().map_while(|range| {
        let lower = deleted.next_if(|id| free.peek().is_none_or(|free| id < free));
        let id = lower.or_else(|| free.next())?;
        Some(Slot { id, range })
    });
    [early, numbered.collect()]
}
