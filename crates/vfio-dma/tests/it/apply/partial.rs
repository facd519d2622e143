// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An address space that unmaps some of the mappings that it was asked to, as an iommufd may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use guest_ranges::AddrRange;
use vfio_dma::{
    AddressSpace, DmaAccess, DmaApplied, DmaApplyError, DmaLimits, DmaOp, DmaRange, DmaRefusal,
    DmaTable, Gaps, apply_dma, plan_dma, undo_dma,
};

use crate::support::{PAGE, pages, to_host};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;

/// Unmaps by IOVA up to the first mapping that is stuck, and maps no page that is lost.
#[derive(Debug, Default)]
struct Partial {
    mapped: Mutex<BTreeMap<u64, DmaRange>>,
    stuck: Mutex<BTreeSet<u64>>,
    lost: Mutex<BTreeSet<u64>>,
}

impl Partial {
    fn pages(&self) -> Vec<u64> {
        self.mapped.lock().unwrap().keys().copied().collect()
    }

    fn sticks(&self, pages: &[u64]) {
        *self.stuck.lock().unwrap() = pages.iter().copied().collect();
    }

    fn loses(&self, pages: &[u64]) {
        *self.lost.lock().unwrap() = pages.iter().copied().collect();
    }
}

impl AddressSpace for Partial {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        let page = range.iova().start() / PAGE;
        if self.lost.lock().unwrap().contains(&page) {
            return Err(DmaRefusal::Errno(ENOMEM));
        }
        let before = self.mapped.lock().unwrap().insert(page, range.clone());
        assert_eq!(before, None, "page {page} twice");
        Ok(())
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        let mut mapped = self.mapped.lock().unwrap();
        let inside: Vec<u64> = mapped
            .range(iova.start() / PAGE..=iova.last() / PAGE)
            .map(|(page, _)| *page)
            .collect();
        for page in &inside {
            if self.stuck.lock().unwrap().contains(page) {
                return Err(DmaRefusal::Errno(EIO));
            }
            mapped.remove(page);
        }
        match inside.len() {
            0 => Err(DmaRefusal::Errno(ENOENT)),
            count => Ok(count as u64 * PAGE),
        }
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        Err(DmaRefusal::Errno(EIO))
    }
}

fn page(number: u64) -> DmaRange {
    let iova = pages(number, 1);
    let address = 0x7000_0000 + number * 2 * PAGE;
    to_host(iova, DmaAccess::ReadWrite, address, Arc::new(()))
}

/// Pages 0 to 4, each mapped by itself, and the plan that unmaps all by one call.
fn machine() -> (Partial, DmaTable, Vec<DmaRange>) {
    let (space, mut table) = (Partial::default(), DmaTable::new());
    let pages: Vec<DmaRange> = (0..5).map(page).collect();
    let _ = apply(&space, &mut table, &pages).unwrap();
    assert_eq!(space.pages(), [0, 1, 2, 3, 4]);
    (space, table, pages)
}

fn limits() -> DmaLimits {
    DmaLimits::new(PAGE, [pages(0, 16)], None).unwrap()
}

type Applied = Result<DmaApplied, Box<DmaApplyError>>;

fn apply(space: &Partial, table: &mut DmaTable, wanted: &[DmaRange]) -> Applied {
    let plan = plan_dma(table, wanted, &limits(), Gaps::Refuse).unwrap();
    apply_dma(space, &plan, table)
}

fn in_table(table: &DmaTable) -> Vec<u64> {
    let pages = table.mappings().map(|range| range.iova().start() / PAGE);
    pages.collect()
}

#[test]
fn what_a_refused_unmap_has_unmapped_is_mapped_again() {
    let (space, mut table, pages) = machine();
    space.sticks(&[2]);
    let error = apply(&space, &mut table, &[]).unwrap_err();
    assert_eq!(error.op, DmaOp::Unmap(pages.clone()));
    assert_eq!(error.refusal.errno(), Some(EIO));
    assert!(error.not_undone.is_empty());
    assert_eq!(space.pages(), [0, 1, 2, 3, 4]);
    assert!(table.mappings().eq(&pages));
}

#[test]
fn a_mapping_that_is_unmapped_and_not_restored_is_not_in_the_table() {
    let (space, mut table, pages) = machine();
    space.sticks(&[2]);
    space.loses(&[0, 3]);
    let error = apply(&space, &mut table, &[]).unwrap_err();
    let not_undone: Vec<DmaOp> = error
        .not_undone
        .iter()
        .map(|step| step.op.clone())
        .collect();
    let map = |number: usize| DmaOp::Map(pages[number].clone());
    assert_eq!(not_undone, [map(0), map(3)]);
    assert_eq!(space.pages(), [1, 2, 4]);
    assert_eq!(in_table(&table), [1, 2, 4]);
    // So the next plan maps them, and no page twice.
    space.loses(&[]);
    let applied = apply(&space, &mut table, &pages).unwrap();
    assert_eq!(applied.ops(), [map(0), map(3)]);
    assert_eq!(space.pages(), [0, 1, 2, 3, 4]);
}

#[test]
fn mappings_that_are_unmapped_one_by_one_leave_the_table() {
    let (space, mut table, pages) = machine();
    // Page 2 is stuck for the first call only.
    struct Once<'a>(&'a Partial);
    impl AddressSpace for Once<'_> {
        fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
            self.0.map(range)
        }

        fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
            let unmapped = self.0.unmap(iova);
            self.0.sticks(&[]);
            unmapped
        }

        fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
            self.0.limits()
        }
    }
    space.sticks(&[2]);
    let plan = plan_dma(&table, &[], &limits(), Gaps::Refuse).unwrap();
    let applied = apply_dma(&Once(&space), &plan, &mut table).unwrap();
    assert_eq!(applied.ops(), [DmaOp::Unmap(pages.clone())]);
    assert!(table.is_empty() && space.pages().is_empty());
    assert!(undo_dma(&space, applied, &mut table).is_empty());
    assert!(table.mappings().eq(&pages));
    assert_eq!(space.pages(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_mapping_that_is_not_there_although_it_should_be_is_an_error() {
    let (space, mut table, pages) = machine();
    let _ = apply(&space, &mut table, &pages[..1]).unwrap();
    space.unmap(pages[0].iova()).unwrap();
    let error = apply(&space, &mut table, &[]).unwrap_err();
    assert!(error.refusal.is_not_mapped());
    assert_eq!(in_table(&table), [0]);
}
