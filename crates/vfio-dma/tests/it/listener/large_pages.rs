// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An IOMMU whose pages have several guest pages: devices reach a shared page while the
//! others of its IOMMU page are shared too.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_slots::convert::{ConvertError, FailedStep};
use memory_model::{AddrRange, PageState};
use vfio_dma::listener::{DmaFollowError, DmaListener, DmaPolicy};
use vfio_dma::{
    AddressSpace, DmaLimits, DmaPlanError, DmaRange, DmaRefusal, Gaps, LeftOut, SimIommu,
};

use super::{KINDS, converted, follow_error};
use crate::support::machine::{APART, LARGE_PAGE, Machine, PLAIN};
use crate::support::{PAGE, pages};

/// RAM with a private side at pages 16 to 31, four guest pages to an IOMMU page.
fn machines(gaps: Gaps) -> impl Iterator<Item = Machine> {
    KINDS.into_iter().map(move |kind| {
        let policy = DmaPolicy::default().with_gaps(gaps);
        let mut m = Machine::with_iommu_page(LARGE_PAGE, kind, policy, None);
        m.place(APART, 16 * PAGE, 0).unwrap();
        assert_eq!(m.iommu.mappings(), 4);
        m.check();
        m
    })
}

fn part(start: u64, count: u64) -> (AddrRange, LeftOut) {
    (pages(start, count), LeftOut::PartOfPage)
}

/// Devices reach what they should, and no resync is needed.
fn is_settled(m: &Machine) {
    assert!(!m.dma.needs_resync());
    m.check();
}

/// A plan from the whole view changes nothing. It also tells the listener which pages are
/// private, so it comes last.
fn is_as_the_view(m: &Machine) {
    is_settled(m);
    let view = m.model.view(m.space);
    m.dma.resync(&view, m.model.private(m.space)).unwrap();
    assert_eq!(m.dma.take_latest_plan().unwrap().ops, []);
}

#[test]
fn shared_pages_beside_a_private_one_are_left_out_until_it_is_shared_again() {
    for mut m in machines(Gaps::Allow) {
        let before = m.dma.table();
        converted(&mut m, 17, 1, true);
        let plan = m.dma.take_latest_plan().unwrap();
        assert_eq!(plan.left_out, [part(16, 1), part(18, 2)]);
        assert_eq!((plan.gaps.len(), m.iommu.mappings()), (0, 3));
        is_settled(&m);
        converted(&mut m, 17, 1, false);
        assert_eq!(m.dma.take_latest_plan().unwrap().left_out, []);
        assert_eq!(m.dma.table(), before);
        is_as_the_view(&m);
    }
}

#[test]
fn a_page_that_is_shared_again_beside_a_private_one_is_left_out() {
    for mut m in machines(Gaps::Allow) {
        let before = m.dma.table();
        converted(&mut m, 17, 6, true);
        let plan = m.dma.take_latest_plan().unwrap();
        assert_eq!(plan.left_out, [part(16, 1), part(23, 1)]);
        for (page, left_out) in [
            (18, vec![part(16, 1), part(18, 1)]),
            (22, vec![part(22, 2)]),
            (21, vec![part(21, 3)]),
            (17, vec![part(16, 3)]),
            (19, vec![]),
        ] {
            converted(&mut m, page, 1, false);
            let plan = m.dma.take_latest_plan().unwrap();
            assert_eq!(plan.left_out, left_out, "{page}");
            is_settled(&m);
        }
        converted(&mut m, 16, 16, false);
        assert_eq!(m.dma.table(), before);
        is_as_the_view(&m);
    }
}

