// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An address space that panics, before or after any of its operations.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use proptest::prelude::*;
use vfio_dma::{
    DmaAccess, DmaChange, DmaLimits, DmaPlan, DmaRange, DmaTable, Gaps, apply_dma, plan_dma,
    plan_dma_change, undo_dma,
};

use crate::support::picture::{Callable, OWNERS, PAGES};
use crate::support::{PAGE, When, pages, to_host};

fn limits() -> DmaLimits {
    DmaLimits::new(PAGE, [pages(0, PAGES)], None).unwrap()
}

/// Pages of an owner's memory, in mappings of so many.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    start: u64,
    pages: u64,
    owner: usize,
    unit: u64,
}

impl Drawn {
    fn range(self) -> DmaRange {
        let iova = pages(self.start, self.pages);
        let owner = OWNERS.with(|owners| owners[self.owner].clone());
        let address = 0x7000_0000 + iova.start();
        let range = to_host(iova, DmaAccess::ReadWrite, address, owner);
        range.in_units_of(self.unit * PAGE).unwrap()
    }
}

/// Target ranges that do not overlap.
fn wanted() -> impl Strategy<Value = Vec<Drawn>> {
    let unit = prop_oneof![Just(1_u64), Just(4), Just(32)];
    let one = (0..4_u64, 1..7_u64, 0..2_usize, unit);
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let mut next = 0;
        let drawn = all.into_iter().map(|(skip, pages, owner, unit)| {
            let start = next + skip;
            next = start + pages;
            Drawn {
                start,
                pages,
                owner,
                unit,
            }
        });
        drawn.filter(|one| one.start + one.pages <= PAGES).collect()
    })
}

fn ranges(drawn: &[Drawn]) -> Vec<DmaRange> {
    drawn.iter().map(|one| one.range()).collect()
}

/// Whose memory each page leads to.
fn picture(drawn: &[Drawn]) -> Vec<Option<(u64, bool, *const ())>> {
    let kernel = Callable::default();
    let plan = plan_dma(&DmaTable::new(), &ranges(drawn), &limits(), Gaps::Refuse).unwrap();
    let _ = apply_dma(&kernel, &plan, &mut DmaTable::new()).unwrap();
    kernel.picture()
}

fn plan(table: &DmaTable, drawn: &[Drawn]) -> DmaPlan {
    plan_dma(table, &ranges(drawn), &limits(), Gaps::Allow).unwrap()
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![Just(When::Before), Just(When::After)]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_panic_leaves_mappings_that_are_known_and_that_the_next_plan_settles(
        steps in prop::collection::vec(
            (wanted(), 0..12_usize, 0..12_usize, 0..12_usize, when()),
            1..8,
        ),
        is_strict in any::<bool>(),
    ) {
        let (kernel, mut table) = (Callable::with_strict_unmap(is_strict), DmaTable::new());
        for (drawn, panics, fails, undo_fails, when) in steps {
            let plan_of_all = plan(&table, &drawn);
            kernel.panics_in(Some((panics, when)));
            kernel.fails_in(Some(fails));
            // One operation fails, or one of those that undo all, and any call may panic.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if let Ok(applied) = apply_dma(&kernel, &plan_of_all, &mut table) {
                    kernel.fails_in(Some(undo_fails));
                    let _ = undo_dma(&kernel, applied, &mut table);
                }
            }));
            kernel.panics_in(None);
            kernel.fails_in(None);
            kernel.borrow().is_within(&table);
            let settling = plan(&table, &drawn);
            // A failed plan is undone; uncertain mappings that were unmapped stay unmapped.
            kernel.fails_in(Some(fails));
            let _ = apply_dma(&kernel, &settling, &mut table);
            kernel.fails_in(None);
            kernel.borrow().is_within(&table);
            let settling = plan(&table, &drawn);
            let _ = apply_dma(&kernel, &settling, &mut table).unwrap();
            prop_assert_eq!(table.uncertain().count(), 0);
            kernel.borrow().is_as_in(&table);
            prop_assert_eq!(kernel.borrow().picture(), picture(&drawn));
        }
    }

    #[test]
    fn a_change_settles_the_uncertain_mappings_that_it_touches(
        before in wanted(),
        after in wanted(),
        panics in 0..12_usize,
        when in when(),
        gone in (0..PAGES, 1..8_u64),
        is_strict in any::<bool>(),
    ) {
        let (kernel, mut table) = (Callable::with_strict_unmap(is_strict), DmaTable::new());
        let first = plan(&table, &before);
        let _ = apply_dma(&kernel, &first, &mut table).unwrap();
        let second = plan(&table, &after);
        kernel.panics_in(Some((panics, when)));
        let applied = AssertUnwindSafe(|| apply_dma(&kernel, &second, &mut table).map(drop));
        let _ = catch_unwind(applied);
        kernel.panics_in(None);
        let gone = pages(gone.0, gone.1.min(PAGES - gone.0));
        let change = DmaChange { removed: &[gone], added: &[] };
        let third = plan_dma_change(&table, &change, &limits(), Gaps::Allow).unwrap();
        let _ = apply_dma(&kernel, &third, &mut table).unwrap();
        kernel.borrow().is_within(&table);
        prop_assert!(table.touching(gone).next().is_none());
        prop_assert!(table.uncertain().all(|mapping| !mapping.iova().overlaps(gone)));
    }
}

