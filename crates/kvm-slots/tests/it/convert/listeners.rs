// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which calls a listener gets, and what happens where it has no method of its own.

use std::sync::{Arc, Mutex};

use kvm_slots::convert::PrivateStays;
use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, ConvertError, Engine, FailedStep,
    GuestPages, Home, NotChanged, PageRange, PageState, Request, Stretch,
};
use kvm_slots::convert::{ConvertibleMemory, ConvertibleRange, GuestMemfdSides};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AbiProfile, Errno, FileSlice, SlotAccess, SlotBacking, SlotListener, SlotRange, Slots,
    VcpusStopped, Vm,
};
use memory_model::{Listener, SharedMemoryListener};
use vm_memory::MmapRegion;

use crate::common::PAGE;
use crate::common::layout::{Layout, Noting, SharedSteps, start};
use crate::common::region::private_vm;

const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;

/// Notes its calls, and refuses some of them.
#[derive(Debug, Default)]
struct Notes {
    is_unready: bool,
    refuses: bool,
    does_not_release: bool,
    calls: Mutex<Vec<String>>,
}

impl Notes {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl ConversionListener for Notes {
    fn name(&self) -> &str {
        "notes"
    }

    fn ready(&self) -> Result<(), ConversionListenerError> {
        match self.is_unready {
            true => Err("not ready".into()),
            false => Ok(()),
        }
    }

    fn prepare(&self, _: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        self.note("prepare");
        match self.refuses {
            true => Err("refused".into()),
            false => Ok(()),
        }
    }

    fn abort(&self, _: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        self.note("abort");
        match self.does_not_release {
            true => Err("not released".into()),
            false => Ok(()),
        }
    }

    fn commit(&self, _: &Conversion<'_>) {
        self.note("commit");
    }

    fn must_resync(&self) {
        self.note("must resync");
    }

    fn revoked(&self, pages: PageRange) {
        self.note(format!("revoked {pages}"));
    }
}

fn refusal(error: ConvertError) -> String {
    match error {
        ConvertError::Failed(failure) => {
            assert!(failure.not_undone.is_empty());
            assert!(matches!(&failure.cause, FailedStep::Listener { name, .. } if name == "notes"));
            failure.cause.to_string()
        }
        error => panic!("{error}"),
    }
}

#[test]
fn a_listener_that_is_not_ready_refuses_before_anything_is_prepared() {
    let mut layout = Layout::new();
    let notes = Arc::new(Notes {
        is_unready: true,
        ..Notes::default()
    });
    layout.converter.add_listener(notes.clone());
    let error = layout.converter.hypercall(0, 1, PRIVATE).unwrap_err();
    assert_eq!(refusal(error), "listener 'notes': not ready");
    assert_eq!(layout.log(), [""; 0]);
    assert_eq!(notes.take(), [""; 0]);
}

#[test]
fn a_listener_that_refuses_has_nothing_to_abort_unless_it_says_so() {
    let mut layout = Layout::new();
    let notes = Arc::new(Notes {
        refuses: true,
        ..Notes::default()
    });
    layout.converter.add_listener(notes.clone());
    let error = layout.converter.hypercall(0, 1, PRIVATE).unwrap_err();
    assert_eq!(refusal(error), "listener 'notes': refused");
    assert_eq!(notes.take(), ["prepare"]);
}

#[test]
fn pages_that_a_listener_does_not_release_stay_shared() {
    let mut layout = Layout::new();
    let _ = layout.converter.hypercall(0, 1, PRIVATE).unwrap();
    let stuck = Arc::new(Notes {
        does_not_release: true,
        ..Notes::default()
    });
    let refuses = Arc::new(Notes {
        refuses: true,
        ..Notes::default()
    });
    layout.converter.add_listener(stuck.clone());
    layout.converter.add_listener(refuses);
    let error = layout.converter.hypercall(0, 1, SHARED).unwrap_err();
    let ConvertError::Failed(failure) = error else {
        panic!("{error}");
    };
    let first = failure.not_undone.pages.first.unwrap();
    let page = PageRange::new(0, PAGE).unwrap();
    assert_eq!(first, (page, NotChanged::NotReleased));
    assert!(layout.vm().private().is_empty());
    // It has these pages still, and is not asked again.
    assert_eq!(stuck.take(), ["prepare", "abort"]);
}

#[test]
fn only_a_listener_that_cannot_follow_a_failed_rollback_has_to_resync() {
    let mut layout = Layout::new();
    let _ = layout.converter.hypercall(0, 1, PRIVATE).unwrap();
    let follows = Arc::new(Notes::default());
    let refuses = Arc::new(Notes {
        refuses: true,
        ..Notes::default()
    });
    layout.converter.add_listener(follows.clone());
    layout.converter.add_listener(refuses.clone());
    // Shared, two mappers, two aborts: then KVM does not make the page private again.
    start(&layout.steps, [(5, Errno::EIO)]);
    layout.converter.hypercall(0, 1, SHARED).unwrap_err();
    assert_eq!(layout.log()[5], "private 0-0: EIO");
    let followed = ["prepare", "abort", "prepare", "commit"];
    assert_eq!(follows.take(), followed);
    assert_eq!(refuses.take(), ["prepare", "prepare", "must resync"]);
}

#[test]
fn all_accepted_pages_are_revoked_one_run_after_the_other() {
    let mut layout = Layout::new();
    let notes = Arc::new(Notes::default());
    layout.converter.add_listener(notes.clone());
    for page in [20, 22] {
        let _ = layout.converter.hypercall(page * PAGE, 1, PRIVATE).unwrap();
    }
    layout.log();
    notes.take();
    let all = PageRange::new(20 * PAGE, 4 * PAGE).unwrap();
    let revoked = layout.converter.revoke(all).unwrap();
    assert_eq!(revoked.bytes, 2 * PAGE);
    assert!(revoked.not_shared.is_empty());
    let accepted = |pages: &mut ConvertibleMemory| pages.accepted(all).count();
    assert_eq!(layout.converter.with_pages(accepted).unwrap(), 0);
    let expected = ["revoked 0x14000..0x15000", "revoked 0x16000..0x17000"];
    assert_eq!(notes.take(), expected);
    assert_eq!(layout.log(), ["shared 20-20", "shared 22-22"]);
}

#[test]
fn the_listeners_of_this_crate_are_named_in_errors() {
    let memory = SharedMemoryListener::<MmapRegion<()>, ()>::of_owners();
    assert_eq!(ConversionListener::name(&memory), "guest memory of devices");
    let stays = PrivateStays::new(Home::VmAttributes);
    assert_eq!(Listener::<()>::name(&stays), "private pages");
    let vm = SimVm::new(private_vm(KernelVersion::V7_3));
    // SAFETY: no slots are made.
    let slots = unsafe { Slots::new(vm, AbiProfile::None) };
    let slots = SlotListener::<_, _>::new(slots, VcpusStopped);
    assert_eq!(Listener::<()>::name(&slots), "KVM memslots");
    assert_eq!(ConversionListener::name(&slots), "KVM memslots");
    assert_eq!(slots.abi(), AbiProfile::None);
    assert!(!slots.needs_resync());
}

/// No memory: only a record of page states, without a limit.
#[derive(Default)]
struct Recorded(Vec<(PageRange, PageState)>);

// SAFETY: there is no memory.
unsafe impl GuestPages for Recorded {
    fn memory(&self, _: PageRange) -> impl Iterator<Item = Stretch> + '_ {
        None.into_iter()
    }

