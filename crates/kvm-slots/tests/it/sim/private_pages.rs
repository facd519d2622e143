// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Private pages: the attribute's ioctl, and a simulated guest's accesses.

use crate::common;

use std::sync::Arc;

use common::PAGE;
use common::guest::{Guest, MMIO};
use common::pages::Pages;
use common::region::{EINVAL, Guestless, NEWER, private_vm};
use kvm_bindings::KVM_MEM_READONLY;
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, GuestMemfdFlags};

const PRIVATE: u64 = MEMORY_ATTRIBUTE_PRIVATE;

fn guest() -> Guest {
    Guest::new(private_vm(KernelVersion::V7_3))
}

fn pages(count: usize) -> Arc<Pages> {
    Arc::new(Pages::new(count * 0x1000))
}

/// The fault that a private access to the page at `gpa` is.
fn private_fault(gpa: u64) -> GuestFault {
    GuestFault::Memory {
        flags: MEMORY_EXIT_FLAG_PRIVATE,
        gpa,
        size: PAGE,
    }
}

#[test]
fn a_kernel_without_private_pages_does_not_know_the_ioctl() {
    for kernel in NEWER {
        let vm = Guestless::released(kernel);
        assert_eq!(vm.capabilities().memory_attributes, 0);
        assert_eq!(vm.set_attributes(0, PAGE, PRIVATE), Err(Errno::ENOTTY));
        // It does not check its arguments.
        assert_eq!(vm.set_attributes(1, 0, u64::MAX), Err(Errno::ENOTTY));
    }
    // However it was built, 6.1 has none.
    let old = Guestless::new(private_vm(KernelVersion::V6_1));
    assert_eq!(old.capabilities().memory_attributes, 0);
    assert_eq!(old.set_attributes(0, PAGE, PRIVATE), Err(Errno::ENOTTY));
}

#[test]
fn a_plain_vm_has_no_attribute_to_set() {
    for kernel in NEWER {
        let vm = Guestless::new(SimConfig {
            private_pages: true,
            ..SimConfig::released(kernel)
        });
        assert_eq!(vm.capabilities().memory_attributes, 0);
        assert_eq!(vm.set_attributes(0, PAGE, PRIVATE), EINVAL);
        assert_eq!(vm.set_attributes(0, PAGE, 0), Ok(()));
    }
}

#[test]
fn the_only_attribute_is_private() {
    for kernel in NEWER {
        let vm = Guestless::new(private_vm(kernel));
        assert_eq!(vm.capabilities().memory_attributes, PRIVATE);
        for bit in 0..64 {
            let attributes = 1 << bit;
            let expected = if attributes == PRIVATE {
                Ok(())
            } else {
                EINVAL
            };
            assert_eq!(vm.set_attributes(0, PAGE, attributes), expected);
        }
        assert_eq!(vm.set_attributes(0, PAGE, PRIVATE | 1), EINVAL);
    }
}

#[test]
fn attributes_are_set_on_whole_pages_that_do_not_wrap() {
    let vm = Guestless::new(private_vm(KernelVersion::V7_3));
    let last = PAGE.wrapping_neg();
    for (gpa, size) in [
        (0, 0),
        (1, PAGE),
        (0, 1),
        (0, PAGE + 1),
        (last, PAGE),
        (last, 2 * PAGE),
    ] {
        assert_eq!(
            vm.set_attributes(gpa, size, PRIVATE),
            EINVAL,
            "{gpa:#x} {size:#x}"
        );
        assert_eq!(vm.set_attributes(gpa, size, 0), EINVAL);
    }
    // No slot is needed. Pages in this state may be set again, and many at once.
    assert_eq!(vm.set_attributes(0, 512 << 40, PRIVATE), Ok(()));
    assert_eq!(vm.set_attributes(0, 512 << 40, PRIVATE), Ok(()));
    assert_eq!(vm.set_attributes(0, 512 << 40, 0), Ok(()));
}

