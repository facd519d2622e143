// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What devices reach where there is more than one right answer, and where
//! something cannot be had.

mod failures;
mod large_pages;
mod ram;
mod resync;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kvm_slots::convert::{ConvertError, FailedStep};
use memory_model::{
    CommitError, FileSlice, FlatRange, Listener, ListenerError, PageState, Region, Update,
};
use vfio_dma::listener::{DmaFollowError, DmaPolicy, Peers};
use vfio_dma::{AddressSpace, DmaMemory, DmaOp, DmaPlanError, Gaps, LeftOut, SimIommuKind};

use crate::support::machine::{
    APART, BAR, HOLE, Iommu, Machine, PLAIN, PRIVATE_BAR, REGISTERS, ROM,
};
use crate::support::{PAGE, bytes, pages};

const KINDS: [SimIommuKind; 2] = [SimIommuKind::Type1, SimIommuKind::Iommufd];

fn machine(policy: DmaPolicy<()>) -> Machine {
    Machine::new(SimIommuKind::Iommufd, policy, None)
}

fn converted(m: &mut Machine, start: u64, count: u64, private: bool) {
    let converted = m.convert(pages(start, count), private).unwrap();
    assert!(converted.not_discarded.is_empty());
}

/// What the listener said, out of what the model or the engine says.
fn follow_error(error: &(dyn std::error::Error + Send + Sync + 'static)) -> DmaFollowError {
    error.downcast_ref::<DmaFollowError>().unwrap().clone()
}

fn refused(error: &CommitError) -> DmaFollowError {
    match error {
        CommitError::Refused { source, .. } => follow_error(&**source),
        other => panic!("{other}"),
    }
}

#[test]
fn ram_is_one_mapping_unless_it_has_a_private_side() {
    let mut m = machine(DmaPolicy::default());
    m.place(PLAIN, 0, 0).unwrap();
    assert_eq!(m.iommu.mappings(), 1);
    m.place(APART, 16 * PAGE, 0).unwrap();
    assert_eq!(m.iommu.mappings(), 1 + 16);
    m.place(ROM, 50 * PAGE, 0).unwrap();
    m.place(BAR, 54 * PAGE, 0).unwrap();
    m.place(PRIVATE_BAR, 60 * PAGE, 0).unwrap();
    m.check();
    assert_eq!(m.iommu.reach(50 * PAGE, true), None);
    assert!(m.iommu.reach(50 * PAGE, false).is_some());
    for page in [54, 60] {
        assert_eq!(m.iommu.reach(page * PAGE, false), None);
    }
}

#[test]
fn conversions_of_whole_units_have_no_gap_and_others_say_which() {
    for kind in KINDS {
        let policy = DmaPolicy::default().with_unit(4 * PAGE);
        let mut m = Machine::new(kind, policy, None);
        m.place(APART, 16 * PAGE, 0).unwrap();
        assert_eq!(m.iommu.mappings(), 4);
        converted(&mut m, 20, 8, true);
        let plan = m.dma.take_latest_plan().unwrap();
        assert_eq!((plan.gaps.len(), plan.ops.len()), (0, 1));
        m.check();
        converted(&mut m, 17, 1, true);
        let plan = m.dma.take_latest_plan().unwrap();
        assert_eq!(plan.gaps, [pages(16, 1), pages(18, 2)]);
        m.check();
        converted(&mut m, 17, 1, false);
        assert_eq!(m.dma.take_latest_plan().unwrap().gaps, []);
        m.check();
    }
}

#[test]
fn a_page_that_becomes_private_at_one_address_stays_shared_at_another() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        m.place(APART, 16 * PAGE, 0).unwrap();
        let (apart, root) = (m.regions[APART], m.root);
        let mut t = m.model.transaction();
        let size = u128::from(8 * PAGE);
        let again = t.add(Region::alias("again", apart, 0, size)).unwrap();
        t.place(again, root, 48 * PAGE, 0).unwrap();
        t.commit().unwrap();
        converted(&mut m, 17, 1, true);
        assert!(m.reached(17).is_none() && m.reached(49).is_some());
        m.check();
    }
}

#[test]
fn a_unit_that_is_no_power_of_two_counts_as_a_page() {
    for unit in [0, 3 * PAGE, PAGE + 1, 4 * PAGE] {
        let mut m = machine(DmaPolicy::default().with_unit(unit));
        m.place(APART, 16 * PAGE, 0).unwrap();
        let mappings = if unit == 4 * PAGE { 4 } else { 16 };
        assert_eq!(m.iommu.mappings(), mappings, "{unit:#x}");
        m.check();
    }
}

