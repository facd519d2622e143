// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM in an `Arc` is the VM.

use std::os::fd::AsFd;
use std::sync::Arc;

use kvm_bindings::{KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_NR_MEMSLOTS};
use kvm_slots::convert::{Converter, ConvertibleMemory, ConvertibleRange, Home, Request};
use kvm_slots::convert::{GuestMemfdSides, PageState};
use kvm_slots::dirty::{DirtyCapabilities, DirtyCollector, DirtyMode, LoggingVm, ManualProtect};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{
    AbiProfile, Capabilities, Errno, FileSlice, GuestMemfdFlags, HostMemory, SlotAccess,
    SlotBacking, SlotRange, Slots, Vm,
};

use crate::common::{HOST, PAGE, logged, ram};

fn config() -> SimConfig {
    SimConfig {
        private_pages: true,
        vm_type: VmType::SwProtected,
        ..SimConfig::released(KernelVersion::V7_3)
    }
}

/// What can be asked of a VM without changing it.
fn answers(vm: &impl Vm) -> String {
    let capabilities = [KVM_CAP_NR_MEMSLOTS, KVM_CAP_DIRTY_LOG_RING_ACQ_REL];
    let capabilities = capabilities.map(|capability| vm.check_extension(capability));
    let (page, bits) = (vm.page_size(), vm.address_bits());
    let pushes = (vm.push_map().is_some(), vm.push_pages().is_some());
    format!("{capabilities:?} {page:?} {bits:?} {pushes:?}")
}

#[test]
fn a_shared_vm_answers_as_the_vm_itself() {
    let narrow = SimConfig {
        physical_bits: 39,
        ..config()
    };
    let platform = SimConfig {
        home: Home::Platform,
        ..config()
    };
    for config in [config(), narrow, platform] {
        let vm = SimVm::new(config);
        let shared: Arc<dyn Vm> = Arc::new(vm.clone());
        assert_eq!(answers(&shared), answers(&vm));
        assert_eq!(Capabilities::probe(&shared), Capabilities::probe(&vm));
    }
}

#[test]
fn slots_and_conversions_can_share_a_vm_of_any_type() {
    let sim = SimVm::new(config());
    let vm: Arc<dyn Vm> = Arc::new(sim.clone());
    // SAFETY: only these slots are made, of memory that no one accesses.
    let mut slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
    // SAFETY: as above.
    let host = unsafe { HostMemory::new(HOST, 4 * PAGE, Arc::new(())) }.unwrap();
    let file = vm
        .create_guest_memfd(4 * PAGE, GuestMemfdFlags::empty())
        .unwrap();
    let refused = vm
        .set_file_attributes(file.as_fd(), 0, PAGE, 8)
        .unwrap_err();
    assert_eq!(
        refused.errno,
        sim.set_file_attributes(file.as_fd(), 0, PAGE, 8)
            .unwrap_err()
            .errno
    );
    let file = FileSlice::new(Arc::new(file), 0, 4 * PAGE).unwrap();
    let ram = SlotRange::new(0, SlotAccess::ReadWrite, SlotBacking::Host(host)).unwrap();
    let ram = ram.with_guest_memfd(file).unwrap();
    let plan = slots.plan(std::slice::from_ref(&ram)).unwrap();
    slots.apply(&plan).unwrap();
    assert_eq!(sim.memslots().len(), 1);

    let mut memory = ConvertibleMemory::new();
    memory
        .set_ranges(ConvertibleRange::new(&ram, GuestMemfdSides::Private))
        .unwrap();
    let home = Home::probe(&vm).unwrap();
    let converter = Converter::new(vm, home, memory);
    let request = Request::new(PAGE, PAGE, PageState::Private).unwrap();
    // Nothing is mapped at the host address, so its bytes cannot be discarded.
    let converted = converter.convert(request).unwrap();
    assert_eq!(converted.bytes, PAGE);
    assert!(!converted.not_discarded.is_empty());
}

#[test]
fn dirty_pages_of_a_shared_vm_are_those_of_the_vm() {
    let sim = SimVm::new(SimConfig::released(KernelVersion::V7_3));
    let vm: Arc<dyn LoggingVm> = Arc::new(sim.clone());
    assert_eq!(
        DirtyCapabilities::probe(&vm),
        DirtyCapabilities::probe(&sim)
    );
    // SAFETY: only these slots are made, of memory that no one accesses.
    let mut slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
    let plan = slots.plan(&[logged(ram(0, 4 * PAGE, HOST))]).unwrap();
    slots.apply(&plan).unwrap();
    assert_eq!(vm.get_dirty_log(0), Ok(vec![0]));
    assert_eq!(vm.get_dirty_log(1), sim.get_dirty_log(1));
    assert_eq!(vm.clear_dirty_log(0, 1, 1, &[0]), Err(Errno::EINVAL));
    assert_eq!(vm.reset_dirty_rings(), Err(Errno::EINVAL));
    let all = ManualProtect::all();
    assert_eq!(vm.set_manual_protect(all), sim.set_manual_protect(all));
    // Too late: there is a slot.
    assert_eq!(vm.enable_log_beside_ring(), Err(Errno::EINVAL));
    assert_eq!(vm.enable_dirty_ring(3), Err(Errno::EINVAL));
    let capabilities = Capabilities::probe(&vm);
    assert!(DirtyCollector::new(vm, &capabilities, DirtyMode::Log).is_ok());
}