#[test]
fn a_private_access_without_a_guest_memfd_is_a_fault_with_its_page() {
    let (mut guest, ram) = (guest(), pages(4));
    guest.ram(0, 0x1000, 0, &ram);
    guest.convert(0x3000, true);
    assert_eq!(guest.load::<4>(0x3ff8), Err(private_fault(0x3000)));
    assert_eq!(guest.store(0x3010, &[1]), Err(private_fault(0x3000)));
    // Adjacent pages are unchanged, also in one access.
    assert_eq!(guest.store(0x2ffe, &[1; 4]), Err(private_fault(0x3000)));
    assert_eq!(ram.read(0x1ffc), [0; 6]);
    assert_eq!(guest.load(0x4000), Ok([0; 4]));
    guest.convert(0x3000, false);
    assert_eq!(guest.load(0x3000), Ok([0; 4]));
}

#[test]
fn a_private_access_without_a_slot_is_a_fault_and_no_exit() {
    let mut guest = guest();
    guest.convert(0x5000, true);
    assert_eq!(guest.load::<1>(0x5fff), Err(private_fault(0x5000)));
    assert_eq!(guest.load(0x4fff), Ok([MMIO]));
    assert_eq!(guest.load(0x6000), Ok([MMIO]));
}

#[test]
fn a_private_store_to_a_read_only_slot_is_a_fault_and_no_exit() {
    let (mut guest, rom) = (guest(), pages(1));
    guest.ram(0, 0x1000, KVM_MEM_READONLY, &rom);
    guest.convert(0x1000, true);
    assert_eq!(guest.store(0x1000, &[1]), Err(private_fault(0x1000)));
    assert_eq!(guest.load::<1>(0x1000), Err(private_fault(0x1000)));
    assert_eq!(guest.exits(), [""; 0]);
}

#[test]
fn private_and_shared_bytes_of_a_page_are_separate() {
    let (mut guest, ram) = (guest(), pages(2));
    let _file = guest.ram_and_file(0, 0x1000, &ram, GuestMemfdFlags::empty());
    guest.store(0x1ffc, b"shared").unwrap();
    guest.convert(0x1000, true);
    assert_eq!(guest.load(0x1ffc), Ok([0, 0, 0, 0, b'e', b'd']));
    guest.store(0x1ffc, b"secret").unwrap();
    assert_eq!(&guest.load::<6>(0x1ffc).unwrap(), b"secret");
    // The host sees the shared bytes: the old ones, and the second page's.
    assert_eq!(&ram.read::<6>(0xffc), b"sharet");
    guest.convert(0x1000, false);
    assert_eq!(&guest.load::<6>(0x1ffc).unwrap(), b"sharet");
}

#[test]
fn host_changes_reach_shared_pages_and_never_private_ones() {
    let (mut guest, ram) = (guest(), pages(2));
    let _file = guest.ram_and_file(0, 0x1000, &ram, GuestMemfdFlags::empty());
    guest.convert(0x1000, true);
    guest.store(0x1000, b"mine").unwrap();
    ram.write(0, b"host");
    ram.write(0x1000, b"host");
    assert_eq!(&guest.load::<4>(0x1000).unwrap(), b"mine");
    assert_eq!(&guest.load::<4>(0x2000).unwrap(), b"host");
    // Not even if the mapping is no longer there.
    ram.forbid(0, 0x2000);
    assert_eq!(&guest.load::<4>(0x1000).unwrap(), b"mine");
    let failed = GuestFault::Failed(Errno::EFAULT);
    assert_eq!(guest.load::<4>(0x2000), Err(failed));
}

#[test]
fn a_file_that_the_host_can_map_holds_both_kinds_of_pages() {
    let (mut guest, ram) = (guest(), pages(1));
    let _file = guest.ram_and_file(0, 0x1000, &ram, GuestMemfdFlags::MMAP);
    guest.store(0x1000, b"in place").unwrap();
    guest.convert(0x1000, true);
    assert_eq!(&guest.load::<8>(0x1000).unwrap(), b"in place");
    assert_eq!(ram.read(0), [0; 8]);
}