#[test]
fn where_gaps_are_refused_so_is_the_conversion() {
    let policy = DmaPolicy::default()
        .with_unit(4 * PAGE)
        .with_gaps(Gaps::Refuse);
    let mut m = machine(policy);
    m.place(APART, 16 * PAGE, 0).unwrap();
    let calls = m.iommu.calls();
    let Err(ConvertError::Failed(failure)) = m.convert(pages(16, 5), true) else {
        panic!("it was converted");
    };
    let FailedStep::Listener { source, .. } = &failure.cause else {
        panic!("{failure}");
    };
    let error = follow_error(&**source);
    assert!(matches!(
        error,
        DmaFollowError::Plan(DmaPlanError::Gap { gap, .. }) if gap == pages(21, 3)
    ));
    assert!(m.model.private(m.space).is_empty());
    assert_eq!(m.iommu.calls(), calls);
    m.check();
    converted(&mut m, 16, 8, true);
    m.check();
}

#[test]
fn too_many_mappings_refuse_a_transaction_and_a_conversion_untouched() {
    let mut m = Machine::new(SimIommuKind::Type1, DmaPolicy::default(), Some(16));
    m.place(APART, 16 * PAGE, 0).unwrap();
    let calls = m.iommu.calls();
    let error = m.place(PLAIN, 0, 0).unwrap_err();
    let (needed, limit) = (17, 16);
    let too_many = DmaFollowError::Plan(DmaPlanError::TooMany { needed, limit });
    assert_eq!(refused(&error), too_many);
    assert_eq!(m.iommu.calls(), calls);
    m.check();
    // Room is made, and taken: then there is none to go back.
    converted(&mut m, 16, 1, true);
    m.place(PLAIN, 0, 0).unwrap();
    assert!(m.convert(pages(16, 1), false).is_err());
    assert!(m.model.private(m.space).covers(pages(16, 1)));
    m.check();
}

#[test]
fn the_hardwares_addresses_and_parts_of_pages_are_left_out_and_said() {
    let mut m = machine(DmaPolicy::default());
    m.place(PLAIN, (HOLE.start - 2) * PAGE, 0).unwrap();
    let hole = (pages(HOLE.start, 2), LeftOut::Hole);
    assert_eq!(m.dma.take_latest_plan().unwrap().left_out, [hole]);
    m.check();
    m.place(REGISTERS, 38 * PAGE + 0x300, 1).unwrap();
    let part = |start: u64, end: u64| (bytes(start, end - start), LeftOut::PartOfPage);
    let at = 38 * PAGE;
    let parts = [part(at, at + 0x300), part(at + 0x400, at + PAGE)];
    let plan = m.dma.take_latest_plan().unwrap();
    assert_eq!(plan.left_out, [parts[0], parts[1], hole]);
    // All of it was one mapping below the hole: the rest of that had a gap.
    assert_eq!(plan.gaps, [pages(39, 1)]);
    m.check();
}

#[test]
fn what_could_not_be_undone_is_put_right_by_the_next_transaction() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        m.place(APART, 16 * PAGE, 0).unwrap();
        // Two go. Two more do not, together or alone, and then one does not come back.
        converted(&mut m, 17, 1, true);
        converted(&mut m, 19, 1, true);
        (2..6).for_each(|call| m.iommu.fail(call, 5));
        let Err(ConvertError::Failed(failure)) = m.convert(pages(16, 6), true) else {
            panic!("it was converted");
        };
        assert!(failure.to_string().contains("UNMAP"), "{failure}");
        assert!(m.dma.needs_resync());
        // Devices reach less than they may, and never more.
        for page in 16..32 {
            let reached = m.reached(page);
            assert!(reached.is_none() || reached == m.due(page));
        }
        m.iommu.fail_no_more();
        m.place(PLAIN, 0, 0).unwrap();
        assert!(!m.dma.needs_resync());
        m.check();
    }
}

#[test]
fn a_page_that_the_model_alone_has_made_private_is_found_by_looking_at_all() {
    let mut m = machine(DmaPolicy::default());
    m.place(APART, 16 * PAGE, 0).unwrap();
    let space = m.space;
    let set = m
        .model
        .set_page_state(space, pages(20, 2), PageState::Private);
    set.unwrap();
    assert!(m.reached(20).is_some());
    let view = m.model.view(space);
    m.dma.resync(&view, m.model.private(space)).unwrap();
    m.check();
    // Memory that comes where pages are private is private from the start.
    let mut t = m.model.transaction();
    t.set_enabled(m.regions[APART], false).unwrap();
    t.commit().unwrap();
    m.check();
    m.place(PLAIN, 15 * PAGE, 0).unwrap();
    m.check();
    assert_eq!(m.reached(20), None);
    converted(&mut m, 16, 8, false);
    m.check();
    assert!(m.reached(20).is_some());
}

