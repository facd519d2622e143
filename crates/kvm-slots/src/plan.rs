// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From what a VM has to what it shall have: the memslot operations, decided
//! without touching anything.
//!
//! The rules are those of `kvm_set_memory_region` (virt/kvm/kvm_main.c): a
//! plain slot can move and toggle dirty logging; anything else about a slot,
//! and everything about a slot on a file, needs a new slot. Slots never
//! overlap, not even between two operations of one plan, so deletes come
//! first, moves in an order in which each finds its place free, creates last.

mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::abi::{self, AbiProfile, Unsupported};
use crate::range::{Backing, SlotAccess, SlotRange};
use crate::slot::{Slot, SlotId};
use crate::{Capabilities, SlotTable};

/// One memslot operation. The slot of `Delete` and each `from` are slots as
/// they were, so that an operation can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The slot goes.
    Delete(Slot),
    /// The slot moves to another guest-physical address; logging may change.
    Move {
        /// As it was.
        from: Slot,
        /// As it shall be.
        to: Slot,
    },
    /// Dirty logging starts or stops.
    SetFlags {
        /// As it was.
        from: Slot,
        /// As it shall be.
        to: Slot,
    },
    /// A new slot.
    Create(Slot),
}

impl Op {
    /// The operation that takes this one back.
    pub fn inverse(&self) -> Self {
        match self {
            Self::Delete(slot) => Self::Create(slot.clone()),
            Self::Create(slot) => Self::Delete(slot.clone()),
            Self::Move { from, to } => Self::Move {
                from: to.clone(),
                to: from.clone(),
            },
            Self::SetFlags { from, to } => Self::SetFlags {
                from: to.clone(),
                to: from.clone(),
            },
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete(s) => write!(f, "DELETE slot {} at {:#x}", s.id, s.gpa),
            Self::Move { from, to } => {
                write!(
                    f,
                    "MOVE slot {} from {:#x} to {:#x}",
                    to.id, from.gpa, to.gpa
                )
            }
            Self::SetFlags { to, .. } => {
                let logging = if to.log_dirty { "starts" } else { "stops" };
                write!(
                    f,
                    "FLAGS slot {} at {:#x}: dirty log {logging}",
                    to.id, to.gpa
                )
            }
            Self::Create(s) => write!(
                f,
                "CREATE slot {} at {:#x}, {:#x} bytes",
                s.id, s.gpa, s.size
            ),
        }
    }
}

/// What to do, in order, and what to know about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations.
    pub ops: Vec<Op>,
    /// Bytes that cannot be in a slot because a slot is made of whole pages:
    /// accesses to them exit, and the VMM answers.
    pub trapped: Vec<Remainder>,
    /// Some address that the guest can reach before and after is out of reach
    /// in between: vCPUs must be held while the plan is applied.
    pub holds_vcpus: bool,
}

/// A part of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes.
    pub size: u64,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The kernel has no slots for some of the ranges.
    #[error("{}", list(.0))]
    Unsupported(Vec<UnsupportedRange>),
    /// More slots than the kernel has.
    #[error("{needed} memslots are needed, the kernel has {limit}")]
    TooManySlots {
        /// How many slots there would be.
        needed: usize,
        /// How many there can be (`KVM_CAP_NR_MEMSLOTS`).
        limit: u32,
    },
    /// A range is empty or wraps, or overlaps the one before it.
    #[error("the range of {size:#x} bytes at {gpa:#x} is empty, wraps, or overlaps another")]
    BadRange {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
}

/// A range that the kernel has no slot for, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size:#x} bytes at {gpa:#x}: {why}")]
pub struct UnsupportedRange {
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes.
    pub size: u64,
    /// The reason.
    pub why: Unsupported,
}

