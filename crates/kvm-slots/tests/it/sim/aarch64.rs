// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the simulated KVM does differently on arm64, at each page size.

use crate::common;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use common::guest::{Guest, MMIO};
use common::pages::Pages;
use common::region::{ALL, EEXIST, EINVAL, Guestless, number, page};
use common::{HOST, PAGE};
use kvm_bindings::{
    KVM_CAP_ARM_VM_IPA_SIZE, KVM_CAP_MEMORY_FAULT_INFO, KVM_CAP_MULTI_ADDRESS_SPACE,
    KVM_CAP_PRE_FAULT_MEMORY, KVM_CAP_VM_TYPES, KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES,
    kvm_userspace_memory_region2,
};
use kvm_slots::dirty::{LoggingVm, ManualProtect};
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{
    Aarch64, Arch, FileCall, KernelVersion, PreFault, Sharing, SimConfig, SimVm, VmType,
};
use kvm_slots::{AddressBits, Capabilities, Errno, GuestMemfdFlags, PageSize, Vm};

type Region = kvm_userspace_memory_region2;

const LATEST: KernelVersion = KernelVersion::V7_3;
const MMAP: u64 = 1;

fn config(page_size: PageSize) -> SimConfig {
    SimConfig::aarch64(LATEST, page_size)
}

/// A slot of one page of that size.
fn page_of(page_size: PageSize, slot: u32, gpa: u64) -> Region {
    Region {
        memory_size: page_size.bytes(),
        ..page(slot, gpa)
    }
}

/// The same slot on a guest_memfd.
fn on_file(region: Region, file: &impl AsRawFd) -> Region {
    Region {
        flags: KVM_MEM_GUEST_MEMFD,
        guest_memfd: number(file),
        ..region
    }
}

#[test]
fn slots_are_whole_pages_of_the_kernel_and_not_of_the_machine_that_simulates_it() {
    for page_size in PageSize::ALL {
        let (vm, size) = (Guestless::new(config(page_size)), page_size.bytes());
        let good = page_of(page_size, 0, size);
        for off in (PAGE..size).step_by(0x1000).chain([1, 512]) {
            let gpa = Region {
                guest_phys_addr: size + off,
                ..good
            };
            let memory = Region {
                userspace_addr: HOST + off,
                ..good
            };
            let end = Region {
                memory_size: size + off,
                ..good
            };
            for region in [gpa, memory, end] {
                assert_eq!(vm.set(region), EINVAL, "{page_size}: {region:x?}");
            }
        }
        assert_eq!(vm.set(good), Ok(()));
    }
}

#[test]
fn a_slot_beyond_the_guest_is_a_bad_address_once_nothing_else_is_wrong() {
    for bits in [32, 40, 48] {
        let vm = Guestless::new(SimConfig {
            physical_bits: bits,
            ..config(PageSize::Size16K)
        });
        let (size, end) = (0x4000, 1 << bits);
        let two = |slot, gpa| Region {
            memory_size: 2 * size,
            ..page(slot, gpa)
        };
        assert_eq!(vm.set(two(0, end)), Err(Errno::EFAULT));
        assert_eq!(vm.set(two(0, end - size)), Err(Errno::EFAULT));
        assert_eq!(vm.set(two(0, end - 2 * size)), Ok(()));
        // Other slots are checked first, and so is the file.
        assert_eq!(vm.set(two(1, end - size)), EEXIST);
        let file = vm.create(4 * size, MMAP).unwrap();
        let cut = Region {
            guest_memfd_offset: 3 * size,
            ..on_file(two(1, end), &file)
        };
        assert_eq!(vm.set(cut), EINVAL);
        let inside = Region {
            guest_memfd_offset: size,
            ..cut
        };
        assert_eq!(vm.set(inside), Err(Errno::EFAULT));
        // A move there leaves the slot where it was.
        assert_eq!(vm.set(two(0, end)), Err(Errno::EFAULT));
        assert_eq!(vm.set(two(1, end - 2 * size)), EEXIST);
    }
}

