// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener without a memory model: devices reach the shared pages of the listed RAM.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest_ranges::{AddrRange, HostMemory, PageSet};
use kvm_slots::convert::{
    ConvertError, ConvertibleMemory, ConvertibleRange, Engine, GuestMemfdSides, GuestPages, Home,
    PageRange, Request,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{GuestMemfdFlags, SlotAccess, SlotBacking, SlotRange, Vm};
use proptest::prelude::*;
use vfio_dma::listener::{DmaFollowError, RamListener};
use vfio_dma::{
    AddressSpace, DmaAccess, DmaLimits, DmaPlanError, DmaRange, DmaRefusal, Gaps, LeftOut,
    SimIommu, SimIommuKind,
};

use crate::support::machine::{HOLE, Iommu, LARGE_PAGE, Refuser, host, slice};
use crate::support::{PAGE, When, pages};

/// The pages that are looked at.
const PAGES: u64 = 48;
/// RAM by its first page and number of pages, and whether it has a private side. The first
/// two touch.
const RAM: [(u64, u64, bool); 4] = [(0, 8, false), (8, 12, true), (24, 4, true), (36, 8, true)];

/// A guest whose RAM comes and goes, and which converts it.
struct Guest {
    engine: Engine<SimVm>,
    memory: ConvertibleMemory,
    hosts: Vec<HostMemory>,
    convertible: Vec<Option<ConvertibleRange>>,
    present: [bool; RAM.len()],
    iommu: Arc<Iommu>,
    iommu_page: u64,
    unit: u64,
    dma: Arc<RamListener<Arc<Iommu>>>,
    refuser: Arc<Refuser>,
}

impl Guest {
    fn new(iommu_page: u64, unit: u64, gaps: Gaps) -> Self {
        let vm = SimVm::new(SimConfig {
            private_pages: true,
            vm_type: VmType::SwProtected,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let hosts: Vec<HostMemory> = RAM.iter().map(|ram| host(ram.1)).collect();
        let convertible = RAM.iter().zip(&hosts).map(|(&(at, count, private), host)| {
            let file = vm.create_guest_memfd(count * PAGE, GuestMemfdFlags::empty());
            let backing = SlotBacking::GuestMemfd {
                file: slice(file.unwrap(), count),
                host: Some(host.clone()),
            };
            let range = SlotRange::new(at * PAGE, SlotAccess::ReadWrite, backing).unwrap();
            ConvertibleRange::new(&range, GuestMemfdSides::Private).filter(|_| private)
        });
        let convertible = convertible.collect();
        let allowed = [0..HOLE.start, HOLE.end..1 << 30];
        let allowed = allowed.map(|all| pages(all.start, all.end - all.start));
        let limits = DmaLimits::new(iommu_page, allowed, None).unwrap();
        let iommu = Arc::new(Iommu::new(SimIommuKind::Iommufd, limits));
        let dma = Arc::new(RamListener::new(Arc::clone(&iommu), gaps).unwrap());
        let refuser = Arc::new(Refuser::default());
        let mut engine = Engine::new(vm.clone(), Home::probe(&vm).unwrap());
        engine.add_listener(dma.clone());
        engine.add_listener(refuser.clone());
        Self {
            engine,
            memory: ConvertibleMemory::new(),
            hosts,
            convertible,
            present: [false; RAM.len()],
            iommu,
            iommu_page,
            unit,
            dma,
            refuser,
        }
    }

    fn with_all_ram(iommu_page: u64, unit: u64, gaps: Gaps) -> Self {
        let mut guest = Self::new(iommu_page, unit, gaps);
        guest.show([true; RAM.len()]).unwrap();
        guest
    }

    fn ram(&self, present: [bool; RAM.len()]) -> Vec<DmaRange> {
        let all = RAM.iter().zip(&self.hosts).zip(present);
        let range = |&(at, _, private): &(u64, u64, bool), host: &HostMemory| {
            let range = DmaRange::new(at * PAGE, host.clone(), DmaAccess::ReadWrite).unwrap();
            match private {
                true => range.in_units_of(self.unit).unwrap(),
                false => range,
            }
        };
        // In any order.
        all.rev()
            .filter(|(_, present)| *present)
            .map(|((ram, host), _)| range(ram, host))
            .collect()
    }

    /// Shows this RAM to devices and to the engine.
    fn show(&mut self, present: [bool; RAM.len()]) -> Result<(), DmaFollowError> {
        self.dma.set_ram(self.ram(present), &self.private())?;
        let convertible = self.convertible.iter().zip(present);
        let convertible = convertible.filter(|(_, present)| *present);
        let convertible = convertible.filter_map(|(range, _)| range.clone());
        self.memory.set_ranges(convertible).unwrap();
        self.present = present;
        Ok(())
    }

    fn private(&self) -> PageSet {
        let all = PageRange::new(0, PAGES * PAGE).unwrap();
        let mut private = PageSet::new();
        for part in self.memory.private(all) {
            private.insert(part.into());
        }
        private
    }

    fn convert(&mut self, at: u64, count: u64, private: bool) -> Result<u64, ConvertError> {
        let request = Request::hypercall(at * PAGE, count, u64::from(private) << 4).unwrap();
        let converted = self.engine.convert(&mut self.memory, request);
        converted.map(|converted| converted.bytes)
    }

    /// What a device should reach of a page, the slow way.
    fn due(&self, page: u64) -> Option<(u64, bool)> {
        let count = self.iommu_page / PAGE;
        let inside = page % count;
        let address = self.shared(page - inside)?;
        let at = |n: u64| Some(address + n * PAGE);
        let is_aligned = address % self.iommu_page == 0;
        let is_whole = (0..count).all(|n| self.shared(page - inside + n) == at(n));
        Some((at(inside)?, true)).filter(|_| is_aligned && is_whole)
    }

    fn shared(&self, page: u64) -> Option<u64> {
        if HOLE.contains(&page) || self.private().contains(page * PAGE) {
            return None;
        }
        let is_present = self.present[number_of(page)?];
        self.host(page).filter(|_| is_present)
    }

    /// The address of a page's memory, whether it is present or not.
    fn host(&self, page: u64) -> Option<u64> {
        let number = number_of(page)?;
        Some(self.hosts[number].address() + (page - RAM[number].0) * PAGE)
    }

    fn check(&self) {
        for page in 0..PAGES {
            assert_eq!(self.iommu.reached(page), self.due(page), "page {page}");
        }
        assert_eq!(self.dma.table().len(), self.iommu.mappings());
    }

    /// That devices reach no private page, and no memory but that of the page.
    fn check_safety(&self) {
        for page in 0..PAGES {
            let reached = self.iommu.reached(page);
            let of_page = self.host(page).map(|address| (address, true));
            let is_private = self.private().contains(page * PAGE);
            let is_safe = reached.is_none() || (reached == of_page && !is_private);
            assert!(is_safe, "page {page}");
        }
    }
}

/// The RAM that has a page.
fn number_of(page: u64) -> Option<usize> {
    RAM.iter()
        .position(|&(at, count, _)| (at..at + count).contains(&page))
}

#[derive(Clone, Debug)]
enum Op {
    Show([bool; RAM.len()]),
    Convert(u64, u64, bool),
}

/// What goes wrong meanwhile.
#[derive(Clone, Debug)]
enum Trouble {
    Nothing,
    /// A listener behind refuses.
    Refusal,
    /// These calls on the IOMMU fail.
    Calls(Vec<u64>),
    /// A call on the IOMMU panics.
    Panic(u64, bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => any::<[bool; RAM.len()]>().prop_map(Op::Show),
        4 => (0..PAGES - 20, 1..20_u64, any::<bool>()).prop_map(|(at, n, p)| Op::Convert(at, n, p)),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::Nothing),
        1 => Just(Trouble::Refusal),
        2 => prop::collection::vec(0..12_u64, 1..4).prop_map(Trouble::Calls),
        1 => (0..6_u64, any::<bool>()).prop_map(|(call, after)| Trouble::Panic(call, after)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn devices_reach_the_shared_pages_of_listed_ram_at_every_step(
        iommu_page in prop_oneof![Just(PAGE), Just(LARGE_PAGE)],
        unit in prop_oneof![Just(PAGE), Just(4 * PAGE), Just(1 << 21)],
        gaps in prop_oneof![Just(Gaps::Allow), Just(Gaps::Refuse)],
        repairs in any::<bool>(),
        steps in prop::collection::vec((op(), trouble()), 1..40),
    ) {
        let mut guest = Guest::with_all_ram(iommu_page, unit, gaps);
        guest.check();
        for (op, trouble) in steps {
            match &trouble {
                Trouble::Nothing => {}
                Trouble::Refusal => guest.refuser.0.store(true, Ordering::Relaxed),
                Trouble::Calls(calls) => calls.iter().for_each(|call| guest.iommu.fail(*call, 12)),
                Trouble::Panic(call, true) => guest.iommu.panics(*call, When::After),
                Trouble::Panic(call, false) => guest.iommu.panics(*call, When::Before),
            }
            let needed_resync = guest.dma.needs_resync();
            let carried_out = catch_unwind(AssertUnwindSafe(|| match op {
                Op::Show(present) => guest.show(present).is_ok(),
                Op::Convert(at, count, private) => guest.convert(at, count, private).is_ok(),
            }));
            guest.refuser.0.store(false, Ordering::Relaxed);
            guest.iommu.fail_no_more();
            guest.iommu.panics_no_more();
            guest.check_safety();
            if guest.dma.needs_resync() {
                let may_fail = matches!(trouble, Trouble::Calls(_) | Trouble::Panic(..));
                prop_assert!(needed_resync || (may_fail && !matches!(carried_out, Ok(true))));
                // Sometimes no one repairs anything, and the guest goes on.
                if repairs {
                    guest.show(guest.present).unwrap();
                }
            }
            if !guest.dma.needs_resync() {
                guest.check();
            }
        }
        // All that is mapped goes with what it shows.
        guest.show([false; RAM.len()]).unwrap();
        prop_assert!(!guest.dma.needs_resync());
        prop_assert_eq!(guest.iommu.mappings(), 0);
    }
}

#[test]
fn a_conversion_maps_and_unmaps_its_own_units_only() {
    let mut guest = Guest::with_all_ram(PAGE, PAGE, Gaps::Refuse);
    // The plain RAM is one mapping, and there is a hole in the last one.
    assert_eq!(guest.iommu.mappings(), 1 + 12 + 4 + 6);
    let before = guest.iommu.calls();
    guest.convert(9, 2, true).unwrap();
    assert_eq!(
        guest.iommu.calls() - before,
        1,
        "one call unmaps adjacent mappings"
    );
    guest.convert(9, 1, false).unwrap();
    assert_eq!(guest.iommu.calls() - before, 2);
    guest.check();
}

#[test]
fn a_part_of_a_unit_is_refused_unless_gaps_are_allowed() {
    let mut guest = Guest::with_all_ram(PAGE, 4 * PAGE, Gaps::Refuse);
    let error = guest.convert(9, 1, true).unwrap_err();
    let ConvertError::Failed(failure) = error else {
        panic!("{error}");
    };
    assert!(failure.to_string().contains("DMA mappings"), "{failure}");
    assert!(failure.not_undone.pages.is_empty() && !guest.dma.needs_resync());
    guest.check();
    guest.convert(8, 4, true).unwrap();
    guest.check();
    let mut guest = Guest::with_all_ram(PAGE, 4 * PAGE, Gaps::Allow);
    guest.convert(9, 1, true).unwrap();
    guest.check();
}

#[test]
fn a_private_page_takes_the_others_of_its_iommu_page_with_it() {
    let mut guest = Guest::with_all_ram(LARGE_PAGE, PAGE, Gaps::Refuse);
    guest.convert(9, 1, true).unwrap_err();
    guest.check();
    let mut guest = Guest::with_all_ram(LARGE_PAGE, PAGE, Gaps::Allow);
    guest.convert(9, 1, true).unwrap();
    assert_eq!(guest.iommu.reached(8), None);
    guest.check();
    guest.convert(9, 1, false).unwrap();
    assert!(guest.iommu.reached(8).is_some());
    guest.check();
}

#[test]
fn ram_that_overlaps_is_refused_even_where_it_is_private() {
    let guest = Guest::new(PAGE, PAGE, Gaps::Refuse);
    let ram = |at: u64, count: u64| DmaRange::new(at * PAGE, host(count), DmaAccess::Read).unwrap();
    let mut private = PageSet::new();
    private.insert(AddrRange::ALL);
    let error = guest.dma.set_ram([ram(4, 2), ram(0, 5)], &private);
    let overlap = matches!(
        error.unwrap_err(),
        DmaFollowError::Plan(DmaPlanError::Overlap { first, .. }) if first.iova() == pages(0, 5)
    );
    assert!(overlap && guest.iommu.calls() == 0);
}

#[test]
fn what_cannot_be_mapped_is_reported() {
    let guest = Guest::new(PAGE, PAGE, Gaps::Refuse);
    let plan = guest
        .dma
        .set_ram(guest.ram([true; RAM.len()]), &PageSet::new());
    let hole = pages(HOLE.start, HOLE.end - HOLE.start);
    assert_eq!(plan.unwrap().left_out, [(hole, LeftOut::Hole)]);
}

#[test]
fn ram_that_cannot_be_mapped_leaves_the_ram_as_it_was() {
    let mut guest = Guest::new(PAGE, PAGE, Gaps::Refuse);
    guest.show([true, false, false, false]).unwrap();
    guest.iommu.fail(2, 12);
    guest.show([false, true, true, true]).unwrap_err();
    assert!(!guest.dma.needs_resync());
    guest.check();
    guest.show([false, true, true, true]).unwrap();
    guest.check();
}

/// An IOMMU that reaches fewer IOVAs once a device is there.
struct Narrowing(SimIommu, AtomicBool);

impl AddressSpace for Narrowing {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        self.0.map(range)
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        self.0.unmap(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        match self.1.load(Ordering::Relaxed) {
            true => Ok(DmaLimits::new(PAGE, [pages(0, 4)], None).unwrap()),
            false => self.0.limits(),
        }
    }
}

#[test]
fn what_a_new_device_cannot_reach_is_left_out_from_then_on() {
    let limits = DmaLimits::new(PAGE, [pages(0, 64)], None).unwrap();
    let iommu = SimIommu::new(SimIommuKind::Type1, limits);
    let dma = RamListener::new(Narrowing(iommu, AtomicBool::new(false)), Gaps::Refuse).unwrap();
    let ram = DmaRange::new(0, host(8), DmaAccess::ReadWrite).unwrap();
    let show = || dma.set_ram([ram.clone()], &PageSet::new()).unwrap();
    assert_eq!(show().left_out, []);
    dma.space().1.store(true, Ordering::Relaxed);
    dma.device_added().unwrap();
    dma.set_ram([], &PageSet::new()).unwrap();
    assert_eq!(show().left_out, [(pages(4, 4), LeftOut::Hole)]);
}
