// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listeners that only do what they must, and what they are told.

use std::sync::{Arc, Mutex};

use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, ConvertError, Engine, FailedStep,
    GuestPages, Home, PageRange, PageState, Request, Stretch,
};
use kvm_slots::sim::{KernelVersion, SimVm};
use memory_model::SharedMemoryListener;
use vm_memory::MmapRegion;

use crate::common::PAGE;
use crate::common::layout::{Layout, Noting, SharedSteps};
use crate::common::region::private_vm;

const PRIVATE: u64 = 1 << 4;

/// Notes its calls, and refuses some of them.
#[derive(Debug, Default)]
struct Notes {
    is_unready: bool,
    refuses: bool,
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
        Ok(())
    }

    fn commit(&self, _: &Conversion<'_>) {
        self.note("commit");
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
    let accepted = |pages: &mut kvm_slots::convert::ConvertibleMemory| pages.accepted(all).count();
    assert_eq!(layout.converter.with_pages(accepted).unwrap(), 0);
    let expected = ["revoked 0x14000..0x15000", "revoked 0x16000..0x17000"];
    assert_eq!(notes.take(), expected);
    assert_eq!(layout.log(), ["shared 20-20", "shared 22-22"]);
}

#[test]
fn the_memory_of_emulated_devices_is_named_in_errors() {
    let listener = SharedMemoryListener::<MmapRegion<()>, ()>::of_owners();
    assert_eq!(
        ConversionListener::name(&listener),
        "guest memory of devices"
    );
}

/// Memory of two pages at 0 that records what it is told, without a limit.
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