#[test]
fn the_kernels_configuration_decides_where_user_addresses_end() {
    for va_bits in [39, 48, 52] {
        let machine = Aarch64 {
            va_bits,
            ..Aarch64::default()
        };
        let vm = Guestless::new(SimConfig {
            arch: Arch::Aarch64(machine),
            ..config(PageSize::Size64K)
        });
        let end = 1 << va_bits;
        let at = |userspace_addr| Region {
            userspace_addr,
            ..page_of(PageSize::Size64K, 0, 0)
        };
        assert_eq!(vm.set(at(end)), EINVAL);
        // A tag in the upper byte is no part of an address, but refused.
        assert_eq!(vm.set(at(1 << 56)), EINVAL);
        assert_eq!(vm.set(at(end - 0x1_0000)), Ok(()));
    }
}

#[test]
fn a_file_in_a_slot_is_one_that_the_host_can_map() {
    let (vm, size) = (Guestless::new(config(PageSize::Size16K)), 0x4000);
    for (flags, expected) in [(0, EINVAL), (2, EINVAL), (MMAP, Ok(())), (3, Ok(()))] {
        let file = vm.create(size, flags).unwrap();
        let region = on_file(page_of(PageSize::Size16K, 0, 0), &file);
        assert_eq!(vm.set(region), expected, "flags {flags}");
        let _ = vm.delete(0);
    }
}

#[test]
fn sizes_holes_and_mappings_of_files_are_whole_pages_of_the_kernel() {
    let vm = SimVm::new(config(PageSize::Size64K));
    let create = |size| vm.create_guest_memfd(size, GuestMemfdFlags::all());
    assert_eq!(create(0x4000).unwrap_err(), Errno::EINVAL);
    let file = create(0x2_0000).unwrap();
    let hole = |offset, len| FileCall::Allocate {
        mode: libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
        offset,
        len,
    };
    for (offset, len) in [(0x1000, 0x1_0000), (0, 0x1000), (0x4000, 0x4000)] {
        assert_eq!(vm.file_call(file.as_fd(), hole(offset, len)), EINVAL);
    }
    assert_eq!(vm.file_call(file.as_fd(), hole(0x1_0000, 0x1_0000)), Ok(()));
    let map = |offset| vm.map_file(file.as_fd(), offset, 0x1_0000, Sharing::Shared);
    assert_eq!(map(0x1000).unwrap_err(), Errno::EINVAL);
    for _ in 0..4 {
        assert_eq!(map(0x1_0000).unwrap().address() % 0x1_0000, 0);
    }
}

#[test]
fn ioctls_and_capabilities_of_other_architectures_are_missing() {
    for kernel in ALL {
        let vm = SimVm::new(SimConfig {
            private_pages: true,
            vm_type: VmType::SwProtected,
            smm: true,
            ..SimConfig::aarch64(kernel, PageSize::Size4K)
        });
        assert_eq!(vm.set_memory_attributes(0, PAGE, 0), EINVAL);
        let mut range = PreFault {
            gpa: 0,
            size: PAGE,
            flags: 0,
        };
        assert_eq!(vm.pre_fault(&mut range), EINVAL);
        for capability in [
            KVM_CAP_MULTI_ADDRESS_SPACE,
            KVM_CAP_PRE_FAULT_MEMORY,
            KVM_CAP_MEMORY_FAULT_INFO,
            KVM_CAP_VM_TYPES,
        ] {
            assert_eq!(vm.check_extension(capability), 0, "{capability}");
            assert_eq!(vm.config().device_extension(capability), 0, "{capability}");
        }
        let capabilities = Capabilities::probe(&vm);
        assert_eq!(capabilities.nr_memslots, 32767);
        assert_eq!(capabilities.memory_attributes, 0);
        let has_files = kernel >= KernelVersion::V6_18;
        assert_eq!(capabilities.guest_memfd, has_files, "{kernel}");
        let file = vm.create_guest_memfd(PAGE, GuestMemfdFlags::empty());
        assert_eq!(file.map(drop), if has_files { Ok(()) } else { EINVAL });
        let mut second = page(1 << 16, 0);
        assert_eq!(Guestless::new(*vm.config()).set_v1(second), EINVAL);
        second.slot = 32766;
        assert_eq!(Guestless::new(*vm.config()).set_v1(second), Ok(()));
        second.slot = 32767;
        assert_eq!(Guestless::new(*vm.config()).set_v1(second), EINVAL);
    }
}

