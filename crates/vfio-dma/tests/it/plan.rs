// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The planner of DMA mappings against a picture of pages, and a kernel that is dumb enough to be
//! right by reading.

use std::sync::Arc;

use guest_ranges::AddrRange;
use proptest::prelude::*;
use vfio_dma::{
    DmaAccess, DmaChange, DmaLimits, DmaOp, DmaPlan, DmaPlanError, DmaRange, DmaTable, Gaps,
    LeftOut, SimIommu, SimIommuKind, apply_dma, plan_dma, plan_dma_change, undo_dma,
};

use crate::support::picture::{CELL, Callable, Cells, Kernel, OWNERS, PAGES, Seen};
use crate::support::{PAGE, bytes, to_host};

/// What no device may have: in the middle, not at the edge of a unit.
const HOLE: (u64, u64) = (9 * PAGE, 2 * PAGE);

/// A range as it is drawn: cells, whose memory, which address, how.
#[derive(Clone, Debug)]
struct Drawn {
    cells: (u64, u64),
    owner: usize,
    shift: u64,
    writes: bool,
    unit: Option<u64>,
}

impl Drawn {
    fn range(&self) -> DmaRange {
        let access = match self.writes {
            true => DmaAccess::ReadWrite,
            false => DmaAccess::Read,
        };
        let iova = span(self.cells);
        let address = 0x7000_0000 + iova.start() + self.shift;
        let owner = OWNERS.with(|owners| owners[self.owner].clone());
        let range = to_host(iova, access, address, owner);
        match self.unit {
            Some(unit) => range.in_units_of(unit).unwrap(),
            None => range,
        }
    }
}

fn span((start, size): (u64, u64)) -> AddrRange {
    bytes(start * CELL, size * CELL)
}

/// Mostly whole pages, of which all is right and which are mapped.
fn cells() -> impl Strategy<Value = (u64, u64)> {
    let per_page = PAGE / CELL;
    let whole = (0..PAGES, 1..10_u64)
        .prop_map(move |(at, size)| (at * per_page, size.min(PAGES - at) * per_page));
    let any = (0..PAGES * per_page, 1..24_u64)
        .prop_map(move |(at, size)| (at, size.min(PAGES * per_page - at)));
    prop_oneof![4 => whole, 1 => any]
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let shift = prop_oneof![6 => Just(0), 1 => Just(PAGE), 1 => Just(CELL)];
    let unit = prop_oneof![
        Just(None),
        Just(Some(PAGE)),
        Just(Some(4 * PAGE)),
        Just(Some(1))
    ];
    let what = (cells(), 0..2_usize, shift, any::<bool>(), unit);
    what.prop_map(|(cells, owner, shift, writes, unit)| Drawn {
        cells,
        owner,
        shift,
        writes,
        unit,
    })
}

/// Ranges that do not overlap: what hits an earlier one is left away.
fn added() -> impl Strategy<Value = Vec<Drawn>> {
    prop::collection::vec(drawn(), 0..4).prop_map(|all| {
        let mut added: Vec<Drawn> = Vec::new();
        for one in all {
            if !added
                .iter()
                .any(|other| span(other.cells).overlaps(span(one.cells)))
            {
                added.push(one);
            }
        }
        added
    })
}

type Step = (Vec<(u64, u64)>, Vec<Drawn>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let removed = prop::collection::vec(cells(), 0..3);
    prop::collection::vec((removed, added()), 1..12)
}

fn limits(mappings: Option<u64>) -> DmaLimits {
    let end = HOLE.0 + HOLE.1;
    let allowed = [bytes(0, HOLE.0), bytes(end, PAGES * PAGE - end)];
    DmaLimits::new(PAGE, allowed, mappings).unwrap()
}