#[test]
fn where_gaps_are_refused_a_conversion_of_a_part_of_an_iommu_page_is_too() {
    for mut m in machines(Gaps::Refuse) {
        let (before, calls) = (m.dma.table(), m.iommu.calls());
        let Err(ConvertError::Failed(failure)) = m.convert(pages(18, 6), true) else {
            panic!("it was converted");
        };
        let FailedStep::Listener { source, .. } = &failure.cause else {
            panic!("{failure}");
        };
        let error = follow_error(&**source);
        let text = "0x10000-0x11fff of 0x10000-0x13fff to host ";
        assert!(error.to_string().starts_with(text), "{error}");
        let page_sizes = "cannot stay mapped: the IOMMU's pages have 0x4000 bytes";
        assert!(error.to_string().ends_with(page_sizes), "{error}");
        assert!(matches!(
            error,
            DmaFollowError::Plan(DmaPlanError::PartOfPage { part, page_size, .. })
                if part == pages(16, 2) && page_size == LARGE_PAGE
        ));
        assert!(m.model.private(m.space).is_empty());
        assert_eq!((m.dma.table(), m.iommu.calls()), (before, calls));
        is_settled(&m);
        converted(&mut m, 20, 8, true);
        // Nothing of the page is mapped that could be lost.
        converted(&mut m, 21, 1, false);
        converted(&mut m, 21, 1, true);
        converted(&mut m, 20, 8, false);
        is_as_the_view(&m);
    }
}

#[test]
fn a_conversion_that_is_undone_leaves_the_iommu_page_as_it_was() {
    for gaps in [Gaps::Allow, Gaps::Refuse] {
        for mut m in machines(gaps) {
            let refuse = |m: &Machine, refuse| m.refuser.0.store(refuse, Ordering::Relaxed);
            // An IOMMU page is made incomplete, if that is allowed.
            let all = m.dma.table();
            refuse(&m, true);
            assert!(m.convert(pages(17, 1), true).is_err());
            assert_eq!(m.dma.table(), all);
            is_settled(&m);
            // Another one is completed.
            refuse(&m, false);
            converted(&mut m, 20, 4, true);
            converted(&mut m, 20, 3, false);
            let incomplete = m.dma.table();
            refuse(&m, true);
            assert!(m.convert(pages(23, 1), false).is_err());
            assert_eq!(m.dma.table(), incomplete);
            is_settled(&m);
            refuse(&m, false);
            converted(&mut m, 23, 1, false);
            assert_eq!(m.dma.table(), all);
            is_as_the_view(&m);
        }
    }
}

#[test]
fn a_refused_mapping_of_a_completed_iommu_page_leaves_it_incomplete() {
    for mut m in machines(Gaps::Allow) {
        converted(&mut m, 17, 2, true);
        m.iommu.fail(0, 12);
        assert!(m.convert(pages(17, 2), false).is_err());
        is_settled(&m);
        // Page 18 is still private.
        converted(&mut m, 17, 1, false);
        assert_eq!(m.reached(17), None);
        is_as_the_view(&m);
    }
}

#[test]
fn a_page_that_cannot_be_unmapped_leaves_its_iommu_page_to_a_resync() {
    for mut m in machines(Gaps::Allow) {
        converted(&mut m, 17, 2, true);
        m.refuser.0.store(true, Ordering::Relaxed);
        m.iommu.fail(1, 5);
        assert!(m.convert(pages(17, 2), false).is_err());
        m.refuser.0.store(false, Ordering::Relaxed);
        assert!(m.dma.needs_resync());
        // The pages stay shared, and devices reach them.
        assert!(m.model.private(m.space).is_empty() && m.reached(17).is_some());
        converted(&mut m, 18, 1, true);
        assert_eq!(m.reached(17), None);
        // The listener does not rely on what it knew of page 17.
        converted(&mut m, 18, 1, false);
        assert!(m.dma.needs_resync() && m.reached(17).is_none());
        m.place(PLAIN, 0, 0).unwrap();
        is_as_the_view(&m);
        assert!(m.reached(17).is_some());
    }
}

