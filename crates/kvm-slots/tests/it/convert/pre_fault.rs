// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mapping converted pages before the guest accesses them.

use crate::common;

use std::cell::RefCell;

use common::PAGE;
use common::layout::{Layout, pages_of};
use common::region::private_vm;
use kvm_slots::convert::{
    ConvertibleMemory, ConvertibleRange, Engine, GuestMemfdSides, Home, PageRange, PageState,
    PreFault, Request,
};
use kvm_slots::sim::{KernelVersion, SimVm};
use kvm_slots::uapi::PreFaultError;
use kvm_slots::{Errno, SlotBacking};

/// A vCPU that records what is mapped for it, up to a page that cannot be mapped.
#[derive(Default)]
struct Vcpu {
    mapped: RefCell<Vec<PageRange>>,
    fails_at: Option<u64>,
}

impl PreFault for Vcpu {
    fn pre_fault(&self, pages: PageRange) -> Result<(), PreFaultError> {
        if let Some(gpa) = self.fails_at.filter(|gpa| pages.contains(*gpa)) {
            return Err(PreFaultError {
                gpa,
                size: pages.end() - gpa,
                errno: Errno::EAGAIN,
            });
        }
        self.mapped.borrow_mut().push(pages);
        Ok(())
    }
}

fn request(first: u64, count: u64, to: PageState) -> Request {
    Request::new(first * PAGE, count * PAGE, to).unwrap()
}

fn pages(vcpu: &Vcpu) -> Vec<u64> {
    let mapped = vcpu.mapped.borrow();
    mapped.iter().flat_map(|range| pages_of(*range)).collect()
}

#[test]
fn all_memory_of_a_request_is_mapped_after_it_has_changed() {
    let (layout, vcpu) = (Layout::new(), Vcpu::default());
    let to_private = request(6, 4, PageState::Private);
    let converted = layout.converter.convert_and_pre_fault(to_private, &vcpu);
    let converted = converted.unwrap();
    assert_eq!(converted.bytes, 4 * PAGE);
    assert_eq!(converted.not_pre_faulted, None);
    assert_eq!(pages(&vcpu), [6, 7, 8, 9]);
    // Holes have nothing to map.
    let vcpu = Vcpu::default();
    let to_shared = request(8, 8, PageState::Shared);
    let converted = layout.converter.convert_and_pre_fault(to_shared, &vcpu);
    assert_eq!(converted.unwrap().bytes, 2 * PAGE);
    assert_eq!(pages(&vcpu), [8, 9, 10, 11]);
}

#[test]
fn nothing_is_mapped_if_nothing_changed_or_the_request_was_refused() {
    let (layout, vcpu) = (Layout::new(), Vcpu::default());
    let shared = request(0, 2, PageState::Shared);
    let converted = layout.converter.convert_and_pre_fault(shared, &vcpu);
    assert_eq!(converted.unwrap().bytes, 0);
    let plain = request(10, 8, PageState::Private);
    assert!(
        layout
            .converter
            .convert_and_pre_fault(plain, &vcpu)
            .is_err()
    );
    assert_eq!(pages(&vcpu), [0; 0]);
}

#[test]
fn memory_that_cannot_be_mapped_is_reported_and_the_conversion_holds() {
    let layout = Layout::new();
    let vcpu = Vcpu {
        fails_at: Some(9 * PAGE),
        ..Vcpu::default()
    };
    let to_private = request(6, 4, PageState::Private);
    let converted = layout.converter.convert_and_pre_fault(to_private, &vcpu);
    let converted = converted.unwrap();
    assert_eq!(converted.bytes, 4 * PAGE);
    let left = converted.not_pre_faulted.unwrap();
    assert_eq!((left.gpa, left.errno), (9 * PAGE, Errno::EAGAIN));
    assert_eq!(layout.vm().private().len(), 4);
}

#[test]
fn an_engine_without_a_converter_reports_it_too() {
    let vm = SimVm::new(private_vm(KernelVersion::V7_3));
    let file = common::file(-1, 0);
    let backing = SlotBacking::GuestMemfd { file, host: None };
    let range = common::range(0, 8 * PAGE, backing);
    let range = ConvertibleRange::new(&range, GuestMemfdSides::Both).unwrap();
    let mut memory = ConvertibleMemory::new();
    memory.set_ranges([range]).unwrap();
    let engine = Engine::new(vm, Home::VmAttributes);
    let vcpu = Vcpu {
        fails_at: Some(3 * PAGE),
        ..Vcpu::default()
    };
    let to_private = request(2, 4, PageState::Private);
    let converted = engine.convert_and_pre_fault(&mut memory, to_private, &vcpu);
    let converted = converted.unwrap();
    assert_eq!(converted.bytes, 4 * PAGE);
    assert_eq!(converted.not_pre_faulted.unwrap().gpa, 3 * PAGE);
}
