// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Options of the kernel's build and host: SMM, the second page table, an emulated guest;
//! and pre-faulting.

use crate::common;

use std::sync::Arc;

use common::PAGE;
use common::guest::{Guest, MMIO};
use common::pages::Pages;
use common::region::{EINVAL, Guestless, page, private_vm};
use kvm_bindings::{
    KVM_CAP_GUEST_MEMFD, KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_MULTI_ADDRESS_SPACE,
    KVM_CAP_NR_MEMSLOTS, KVM_CAP_PRE_FAULT_MEMORY, KVM_CAP_VM_TYPES,
};
use kvm_slots::sim::{KernelVersion, PreFault, SimConfig, SimVm, VmType};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

/// Since Linux 6.18.
const KVM_CAP_GUEST_MEMFD_FLAGS: u32 = 244;

fn released() -> SimConfig {
    SimConfig::released(KernelVersion::V7_3)
}

fn pre_fault(guest: &Guest, gpa: u64, pages: u64) -> (Result<(), Errno>, u64) {
    let mut range = PreFault {
        gpa,
        size: pages * PAGE,
        flags: 0,
    };
    let result = guest.vm().pre_fault(&mut range);
    assert_eq!(range.gpa + range.size, gpa + pages * PAGE);
    (result, range.size / PAGE)
}

#[test]
fn a_kernel_makes_the_types_of_vm_that_it_lists_and_no_others() {
    let listed = |config: &SimConfig| config.device_extension(KVM_CAP_VM_TYPES);
    for (config, types) in [
        (SimConfig::released(KernelVersion::V6_1), 0),
        (released(), 1),
        (private_vm(KernelVersion::V6_12), 3),
        (private_vm(KernelVersion::V7_3), 3),
    ] {
        assert_eq!(listed(&config), types, "{config}");
        for number in (0..64).chain([1 << 32, u64::MAX]) {
            let made = SimVm::create(config, number);
            // 6.1 lists no types, and makes plain VMs.
            let is_made = number == 0 || (number < 31 && types & (1 << number) != 0);
            assert_eq!(made.is_ok(), is_made, "{config}: {number}");
            if let Ok(vm) = made {
                let attributes = vm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES);
                assert_eq!(attributes != 0, number == 1, "{config}: {number}");
            }
        }
    }
}

#[test]
fn the_device_answers_for_vms_of_every_type() {
    let private = private_vm(KernelVersion::V7_3);
    let old = private_vm(KernelVersion::V6_12);
    // The configuration names one type of VM, which must make no difference.
    for vm_type in [VmType::Plain, VmType::SwProtected] {
        for (config, capability, answer) in [
            (private, KVM_CAP_MEMORY_ATTRIBUTES, 8),
            (released(), KVM_CAP_MEMORY_ATTRIBUTES, 0),
            (private, KVM_CAP_GUEST_MEMFD_FLAGS, 3),
            (old, KVM_CAP_GUEST_MEMFD_FLAGS, 0),
            (old, KVM_CAP_GUEST_MEMFD, 1),
            (private, KVM_CAP_MULTI_ADDRESS_SPACE, 2),
            (private, KVM_CAP_NR_MEMSLOTS, 32764),
        ] {
            let config = SimConfig { vm_type, ..config };
            let answered = config.device_extension(capability);
            assert_eq!(answered, answer, "{config}: {capability}");
        }
    }
}

#[test]
fn without_smm_there_is_one_address_space() {
    let smm = false;
    let vm = Guestless::new(SimConfig { smm, ..released() });
    assert_eq!(vm.address_spaces(), 1);
    assert_eq!(vm.set(page(1 << 16, 0)), EINVAL);
    assert_eq!(vm.set(page(1, 0)), Ok(()));
}

#[test]
fn without_a_second_page_table_slots_lie_below_2_to_52() {
    let config = SimConfig {
        two_dimensional_paging: false,
        ..released()
    };
    let vm = Guestless::new(config);
    assert_eq!(vm.set(page(0, 1 << 52)), EINVAL);
    assert_eq!(vm.set(page(0, (1 << 52) - PAGE)), Ok(()));
    let guest = Guest::new(config);
    assert_eq!(guest.vm().check_extension(KVM_CAP_PRE_FAULT_MEMORY), 0);
    assert_eq!(pre_fault(&guest, 0, 1), (Err(Errno::EOPNOTSUPP), 1));
}

#[test]
fn pre_faulting_goes_as_far_as_the_slot() {
    let mut guest = Guest::new(released());
    guest.ram(0, 0x4000, 0, &Arc::new(Pages::new(0x2000)));
    assert_eq!(guest.vm().check_extension(KVM_CAP_PRE_FAULT_MEMORY), 1);
    assert_eq!(pre_fault(&guest, 0x4000, 2), (Ok(()), 0));
    assert_eq!(pre_fault(&guest, 0x5000, 2), (Ok(()), 1));
    assert_eq!(pre_fault(&guest, 0x6000, 1), (Err(Errno::ENOENT), 1));
    assert_eq!(pre_fault(&guest, 0x4000, 0), (EINVAL, 0));
}

#[test]
fn pre_faulting_takes_the_side_that_the_guest_would() {
    let mut guest = Guest::new(private_vm(KernelVersion::V7_3));
    let ram = Arc::new(Pages::new(0x2000));
    let file = guest.ram_and_file(0, 0x4000, &ram, GuestMemfdFlags::empty());
    guest.convert(0x5000, true);
    ram.forbid(0, 0x2000);
    // The shared page has no memory any more; the private one does not mind.
    assert_eq!(pre_fault(&guest, 0x4000, 2), (Err(Errno::EFAULT), 2));
    assert_eq!(pre_fault(&guest, 0x5000, 1), (Ok(()), 0));
    drop(file);
    assert_eq!(pre_fault(&guest, 0x5000, 1), (Err(Errno::EFAULT), 1));
}

#[test]
fn an_older_kernel_does_not_know_pre_faulting() {
    let guest = Guest::new(SimConfig::released(KernelVersion::V6_1));
    assert_eq!(guest.vm().check_extension(KVM_CAP_PRE_FAULT_MEMORY), 0);
    assert_eq!(pre_fault(&guest, 0, 1), (EINVAL, 1));
}

#[test]
fn an_emulated_guest_goes_by_host_addresses_and_exits_where_there_is_no_memory() {
    let mut guest = Guest::new(SimConfig {
        emulates_guest: true,
        ..released()
    });
    let ram = Arc::new(Pages::new(0x2000));
    let _file = guest.ram_and_file(0, 0x4000, &ram, GuestMemfdFlags::all());
    // A processor would reach the file.
    guest.store(0x4000, b"bytes").unwrap();
    assert_eq!(&ram.read::<5>(0), b"bytes");
    ram.forbid(0x1000, 0x1000);
    assert_eq!(guest.load(0x5000), Ok([MMIO; 4]));
    guest.store(0x4ffe, &[1; 4]).unwrap();
    assert_eq!(ram.read(0xffe), [1; 2]);
    assert_eq!(
        guest.exits(),
        ["read 4 at 0x5000", "write [1, 1] at 0x5000"]
    );
}