/// A page whose mapping panics.
fn panicked(when: When) -> (Callable, DmaTable, DmaRange) {
    let owner = Arc::new("memory");
    let range = to_host(pages(0, 1), DmaAccess::ReadWrite, 0x7000_0000, owner);
    let (kernel, mut table) = (Callable::default(), DmaTable::new());
    let wanted = [range.clone()];
    let plan = plan_dma(&table, &wanted, &limits(), Gaps::Refuse).unwrap();
    kernel.panics_in(Some((0, when)));
    let apply = AssertUnwindSafe(|| apply_dma(&kernel, &plan, &mut table).map(drop));
    assert!(catch_unwind(apply).is_err());
    (kernel, table, range)
}

#[test]
fn an_uncertain_mapping_keeps_its_memory_and_is_unmapped_first() {
    for when in [When::Before, When::After] {
        let (kernel, mut table, range) = panicked(when);
        assert!(table.mappings().eq([&range]) && table.uncertain().eq([&range]));
        // It is unmapped before it is mapped again, even where no gaps are allowed.
        let plan = plan_dma(&table, &[range], &limits(), Gaps::Refuse).unwrap();
        assert_eq!((plan.ops.len(), plan.gaps.len()), (2, 0));
        let applied = apply_dma(&kernel, &plan, &mut table).unwrap();
        kernel.borrow().is_as_in(&table);
        assert_eq!(table.uncertain().count(), 0);
        // The uncertain mapping is not mapped again.
        assert!(undo_dma(&kernel, applied, &mut table).is_empty());
        assert!(kernel.borrow().mappings().is_empty());
        assert_eq!(table, DmaTable::new());
    }
}

#[test]
fn an_uncertain_mapping_is_unmapped_where_nothing_is_wanted() {
    for when in [When::Before, When::After] {
        let (kernel, mut table, _) = panicked(when);
        let plan = plan_dma(&table, &[], &limits(), Gaps::Refuse).unwrap();
        let _ = apply_dma(&kernel, &plan, &mut table).unwrap();
        assert!(kernel.borrow().mappings().is_empty());
        assert_eq!(table, DmaTable::new());
    }
}

#[test]
fn a_mapping_that_stayed_is_certain_although_mapping_over_it_panicked() {
    let drawn = |owner| Drawn {
        start: 8,
        pages: 1,
        owner,
        unit: 1,
    };
    let (kernel, mut table) = (Callable::default(), DmaTable::new());
    let first = plan(&table, &[drawn(0)]);
    let _ = apply_dma(&kernel, &first, &mut table).unwrap();
    let second = plan(&table, &[drawn(1)]);
    let applied = apply_dma(&kernel, &second, &mut table).unwrap();
    // The undo cannot unmap, and panics when it maps what was there before.
    kernel.fails_in(Some(0));
    kernel.panics_in(Some((0, When::Before)));
    let undo = AssertUnwindSafe(|| undo_dma(&kernel, applied, &mut table));
    assert!(catch_unwind(undo).is_err());
    kernel.panics_in(None);
    assert_eq!(table.find(8 * PAGE), Some(&drawn(1).range()));
    assert_eq!(table.uncertain().count(), 0);
    kernel.borrow().is_as_in(&table);
}