/// That the plan says what it does, and does no more than it must.
fn check_plan(before: &Kernel, wanted: [&Cells; 2], step: &Step, plan: &DmaPlan) {
    let added = &step.1;
    let maps = plan.ops.iter().filter(|op| matches!(op, DmaOp::Map(_)));
    let maps = maps.count();
    let unmaps = plan.ops.len() - maps;
    let first_map = plan.ops.iter().position(|op| matches!(op, DmaOp::Map(_)));
    assert_eq!(
        first_map.unwrap_or(unmaps),
        unmaps,
        "unmaps come before maps"
    );

    let [old, new] = wanted;
    let stays = |page: u64| old.at(page).is_some() && old.at(page) == new.at(page);
    let goes = |pages: &[u64]| pages.iter().any(|page| !stays(*page));
    let mappings = before.mappings();
    let removed: Vec<_> = mappings.iter().filter(|pages| goes(pages)).collect();
    let is_next = |two: &[&Vec<u64>]| two[0].last().unwrap() + 1 == two[1][0];
    let runs = removed.len() - removed.windows(2).filter(|two| is_next(two)).count();
    assert_eq!(unmaps, runs, "fewest unmaps: {plan:?}");

    let removed: Vec<u64> = removed
        .iter()
        .flat_map(|pages| pages.iter().copied())
        .collect();
    let come_back: Vec<u64> = removed
        .iter()
        .copied()
        .filter(|page| stays(*page))
        .collect();
    let listed = plan
        .gaps
        .iter()
        .flat_map(|gap| gap.start() / PAGE..(gap.last() + 1) / PAGE);
    assert_eq!(listed.collect::<Vec<u64>>(), come_back, "gaps");

    let is_new = |page: u64| new.at(page).is_some() && (!stays(page) || removed.contains(&page));
    let begins = |page: &u64| {
        let continues = *page > 0 && is_new(page - 1) && new.continues(page - 1);
        is_new(*page) && !continues
    };
    assert_eq!(
        maps,
        (0..PAGES).filter(begins).count(),
        "fewest maps: {plan:?}"
    );

    for one in added {
        for cell in one.cells.0..one.cells.0 + one.cells.1 {
            let at = cell * CELL;
            let mut left = plan.left_out.iter().filter(|(span, _)| span.contains(at));
            let why = left.next().map(|(_, why)| *why);
            assert_eq!(left.next(), None, "told twice");
            let page = at / PAGE;
            let is_part = !new.is_whole(page, one.cells);
            let in_hole = at >= HOLE.0 && at < HOLE.0 + HOLE.1;
            let due = match (one.shift % PAGE != 0, is_part, in_hole) {
                (true, ..) => Some(LeftOut::Misaligned),
                (_, true, _) => Some(LeftOut::PartOfPage),
                (_, _, true) => Some(LeftOut::Hole),
                _ => None,
            };
            assert_eq!(why, due, "{at:#x}");
        }
    }

    let is_changed = |cell: u64| changed(step).any(|(at, size)| (at..at + size).contains(&cell));
    for cell in (0..PAGES * PAGE / CELL).filter(|cell| !is_changed(*cell)) {
        let at = cell * CELL;
        let left = plan.left_out.iter().filter(|(span, _)| span.contains(at));
        let left: Vec<LeftOut> = left.map(|(_, why)| *why).collect();
        match loses_rest(&mappings, step, cell) {
            true => assert_eq!(left, [LeftOut::PartOfPage], "{at:#x}"),
            false => assert_eq!(left, [], "{at:#x}"),
        }
    }
    assert!(plan.left_out.is_sorted_by_key(|(span, _)| span.start()));
}

fn changed(step: &Step) -> impl Iterator<Item = (u64, u64)> {
    let added = step.1.iter().map(|one| one.cells);
    step.0.iter().copied().chain(added)
}

/// Whether a cell is mapped and shares its page with a change. It is not in the change.
fn loses_rest(mappings: &[Vec<u64>], step: &Step, cell: u64) -> bool {
    let page = cell * CELL / PAGE;
    let per_page = PAGE / CELL;
    let is_mapped = mappings.iter().any(|pages| pages.contains(&page));
    let touches = |(at, size): (u64, u64)| {
        let pages = at / per_page..(at + size).div_ceil(per_page);
        pages.contains(&page)
    };
    is_mapped && changed(step).any(touches)
}