    fn private(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        let all = self.0.iter();
        let private = all.filter(|(_, state)| *state == PageState::Private);
        private.filter_map(move |(pages, _)| pages.intersect(range))
    }

    fn accepted(&self, _: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        None.into_iter()
    }

    fn record(&mut self, range: PageRange, state: PageState) {
        self.0.push((range, state));
    }

    fn accept(&mut self, _: PageRange) {}

    fn revoke(&mut self, _: PageRange) {}
}

#[test]
fn a_record_of_pages_has_room_unless_it_says_otherwise() {
    let pages = Recorded::default();
    assert!(pages.has_room(PageRange::new(0, 1 << 40).unwrap()));
}

#[test]
fn a_new_vm_gets_the_pages_that_are_recorded_as_private() {
    let pages = |first, count| PageRange::new(first * PAGE, count * PAGE).unwrap();
    let mut recorded = Recorded::default();
    for range in [pages(1, 2), pages(7, 1)] {
        recorded.record(range, PageState::Private);
    }
    let vm = Noting::new(
        SimVm::new(private_vm(KernelVersion::V7_3)),
        &SharedSteps::default(),
    );
    let engine = Engine::new(vm, Home::VmAttributes);
    assert_eq!(engine.restore(&mut recorded).unwrap(), 3 * PAGE);
    assert_eq!(Vec::from_iter(engine.vm().private()), [1, 2, 7]);
    assert_eq!(format!("{engine:?}"), "Engine(listeners [])");
}

#[test]
fn a_plan_is_empty_if_no_page_changes() {
    use kvm_slots::convert::plan_conversion;

    let mut recorded = Recorded::default();
    recorded.record(PageRange::new(0, PAGE).unwrap(), PageState::Private);
    for (gpa, is_empty) in [(0, false), (PAGE, true)] {
        let request = Request::new(gpa, PAGE, PageState::Shared).unwrap();
        let plan = plan_conversion(&recorded, request).unwrap();
        assert_eq!(plan.is_empty(), is_empty);
    }
    let layout = Layout::new();
    let request = Request::new(0, PAGE, PageState::Private).unwrap();
    let plan = layout
        .converter
        .with_pages(|pages| plan_conversion(pages, request));
    assert!(!plan.unwrap().unwrap().is_empty());
}

#[test]
fn a_new_vm_gets_the_private_pages_of_its_files_and_the_platform_too() {
    for home in [Home::FileAttributes, Home::Platform] {
        let config = SimConfig {
            home,
            ..private_vm(KernelVersion::V7_3)
        };
        let sim = SimVm::new(config);
        let file = sim.create_guest_memfd(4 * PAGE, home.file_flags()).unwrap();
        let mut noting = Noting::new(sim, &SharedSteps::default());
        noting.adopt(&file, 8);
        let file = FileSlice::new(Arc::new(file), 0, 4 * PAGE).unwrap();
        let backing = SlotBacking::GuestMemfd { file, host: None };
        let range = SlotRange::new(8 * PAGE, SlotAccess::ReadWrite, backing).unwrap();
        let mut memory = ConvertibleMemory::new();
        let range = ConvertibleRange::new(&range, GuestMemfdSides::Both);
        memory.set_ranges(range).unwrap();
        let private = PageRange::new(9 * PAGE, 2 * PAGE).unwrap();
        memory.record(private, PageState::Private);
        let engine = Engine::new(noting, home);
        assert_eq!(engine.restore(&mut memory).unwrap(), 2 * PAGE, "{home}");
        assert_eq!(Vec::from_iter(engine.vm().private()), [9, 10], "{home}");
    }
}