#[test]
fn private_pages_are_known_after_a_transaction() {
    for mut m in machines(Gaps::Allow) {
        converted(&mut m, 17, 1, true);
        converted(&mut m, 22, 1, true);
        // Other memory where one page is private, and back.
        m.place(PLAIN, 16 * PAGE, 1).unwrap();
        is_settled(&m);
        m.place(PLAIN, 32 * PAGE, 1).unwrap();
        is_settled(&m);
        converted(&mut m, 17, 1, false);
        is_as_the_view(&m);
        assert!(m.reached(17).is_some() && m.reached(21).is_none());
    }
}

/// RAM of so many pages from page 128 on, in which the guest has alternated private and
/// shared pages: one conversion of all takes two parts, and an IOMMU page is in both.
fn in_two_parts() -> impl Iterator<Item = (Machine, u64)> {
    machines(Gaps::Allow).map(|mut m| {
        let (parts, start) = (4096, 128);
        let count = 2 * parts + 16;
        m.add_ram(start, count);
        let space = m.space;
        let private = (4..count).step_by(2).chain([1]);
        for page in private.map(|page| pages(start + page, 1)) {
            let set = m.model.set_page_state(space, page, PageState::Private);
            set.unwrap();
        }
        let view = m.model.view(space);
        m.dma.resync(&view, m.model.private(space)).unwrap();
        assert_eq!(m.iommu.mappings(), 4);
        (m, count)
    })
}

#[test]
fn an_iommu_page_that_becomes_shared_in_two_parts_is_mapped_with_the_second() {
    for (mut m, count) in in_two_parts() {
        converted(&mut m, 128, count, false);
        let mapped = usize::try_from(4 + count / 4).unwrap();
        assert_eq!(m.iommu.mappings(), mapped);
        is_as_the_view(&m);
    }
}

#[test]
fn an_iommu_page_that_does_not_become_shared_in_a_second_part_is_not_mapped() {
    for (mut m, count) in in_two_parts() {
        let before = m.dma.table();
        // The first part maps 2048 IOMMU pages, and the second one fails.
        m.iommu.fail(2048, 12);
        assert!(m.convert(pages(128, count), false).is_err());
        assert_eq!(m.dma.table(), before);
        is_as_the_view(&m);
    }
}

/// An address space that a device narrows to large pages.
struct Narrowed(SimIommu);

impl AddressSpace for Narrowed {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        self.0.map(range)
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        self.0.unmap(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        // A device is there when something is mapped.
        let page = if self.0.mappings() > 0 {
            LARGE_PAGE
        } else {
            PAGE
        };
        Ok(DmaLimits::new(page, [pages(0, 64)], None).unwrap())
    }
}

#[test]
fn a_device_that_brings_larger_iommu_pages_has_the_next_transaction_resync() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        let limits = DmaLimits::new(PAGE, [pages(0, 64)], None).unwrap();
        let space = Narrowed(SimIommu::new(kind, limits));
        let policy = DmaPolicy::default().with_unit(LARGE_PAGE);
        let dma = DmaListener::new(space, m.model.reader(m.space), policy).unwrap();
        let dma = Arc::new(dma);
        m.model.add_listener(m.space, 0, dma.clone()).unwrap();
        m.engine.add_listener(dma.clone());
        m.place(APART, 16 * PAGE, 0).unwrap();
        dma.device_added().unwrap();
        assert!(dma.needs_resync());
        let reached = |page: u64| dma.space().0.reach(page * PAGE, true).is_some();
        converted(&mut m, 17, 1, true);
        assert!(!reached(16) && reached(20));
        // The listener was not notified that page 16 is shared.
        converted(&mut m, 17, 1, false);
        assert!(!reached(16) && dma.needs_resync());
        m.place(PLAIN, 0, 0).unwrap();
        assert!(reached(16) && !dma.needs_resync());
        converted(&mut m, 17, 1, true);
        converted(&mut m, 17, 1, false);
        assert!(reached(16));
        // From then on it knows.
        dma.device_added().unwrap();
        assert!(!dma.needs_resync());
    }
}