/// What there will be, by the picture.
fn repaint(cells: &Cells, step: &Step) -> Cells {
    let mut new = cells.clone();
    for removed in step.0.iter().chain(step.1.iter().map(|one| &one.cells)) {
        new.clear(*removed);
    }
    for one in &step.1 {
        let in_hole = |page: u64| page * PAGE >= HOLE.0 && page * PAGE < HOLE.0 + HOLE.1;
        if one.shift % PAGE == 0 {
            let seen = Seen::of(&one.range());
            new.paint(one.cells, |page| (!in_hole(page)).then(|| seen.clone()));
        }
    }
    new
}

#[test]
fn the_highest_page_of_all_is_mapped_like_any_other() {
    let last_page = AddrRange::from_bounds(u64::MAX - (PAGE - 1), u64::MAX).unwrap();
    let two = AddrRange::from_bounds(last_page.start() - PAGE, u64::MAX).unwrap();
    let limits = DmaLimits::new(PAGE, [AddrRange::ALL], None).unwrap();
    let ram = to_host(two, DmaAccess::ReadWrite, 0x7000_0000, Arc::new(()));
    let ram = ram.in_units_of(PAGE).unwrap();
    for kind in [SimIommuKind::Type1, SimIommuKind::Iommufd] {
        let (iommu, mut table) = (SimIommu::new(kind, limits.clone()), DmaTable::new());
        let plan = plan_dma(&table, std::slice::from_ref(&ram), &limits, Gaps::Refuse).unwrap();
        assert_eq!((plan.ops.len(), plan.left_out.len()), (2, 0));
        let _ = apply_dma(&iommu, &plan, &mut table).unwrap();
        assert_eq!(table.touching(two).count(), 2);
        assert!(iommu.reach(u64::MAX, true).is_some());
        let change = DmaChange {
            removed: &[last_page],
            added: &[],
        };
        let plan = plan_dma_change(&table, &change, &limits, Gaps::Refuse).unwrap();
        let _ = apply_dma(&iommu, &plan, &mut table).unwrap();
        assert_eq!((table.len(), iommu.mappings()), (1, 1));
        assert!(iommu.reach(u64::MAX, false).is_none());
    }
}