#[test]
fn a_devices_memory_is_reached_by_its_file_where_there_is_one() {
    let file = Arc::new(std::fs::File::open("/dev/null").unwrap());
    let same_file = file.clone();
    let find = move |run: &FlatRange<()>| {
        let is_bar = run.region().name() == "bar";
        let (offset, size) = (run.offset(), run.range().size());
        let size = u64::try_from(size).unwrap();
        is_bar.then(|| FileSlice::new(file.clone(), offset, size))?
    };
    let policy = DmaPolicy::default().with_peers(Peers::Files(Arc::new(find)));
    let mut m = machine(policy);
    m.place(PRIVATE_BAR, 60 * PAGE, 0).unwrap();
    assert_eq!(m.iommu.mappings(), 0);
    m.place(BAR, 50 * PAGE, 0).unwrap();
    // A page of registers in the middle, so that the BAR is two runs.
    m.place(REGISTERS, 51 * PAGE, 1).unwrap();
    let reached = m.iommu.reach(52 * PAGE + 8, true);
    let byte = FileSlice::new(same_file, 2 * PAGE + 8, 1);
    assert_eq!(reached, byte.map(DmaMemory::File));
    assert_eq!(m.iommu.reach(51 * PAGE, false), None);
    // It goes and comes with the region: what was revoked is mapped anew.
    let mut t = m.model.transaction();
    t.set_enabled(m.regions[BAR], false).unwrap();
    t.commit().unwrap();
    let ops = m.dma.take_latest_plan().unwrap().ops;
    assert!(
        ops.iter().all(|op| matches!(op, DmaOp::Unmap(_))),
        "{ops:?}"
    );
    assert_eq!(m.iommu.mappings(), 0);
    let limits = m.iommu.limits().unwrap();
    assert_eq!(limits.page_size(), PAGE);
}

#[test]
fn a_container_refuses_files_and_so_the_transaction() {
    let file = Arc::new(std::fs::File::open("/dev/null").unwrap());
    let find = move |_: &FlatRange<()>| FileSlice::new(file.clone(), 0, 4 * PAGE);
    let policy = DmaPolicy::default().with_peers(Peers::Files(Arc::new(find)));
    let mut m = Machine::new(SimIommuKind::Type1, policy, None);
    let error = m.place(BAR, 50 * PAGE, 0).unwrap_err();
    let text = refused(&error).to_string();
    assert!(text.contains("a container maps no files"), "{text}");
    assert!(m.model.view(m.space).is_empty());
    m.check();
}

#[test]
fn nothing_is_mapped_for_a_device_that_is_unplugged() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        m.place(PLAIN, 0, 0).unwrap();
        m.place(APART, 16 * PAGE, 0).unwrap();
        converted(&mut m, 18, 4, true);
        assert!(m.iommu.mappings() > 0);
        m.model.remove_listener(m.space, &m.dma).unwrap();
        assert_eq!(m.iommu.mappings(), 0);
        assert!(!m.dma.needs_resync());
        // What comes later is mapped for others only.
        m.place(ROM, 50 * PAGE, 0).unwrap();
        assert_eq!(m.iommu.mappings(), 0);
        // Plugged in again, the device reaches what it is due.
        m.model.add_listener(m.space, 1, m.dma.clone()).unwrap();
        m.check();
    }
}

#[test]
fn a_commit_that_another_listener_refuses_takes_nothing_from_devices() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        m.place(PLAIN, 0, 0).unwrap();
        let calls = m.iommu.calls();
        m.refuser.1.store(true, Ordering::Relaxed);
        m.place(PLAIN, 8 * PAGE, 0).unwrap_err();
        assert_eq!(m.iommu.calls(), calls, "the IOMMU was asked");
        m.refuser.1.store(false, Ordering::Relaxed);
        m.place(PLAIN, 8 * PAGE, 0).unwrap();
        m.check();
    }
}

/// Prepares after the mappings, and remembers how many there were.
struct Later {
    iommu: Arc<Iommu>,
    mappings: AtomicUsize,
    refuses: AtomicBool,
}

impl Listener<()> for Later {
    fn name(&self) -> &str {
        "later"
    }

    fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        let mappings = self.iommu.mappings();
        self.mappings.store(mappings, Ordering::Relaxed);
        match self.refuses.load(Ordering::Relaxed) {
            true => Err("refused".into()),
            false => Ok(()),
        }
    }
}

#[test]
fn mappings_are_added_in_prepare_and_removed_when_all_have_prepared() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        let later = Arc::new(Later {
            iommu: m.iommu.clone(),
            mappings: AtomicUsize::default(),
            refuses: AtomicBool::default(),
        });
        m.model.add_listener(m.space, 2, later.clone()).unwrap();
        let seen = || later.mappings.load(Ordering::Relaxed);
        // A device that cannot have new memory refuses before anything is visible.
        m.place(PLAIN, 0, 0).unwrap();
        assert_eq!((seen(), m.iommu.mappings()), (1, 1));
        // A device keeps its memory until no one can refuse.
        let calls = m.iommu.calls();
        later.refuses.store(true, Ordering::Relaxed);
        assert!(m.place(PLAIN, 32 * PAGE, 0).is_err());
        assert_eq!((seen(), m.iommu.calls()), (1, calls));
        assert!(m.reached(0).is_some());
        later.refuses.store(false, Ordering::Relaxed);
        m.place(PLAIN, 32 * PAGE, 0).unwrap();
        assert!(m.reached(0).is_none() && m.reached(32).is_some());
        m.check();
    }
}
