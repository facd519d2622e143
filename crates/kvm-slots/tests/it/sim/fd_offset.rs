// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks of a kernel with a device's file and an offset in the padding, enabled by a
//! flag.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::common;

use common::region::{
    CLOSED, EBADF, EEXIST, EINVAL, Guestless, device_page, file_page, number, page, wrong_files,
};
use common::{ABI, HOST, PAGE};
use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region2,
};
use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::{AbiProfile, Errno};

type Region = kvm_userspace_memory_region2;

const FLAG: u32 = 1 << 4;

fn patched() -> Guestless {
    Guestless::new(SimConfig {
        abi: ABI,
        ..SimConfig::released(KernelVersion::V7_3)
    })
}

/// The region with another offset into the file.
fn at(region: Region, offset: u64) -> Region {
    let mut region = region;
    region.pad2[0] = offset;
    region
}

#[test]
fn a_released_kernel_does_not_know_the_flag() {
    let vm = Guestless::released(KernelVersion::V7_3);
    let file = vm.dma_buf(1);
    assert_eq!(vm.set(device_page(0, 0, &file)), EINVAL);
}

#[test]
fn the_flag_is_the_profiles_and_no_other() {
    let vm = Guestless::new(SimConfig {
        abi: AbiProfile::FdOffset { flag: 1 << 9 },
        ..SimConfig::released(KernelVersion::V6_18)
    });
    let file = vm.dma_buf(1);
    let region = device_page(0, 0, &file);
    assert_eq!(vm.set(region), EINVAL);
    assert_eq!(
        vm.set(Region {
            flags: 1 << 9,
            ..region
        }),
        Ok(())
    );
}

#[test]
fn without_the_flag_the_padding_is_still_not_looked_at() {
    let vm = patched();
    let mut garbage = page(0, 0);
    garbage.pad1 = CLOSED;
    garbage.pad2.fill(u64::MAX);
    assert_eq!(vm.set(garbage), Ok(()));
}

#[test]
fn there_is_no_host_address() {
    let vm = patched();
    let file = vm.dma_buf(1);
    let region = device_page(0, 0, &file);
    for userspace_addr in [HOST, PAGE, 1] {
        assert_eq!(
            vm.set(Region {
                userspace_addr,
                ..region
            }),
            EINVAL
        );
    }
    assert_eq!(vm.set(region), Ok(()));
}

#[test]
fn a_slice_is_whole_pages_inside_the_file() {
    let vm = patched();
    let file = vm.dma_buf(4);
    let region = device_page(0, 0, &file);
    for offset in [1, 0x800, PAGE + 8] {
        assert_eq!(vm.set(at(region, offset)), EINVAL);
    }
    let near_the_end_of_i64 = (1 << 63) - PAGE;
    for offset in [4 * PAGE, near_the_end_of_i64, 1 << 63, PAGE.wrapping_neg()] {
        assert_eq!(vm.set(at(region, offset)), EINVAL, "{offset:#x}");
    }
    let two = Region {
        memory_size: 2 * PAGE,
        ..region
    };
    assert_eq!(vm.set(at(two, 3 * PAGE)), EINVAL);
    assert_eq!(vm.set(at(two, 2 * PAGE)), Ok(()));
}

#[test]
fn a_file_that_is_not_open_for_reading_and_writing_is_eacces_before_its_size_is_looked_at() {
    let vm = patched();
    let file = vm.dma_buf(1);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let read_only = File::options().read(true).open(&path).unwrap();
    let write_only = File::options().write(true).open(&path).unwrap();
    let region = device_page(0, 0, &file);
    for other in [&read_only, &write_only] {
        let pad1 = number(other);
        let other = Region { pad1, ..region };
        assert_eq!(vm.set(other), Err(Errno::EACCES));
        assert_eq!(vm.set(at(other, PAGE)), Err(Errno::EACCES));
    }
    assert_eq!(vm.set(region), Ok(()));
}

#[test]
fn a_number_that_is_no_descriptor_is_ebadf_and_any_other_file_is_einval() {
    let vm = patched();
    let file = vm.dma_buf(1);
    for fd in [CLOSED, u32::MAX] {
        let region = Region {
            pad1: fd,
            ..device_page(0, 0, &file)
        };
        assert_eq!(vm.set(region), EBADF);
    }
    for wrong in wrong_files() {
        assert_eq!(vm.set(device_page(0, 0, &wrong)), EINVAL, "{wrong:?}");
    }
}

#[test]
fn a_guest_memfd_is_not_a_devices_file_or_vice_versa() {
    let vm = patched();
    let (guest_memfd, dma_buf) = (vm.file(1), vm.dma_buf(1));
    assert_eq!(vm.set(device_page(0, 0, &guest_memfd)), EINVAL);
    assert_eq!(vm.set(file_page(0, 0, &dma_buf)), EINVAL);
    assert_eq!(vm.set(file_page(0, 0, &guest_memfd)), Ok(()));
    assert_eq!(vm.set(device_page(1, PAGE, &dma_buf)), Ok(()));
}

#[test]
fn no_other_flag_goes_with_it() {
    let vm = patched();
    let (guest_memfd, dma_buf) = (vm.file(1), vm.dma_buf(1));
    let region = Region {
        guest_memfd: number(&guest_memfd),
        ..device_page(0, 0, &dma_buf)
    };
    for other in [
        KVM_MEM_LOG_DIRTY_PAGES,
        KVM_MEM_READONLY,
        KVM_MEM_GUEST_MEMFD,
        1 << 5,
    ] {
        let flags = FLAG | other;
        assert_eq!(vm.set(Region { flags, ..region }), EINVAL, "{flags:#x}");
    }
    assert_eq!(vm.set_v1(region), EINVAL);
}

#[test]
fn the_place_is_looked_at_before_the_file() {
    let vm = patched();
    let file = vm.dma_buf(1);
    assert_eq!(vm.set(page(0, 0)), Ok(()));
    let bad = Region {
        pad1: CLOSED,
        ..device_page(1, 0, &file)
    };
    assert_eq!(vm.set(bad), EEXIST);
}

#[test]
fn a_slot_on_a_devices_file_is_immutable() {
    let vm = patched();
    let file = vm.dma_buf(2);
    let slot = device_page(0, 0, &file);
    assert_eq!(vm.set(slot), Ok(()));
    for again in [
        slot,
        Region {
            guest_phys_addr: PAGE,
            ..slot
        },
        at(slot, PAGE),
        page(0, 0),
        Region {
            userspace_addr: 0,
            ..page(0, 0)
        },
    ] {
        assert_eq!(vm.set(again), EINVAL, "{again:?}");
    }
    assert_eq!(vm.delete(0), Ok(()));
    assert_eq!(vm.set(at(slot, PAGE)), Ok(()));
}

#[test]
fn two_slots_may_show_the_same_registers() {
    let vm = patched();
    let file = vm.dma_buf(1);
    assert_eq!(vm.set(device_page(0, 0, &file)), Ok(()));
    assert_eq!(vm.set(device_page(1, PAGE, &file)), Ok(()));
}