#[test]
fn a_piece_of_one_byte_is_as_good_as_any_other() {
    let limits = DmaLimits::new(1, [AddrRange::ALL], None).unwrap();
    let byte = to_host(bytes(5, 1), DmaAccess::ReadWrite, 0x7000_0005, Arc::new(()));
    let iommu = SimIommu::new(SimIommuKind::Type1, limits.clone());
    let mut table = DmaTable::new();
    let target = std::slice::from_ref(&byte);
    let plan = plan_dma(&table, target, &limits, Gaps::Refuse).unwrap();
    let _ = apply_dma(&iommu, &plan, &mut table).unwrap();
    let again = plan_dma(&table, target, &limits, Gaps::Refuse).unwrap();
    assert_eq!(again, DmaPlan::default());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn plans_do_what_the_picture_says_and_no_more(steps in steps()) {
        let (kernel, limits) = (Callable::default(), limits(None));
        let (mut table, mut cells) = (DmaTable::new(), Cells::default());
        for step in steps {
            let new = repaint(&cells, &step);
            let removed: Vec<AddrRange> = step.0.iter().map(|removed| span(*removed)).collect();
            let added: Vec<DmaRange> = step.1.iter().map(Drawn::range).collect();
            let change = DmaChange { removed: &removed, added: &added };
            let changed: Vec<AddrRange> = changed(&step).map(span).collect();
            let plan = plan_dma_change(&table, &change, &limits, Gaps::Allow).unwrap();
            check_plan(&kernel.borrow(), [&cells, &new], &step, &plan);
            let refused = plan_dma_change(&table, &change, &limits, Gaps::Refuse);
            let is_changed = |at: u64| changed.iter().any(|span| span.contains(at));
            let mut left_out = plan.left_out.iter().map(|(span, _)| span.start());
            let loses_rest = left_out.any(|at| !is_changed(at));
            prop_assert_eq!(plan.gaps.is_empty() && !loses_rest, refused.is_ok());
            let _ = apply_dma(&kernel, &plan, &mut table).unwrap();
            prop_assert_eq!(kernel.borrow().picture(), new.picture());
            kernel.borrow().is_as_in(&table);
            cells = new;
            cells.keep_units(&table);
        }
        let plan = plan_dma(&table, &[], &limits, Gaps::Refuse).unwrap();
        let _ = apply_dma(&kernel, &plan, &mut table).unwrap();
        prop_assert!(table.is_empty() && kernel.borrow().mappings().is_empty());
    }

    #[test]
    fn a_step_that_fails_leaves_everything_as_it_was(steps in steps(), fails in 0..12_usize) {
        let (kernel, limits) = (Callable::default(), limits(None));
        let mut table = DmaTable::new();
        for (n, step) in steps.iter().enumerate() {
            let removed: Vec<AddrRange> = step.0.iter().map(|removed| span(*removed)).collect();
            let added: Vec<DmaRange> = step.1.iter().map(Drawn::range).collect();
            let change = DmaChange { removed: &removed, added: &added };
            let plan = plan_dma_change(&table, &change, &limits, Gaps::Allow).unwrap();
            let (before, mappings) = (table.clone(), kernel.borrow().mappings());
            let at = (fails + n) % (plan.ops.len() + 1);
            kernel.fails_in(Some(at));
            match apply_dma(&kernel, &plan, &mut table) {
                Ok(applied) => {
                    // Several that cannot be unmapped by one call are unmapped one by one.
                    let op = plan.ops.get(at);
                    let several = |op: &DmaOp| matches!(op, DmaOp::Unmap(all) if all.len() > 1);
                    prop_assert!(op.is_none_or(several));
                    kernel.fails_in(None);
                    prop_assert_eq!(applied.ops(), &plan.ops);
                    prop_assert_eq!(undo_dma(&kernel, applied, &mut table), vec![]);
                }
                Err(error) => {
                    prop_assert_eq!(&error.op, &plan.ops[at]);
                    prop_assert_eq!(error.not_undone, vec![]);
                }
            }
            prop_assert_eq!(&table, &before);
            prop_assert_eq!(kernel.borrow().mappings(), mappings);
            let _ = apply_dma(&kernel, &plan, &mut table).unwrap();
        }
    }

    #[test]
    fn too_many_mappings_are_refused_before_anything_is_touched(
        steps in steps(),
        limit in 0..12_u64,
    ) {
        let kernel = Callable::default();
        let (mut table, tight) = (DmaTable::new(), limits(Some(limit)));
        for (removed, added) in &steps {
            let removed: Vec<AddrRange> = removed.iter().map(|removed| span(*removed)).collect();
            let added: Vec<DmaRange> = added.iter().map(Drawn::range).collect();
            let change = DmaChange { removed: &removed, added: &added };
            let free = plan_dma_change(&table, &change, &limits(None), Gaps::Allow).unwrap();
            let mut after = table.clone();
            let copy = Callable::of(kernel.borrow().clone());
            let _ = apply_dma(&copy, &free, &mut after).unwrap();
            let needed = after.len() as u64;
            match plan_dma_change(&table, &change, &tight, Gaps::Allow) {
                Ok(plan) => {
                    prop_assert!(needed <= limit);
                    let _ = apply_dma(&kernel, &plan, &mut table).unwrap();
                }
                Err(error) => prop_assert_eq!(error, DmaPlanError::TooMany { needed, limit }),
            }
        }
    }
}