fn list(ranges: &[UnsupportedRange]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Plans how the slots of `table` become those that `wanted` needs.
///
/// # Errors
/// [`PlanError`]; nothing was touched.
pub fn plan(
    table: &SlotTable,
    wanted: &[SlotRange],
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<Plan, PlanError> {
    let (mut wanted, trapped) = whole_pages(wanted, capabilities.page_size)?;
    supported(&wanted, capabilities, abi)?;
    // No kernel has more numbers than fit a `SlotId`.
    let limit = capabilities.nr_memslots.min(1 << SlotId::BITS);
    if wanted.len() > limit as usize {
        return Err(PlanError::TooManySlots {
            needed: wanted.len(),
            limit,
        });
    }

    let mut had: BTreeMap<u64, &Slot> = table.slots().map(|slot| (slot.gpa, slot)).collect();
    let flags = match_in_place(&mut had, &mut wanted);
    let moves = match_moved(&mut had, &mut wanted);
    let mut deletes: Vec<Slot> = had.into_values().cloned().collect();
    let ordered = order::order(&moves);
    // Where moves go round in circles, a slot of each circle is deleted and
    // made anew.
    for (from, to) in ordered.broken {
        wanted.push(to.clone().into());
        deletes.push(from);
    }
    let creates = number(table, &deletes, wanted);

    let holds_vcpus = order::has_gap(&deletes, &ordered.moves, &creates);
    let moves = ordered
        .moves
        .into_iter()
        .map(|(from, to)| Op::Move { from, to });
    let ops = deletes
        .into_iter()
        .map(Op::Delete)
        .chain(moves)
        .chain(flags);
    Ok(Plan {
        ops: ops.chain(creates.into_iter().map(Op::Create)).collect(),
        trapped,
        holds_vcpus,
    })
}

/// A slot that has no number yet.
#[derive(Clone, Debug)]
struct Wanted {
    gpa: u64,
    size: u64,
    access: SlotAccess,
    backing: Backing,
    log_dirty: bool,
}

impl Wanted {
    fn numbered(self, id: SlotId) -> Slot {
        Slot {
            id,
            gpa: self.gpa,
            size: self.size,
            access: self.access,
            backing: self.backing,
            log_dirty: self.log_dirty,
        }
    }

    /// Whether `slot` has these bytes with this access, wherever it lies.
    fn is_same_memory(&self, slot: &Slot) -> bool {
        (self.size, self.access) == (slot.size, slot.access) && self.backing == slot.backing
    }
}

impl From<Slot> for Wanted {
    fn from(slot: Slot) -> Self {
        Self {
            gpa: slot.gpa,
            size: slot.size,
            access: slot.access,
            backing: slot.backing,
            log_dirty: slot.log_dirty,
        }
    }
}

/// Cuts ranges to whole pages: starts up, ends down. The rest is trapped.
fn whole_pages(
    ranges: &[SlotRange],
    page: u64,
) -> Result<(Vec<Wanted>, Vec<Remainder>), PlanError> {
    let mut sorted: Vec<&SlotRange> = ranges.iter().collect();
    sorted.sort_by_key(|range| range.gpa);
    let (mut wanted, mut trapped) = (Vec::new(), Vec::new());
    let mut free_from = Some(0);
    for range in sorted {
        let (gpa, size) = (range.gpa, range.size);
        let bad = PlanError::BadRange { gpa, size };
        let last = size.checked_sub(1).and_then(|more| gpa.checked_add(more));
        let last = last.ok_or(bad.clone())?;
        if free_from.is_none_or(|free| gpa < free) {
            return Err(bad);
        }
        free_from = last.checked_add(1);

        // In 128 bits, where the end of the last page does not wrap.
        let (first, end, page) = (u128::from(gpa), u128::from(last) + 1, u128::from(page));
        let (up, down) = (first.next_multiple_of(page), end / page * page);
        let narrow = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        let mut trap = |from: u128, to: u128| {
            if from < to {
                trapped.push(Remainder {
                    gpa: narrow(from),
                    size: narrow(to - from),
                });
            }
        };
        if up >= down {
            trap(first, end);
            continue;
        }
        trap(first, up);
        trap(down, end);
        wanted.push(Wanted {
            gpa: narrow(up),
            size: narrow(down - up),
            access: range.access,
            backing: range.backing.advanced(narrow(up - first)).ok_or(bad)?,
            log_dirty: range.log_dirty,
        });
    }
    Ok((wanted, trapped))
}

/// Refuses what this kernel has no slot for: all of it, not just the first.
fn supported(
    wanted: &[Wanted],
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<(), PlanError> {
    let refused = wanted.iter().filter_map(|w| {
        let why = abi::check(w.size, w.access, w.log_dirty, &w.backing, capabilities, abi).err()?;
        Some(UnsupportedRange {
            gpa: w.gpa,
            size: w.size,
            why,
        })
    });
    let refused: Vec<_> = refused.collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(PlanError::Unsupported(refused)),
    }
}

/// Pairs what stays where it is; returns what only changes its logging.
fn match_in_place(had: &mut BTreeMap<u64, &Slot>, wanted: &mut Vec<Wanted>) -> Vec<Op> {
    let mut flags = Vec::new();
    wanted.retain(|want| {
        let Some(&slot) = had.get(&want.gpa) else {
            return true;
        };
        let same_flags = slot.log_dirty == want.log_dirty;
        if !want.is_same_memory(slot) || !(same_flags || slot.is_mutable()) {
            return true;
        }
        had.remove(&want.gpa);
        if !same_flags {
            flags.push(Op::SetFlags {
                from: slot.clone(),
                to: want.clone().numbered(slot.id),
            });
        }
        false
    });
    flags
}

/// Pairs the same memory at different addresses, where KVM can move it.
fn match_moved(had: &mut BTreeMap<u64, &Slot>, wanted: &mut Vec<Wanted>) -> Vec<(Slot, Slot)> {
    let mut by_memory: BTreeMap<(u64, u64, SlotAccess), Vec<u64>> = BTreeMap::new();
    for slot in had.values() {
        if let Backing::Host(host) = &slot.backing {
            let key = (host.address(), slot.size, slot.access);
            by_memory.entry(key).or_default().push(slot.gpa);
        }
    }
    let mut moves = Vec::new();
    wanted.retain(|want| {
        let Backing::Host(host) = &want.backing else {
            return true;
        };
        let key = (host.address(), want.size, want.access);
        let from = by_memory.get_mut(&key).and_then(Vec::pop);
        let Some(slot) = from.and_then(|gpa| had.remove(&gpa)) else {
            return true;
        };
        moves.push((slot.clone(), want.clone().numbered(slot.id)));
        false
    });
    moves
}

/// Gives new slots the lowest numbers that are free after the deletes.
fn number(table: &SlotTable, deletes: &[Slot], mut wanted: Vec<Wanted>) -> Vec<Slot> {
    let gone: BTreeSet<SlotId> = deletes.iter().map(|slot| slot.id).collect();
    wanted.sort_by_key(|w| w.gpa);
    let numbered = wanted.into_iter().zip(table.free_ids(&gone));
    numbered.map(|(w, id)| w.numbered(id)).collect()
}