#[test]
fn the_type_of_a_vm_is_the_width_of_its_addresses() {
    let base = config(PageSize::Size4K);
    for (number, bits) in [(0, 40), (32, 32), (36, 36), (40, 40), (48, 48)] {
        let vm = SimVm::create(base, number).unwrap();
        assert_eq!(vm.address_bits(), Some(AddressBits::Exact(bits)));
        assert_eq!(vm.check_extension(KVM_CAP_ARM_VM_IPA_SIZE), 48);
    }
    for number in [1, 31, 49, 52, 1 << 31, 1 << 40, u64::MAX] {
        assert_eq!(SimVm::create(base, number).unwrap_err(), Errno::EINVAL);
    }
    // A processor without the default width has no VM of type 0.
    let narrow = SimConfig {
        arch: Arch::Aarch64(Aarch64 {
            ipa_limit: 36,
            ..Aarch64::default()
        }),
        ..base
    };
    assert_eq!(SimVm::create(narrow, 0).unwrap_err(), Errno::EINVAL);
    assert!(SimVm::create(narrow, 36).is_ok());
}

#[test]
fn an_access_across_the_end_of_a_slot_exits_once_where_the_slot_is_not() {
    for page_size in PageSize::ALL {
        let size = page_size.bytes();
        let mut guest = Guest::new(config(page_size));
        let ram = Arc::new(Pages::new(usize::try_from(2 * size).unwrap()));
        guest.aligned_ram(0, 4 * size, size, &ram);
        let end = 5 * size;
        guest.store(end - 8, &[9; 8]).unwrap();
        assert_eq!(guest.load(end - 4), Ok([MMIO; 8]));
        assert_eq!(guest.store(end - 3, &[1, 2, 3, 4]), Ok(()));
        assert_eq!(guest.load(4 * size - 2), Ok([MMIO; 4]));
        assert_eq!(
            guest.exits(),
            [
                format!("read 8 at {end:#x}"),
                format!("write [1, 2, 3, 4] at {end:#x}"),
                format!("read 4 at {:#x}", 4 * size - 2),
            ]
        );
        // The store has changed no byte of the slot.
        assert_eq!(guest.load(end - 8), Ok([9; 8]));
    }
}

#[test]
fn an_exit_without_a_register_fails() {
    let mut guest = Guest::new(config(PageSize::Size4K));
    let failed = GuestFault::Failed(Errno::ENOSYS);
    assert_eq!(guest.load::<16>(0), Err(failed));
    assert_eq!(guest.store(0, &[0; 3]), Err(failed));
    assert!(guest.exits().is_empty());
}

#[test]
fn a_log_has_one_bit_for_each_page_of_the_kernel() {
    let vm = SimVm::new(config(PageSize::Size16K));
    vm.set_manual_protect(ManualProtect::all()).unwrap();
    let region = Region {
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        memory_size: 130 * 0x4000,
        ..page(0, 0)
    };
    // SAFETY: this VM runs no guest, so nothing accesses the memory.
    unsafe { vm.set_user_memory_region2(&region) }.unwrap();
    assert_eq!(vm.get_dirty_log(0).unwrap(), [u64::MAX, u64::MAX, 3]);
    assert_eq!(vm.clear_dirty_log(0, 32, 64, &[u64::MAX]), EINVAL);
    assert_eq!(vm.clear_dirty_log(0, 64, 32, &[u64::MAX]), EINVAL);
    assert_eq!(vm.clear_dirty_log(0, 64, 64, &[1 << 5]), Ok(()));
    let expected = [u64::MAX, !(1 << 5), 3];
    assert_eq!(vm.get_dirty_log(0).unwrap(), expected);
}
