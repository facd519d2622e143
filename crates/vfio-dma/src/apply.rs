// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Carries plans out on an address space, and undoes them.

use core::fmt;
use core::slice;
use std::collections::BTreeSet;
use std::sync::Arc;

use guest_ranges::AddrRange;
use thiserror::Error;

use crate::limits::DmaLimits;
use crate::plan::{DmaOp, DmaPlan};
use crate::range::DmaRange;
use crate::refusal::DmaRefusal;
use crate::table::DmaTable;

/// An address space of devices: a VFIO container, an iommufd's IOAS, or a simulated one.
///
/// Its mappings lead only to memory that a [`DmaRange`] vouches for. So safe code may call
/// [`map`](Self::map) with any range, and an implementation needs no promise from its caller.
pub trait AddressSpace {
    /// Makes one mapping. The address space holds the owner of its memory until it is unmapped.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`]; nothing is mapped then.
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal>;

    /// Unmaps all mappings in a range and returns the number of unmapped bytes. After it returns, no
    /// device reaches them.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`]. Of several mappings, some may be unmapped then. A single one is still mapped,
    /// unless the refusal says that [it was not](DmaRefusal::is_not_mapped).
    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal>;

    /// What can be mapped now.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`].
    fn limits(&self) -> Result<DmaLimits, DmaRefusal>;
}

impl<S: AddressSpace + ?Sized> AddressSpace for Arc<S> {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        (**self).map(range)
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        (**self).unmap(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        (**self).limits()
    }
}

/// The operations that were carried out. [`undo_dma`] undoes them.
#[derive(Debug, Default)]
#[must_use]
pub struct DmaApplied {
    done: Vec<DmaOp>,
}

impl DmaApplied {
    /// The operations, in order.
    pub fn ops(&self) -> &[DmaOp] {
        &self.done
    }
}

/// An operation that could not be undone. Its effect remains.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DmaNotUndone {
    /// The inverse operation, which failed.
    pub op: DmaOp,
    /// Why it failed.
    pub refusal: DmaRefusal,
}

impl fmt::Display for DmaNotUndone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.op, self.refusal)
    }
}

/// An operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{op}: {refusal}")]
#[non_exhaustive]
pub struct DmaApplyError {
    /// The operation.
    pub op: DmaOp,
    /// Why.
    pub refusal: DmaRefusal,
    /// The earlier operations that could not be undone. If empty, everything is as before.
    pub not_undone: Vec<DmaNotUndone>,
}

/// Carries a plan out. If an operation is refused, the earlier ones are undone. The table follows one
/// mapping at a time, so it is right in either case.
///
/// # Errors
///
/// [`DmaApplyError`].
///
/// # Panics
///
/// If `space` does. Earlier operations stay done and are in the table. The mappings of the operation
/// that panicked are [uncertain](DmaTable::uncertain) in the table; a plan that
/// [`plan_dma`](crate::plan_dma) makes from it settles them.
pub fn apply_dma(
    space: &impl AddressSpace,
    plan: &DmaPlan,
    table: &mut DmaTable,
) -> Result<DmaApplied, Box<DmaApplyError>> {
    let mut applied = DmaApplied::default();
    for op in &plan.ops {
        let (done, refused) = step(space, op, table);
        applied.done.extend(done);
        if let Err(refusal) = refused {
            return Err(Box::new(DmaApplyError {
                op: op.clone(),
                refusal,
                not_undone: undo_dma(space, applied, table),
            }));
        }
    }
    Ok(applied)
}

/// Undoes what was carried out, the latest operation first. Returns what could not be undone, and
/// undoes the rest nevertheless.
///
/// # Panics
///
/// As [`apply_dma`] does.
#[must_use = "what could not be undone is still in effect"]
pub fn undo_dma(
    space: &impl AddressSpace,
    applied: DmaApplied,
    table: &mut DmaTable,
) -> Vec<DmaNotUndone> {
    let mut not_undone = Vec::new();
    let inverse = applied.done.into_iter().rev().flat_map(|op| match op {
        DmaOp::Map(range) => vec![DmaOp::Unmap(vec![range])],
        DmaOp::Unmap(ranges) => ranges.into_iter().map(DmaOp::Map).collect(),
    });
    for op in inverse {
        if let (_, Err(refusal)) = step(space, &op, table) {
            not_undone.push(DmaNotUndone { op, refusal });
        }
    }
    not_undone
}

/// The part of an operation that was carried out, and the result.
fn step(
    space: &impl AddressSpace,
    op: &DmaOp,
    table: &mut DmaTable,
) -> (Option<DmaOp>, Result<(), DmaRefusal>) {
    match op {
        DmaOp::Map(range) => {
            let under_way = UnderWay::new(table, slice::from_ref(range));
            let mapped = space.map(range);
            under_way.ends();
            if mapped.is_ok() {
                table.insert(range.clone());
            }
            (mapped.is_ok().then(|| op.clone()), mapped)
        }
        DmaOp::Unmap(ranges) => {
            let uncertain = ranges.iter().filter(|range| table.is_uncertain(range));
            let uncertain: BTreeSet<AddrRange> = uncertain.map(DmaRange::iova).collect();
            let under_way = UnderWay::new(table, ranges);
            let (mut gone, result) = unmap(space, op, ranges, !uncertain.is_empty());
            for range in &gone {
                under_way.table.remove(range.iova());
            }
            under_way.ends();
            // An undo does not map what may not have been mapped.
            gone.retain(|range| !uncertain.contains(&range.iova()));
            ((!gone.is_empty()).then_some(DmaOp::Unmap(gone)), result)
        }
    }
}

/// A call on the address space. If it panics, its mappings are uncertain.
struct UnderWay<'a> {
    table: &'a mut DmaTable,
    ranges: &'a [DmaRange],
}

impl<'a> UnderWay<'a> {
    fn new(table: &'a mut DmaTable, ranges: &'a [DmaRange]) -> Self {
        Self { table, ranges }
    }

    fn ends(mut self) {
        self.ranges = &[];
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        for range in self.ranges {
            // No kernel makes a mapping that overlaps another one.
            if !self.table.overlaps_another(range) {
                self.table.insert_uncertain(range.clone());
            }
        }
    }
}

/// The mappings that were unmapped, and the result. An iommufd that refuses to unmap several mappings
/// has unmapped those before the one that failed (`iopt_unmap_iova_range` in
/// drivers/iommu/iommufd/io_pagetable.c), so the mappings are then unmapped one by one.
fn unmap(
    space: &impl AddressSpace,
    op: &DmaOp,
    ranges: &[DmaRange],
    any_uncertain: bool,
) -> (Vec<DmaRange>, Result<(), DmaRefusal>) {
    let Some(iova) = op.iova() else {
        return (Vec::new(), Ok(()));
    };
    let first = match space.unmap(iova) {
        Ok(_) => return (ranges.to_vec(), Ok(())),
        Err(refusal) => refusal,
    };
    if let [range] = ranges {
        return match any_uncertain && first.is_not_mapped() {
            true => (vec![range.clone()], Ok(())),
            false => (Vec::new(), Err(first)),
        };
    }
    let (gone, left): (Vec<DmaRange>, Vec<DmaRange>) =
        ranges
            .iter()
            .cloned()
            .partition(|range| match space.unmap(range.iova()) {
                Ok(_) => true,
                Err(refusal) => refusal.is_not_mapped(),
            });
    match left.is_empty() {
        true => (gone, Ok(())),
        false => (gone, Err(first)),
    }
}
