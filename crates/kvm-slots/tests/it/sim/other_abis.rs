// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks of a kernel with the RFCs' slots, and of a platform that maps push-style.

use crate::common;

use std::os::fd::{AsRawFd, OwnedFd};

use common::region::{CLOSED, EINVAL, Guestless, number, page, private_vm, wrong_files};
use common::{HOST, PAGE, file};
use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region2,
};
use kvm_slots::push::{PushMap, PushedRange, Released};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Errno, GuestMemfdFlags, Vm};

type Region = kvm_userspace_memory_region2;

const FLAG: u32 = 1 << 3;

fn rfc() -> Guestless {
    Guestless::new(SimConfig {
        abi: AbiProfile::RFC_DMA_BUF_BIT_3,
        ..private_vm(KernelVersion::V7_3)
    })
}

/// One page at `gpa`, on a dma-buf of one page.
fn whole(slot: u32, gpa: u64, file: &OwnedFd) -> Region {
    Region {
        flags: FLAG,
        userspace_addr: 0,
        guest_memfd: number(file),
        ..page(slot, gpa)
    }
}

#[test]
fn an_rfc_slot_has_a_dma_buf_as_a_whole() {
    let vm = rfc();
    let file = vm.dma_buf(4);
    for (offset, pages) in [(0, 1), (0, 3), (0, 5), (1, 3), (1, 4), (4, 1)] {
        let part = Region {
            memory_size: pages * PAGE,
            guest_memfd_offset: offset * PAGE,
            ..whole(0, 0, &file)
        };
        assert_eq!(vm.set(part), EINVAL, "{pages} from {offset} on");
    }
    let all = Region {
        memory_size: 4 * PAGE,
        ..whole(0, 0, &file)
    };
    assert_eq!(vm.set(all), Ok(()));
    // It is immutable.
    assert_eq!(vm.set(all), EINVAL);
    let moved = Region {
        guest_phys_addr: 8 * PAGE,
        ..all
    };
    assert_eq!(vm.set(moved), EINVAL);
    assert_eq!(vm.delete(0), Ok(()));
}

#[test]
fn an_rfc_slot_excludes_other_flags_and_other_files() {
    let vm = rfc();
    let dma_buf = vm.dma_buf(1);
    for other in [
        KVM_MEM_LOG_DIRTY_PAGES,
        KVM_MEM_READONLY,
        KVM_MEM_GUEST_MEMFD,
        1 << 4,
    ] {
        let flags = FLAG | other;
        let region = whole(0, 0, &dma_buf);
        assert_eq!(vm.set(Region { flags, ..region }), EINVAL, "{flags:#x}");
    }
    assert_eq!(vm.set_v1(whole(0, 0, &dma_buf)), EINVAL);
    for wrong in wrong_files().into_iter().chain([vm.file(1)]) {
        assert_eq!(vm.set(whole(0, 0, &wrong)), EINVAL, "{wrong:?}");
    }
    let closed = Region {
        guest_memfd: CLOSED,
        ..whole(0, 0, &dma_buf)
    };
    assert_eq!(vm.set(closed), Err(Errno::EBADF));
}

#[test]
fn a_plain_vm_does_not_know_the_rfcs_flag() {
    let vm = Guestless::new(SimConfig {
        abi: AbiProfile::RFC_DMA_BUF_BIT_3,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let file = vm.dma_buf(1);
    assert_eq!(vm.set(whole(0, 0, &file)), EINVAL);
    assert_eq!(rfc().set(page(0, 0)), Ok(()), "nor is it needed");
}

fn pushing() -> (SimVm, OwnedFd) {
    let vm = SimVm::new(SimConfig {
        abi: AbiProfile::Push,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let file = vm.create_dma_buf(4 * PAGE).unwrap();
    (vm, file)
}

fn pushed(gpa: u64, size: u64, fd: i32, offset: u64) -> PushedRange {
    let file = file(fd, offset);
    PushedRange { gpa, size, file }
}

#[test]
fn only_a_platform_that_maps_at_once_has_a_push_map() {
    assert!(pushing().0.push_map().is_some());
    let released = SimVm::new(SimConfig::released(KernelVersion::V7_3));
    assert!(released.push_map().is_none());
}

#[test]
fn push_style_mappings_are_whole_pages_inside_a_dma_buf() {
    let (vm, dma_buf) = pushing();
    let fd = dma_buf.as_raw_fd();
    for (gpa, size, offset) in [
        (1, PAGE, 0),
        (0, PAGE + 1, 0),
        (0, PAGE, 8),
        (0, 0, 0),
        (0, 5 * PAGE, 0),
        (0, PAGE, 4 * PAGE),
        (0, PAGE, PAGE.wrapping_neg()),
        (PAGE.wrapping_neg(), 2 * PAGE, 0),
        (1 << 46, PAGE, 0),
    ] {
        let range = pushed(gpa, size, fd, offset);
        assert_eq!(vm.map(&range), EINVAL, "{range:?}");
    }
    assert_eq!(vm.map(&pushed(0, PAGE, -1, 0)), Err(Errno::EBADF));
    let guest_memfd = vm.create_guest_memfd(PAGE, GuestMemfdFlags::empty());
    for wrong in wrong_files().into_iter().chain(guest_memfd) {
        let range = pushed(0, PAGE, wrong.as_raw_fd(), 0);
        assert_eq!(vm.map(&range), EINVAL, "{wrong:?}");
    }
    assert_eq!(vm.memslots(), []);
    let last = pushed((1 << 46) - PAGE, PAGE, fd, 3 * PAGE);
    assert_eq!(vm.map(&last), Ok(()));
}

#[test]
fn push_style_mappings_do_not_overlap_and_are_unmapped_as_a_whole() {
    let (vm, dma_buf) = pushing();
    let fd = dma_buf.as_raw_fd();
    let range = pushed(4 * PAGE, 2 * PAGE, fd, PAGE);
    assert_eq!(vm.map(&range), Ok(()));
    for (gpa, size) in [(3, 2), (4, 2), (5, 1), (5, 4), (2, 4)] {
        let over = pushed(gpa * PAGE, size * PAGE, fd, 0);
        assert_eq!(vm.map(&over), Err(Errno::EEXIST), "{over:?}");
    }
    // SAFETY: no vCPU runs, so that no one accesses the address.
    unsafe { vm.set_user_memory_region2(&page(0, 8 * PAGE)) }.unwrap();
    let over = pushed(7 * PAGE, 2 * PAGE, fd, 0);
    assert_eq!(vm.map(&over), Err(Errno::EEXIST));

    for (gpa, size) in [(4, 1), (5, 1), (0, 1)] {
        let other = pushed(gpa * PAGE, size * PAGE, fd, PAGE);
        assert_eq!(vm.unmap(&other), Err(Errno::ENOENT), "{other:?}");
    }
    assert_eq!(vm.unmap(&range), Ok(Released::Done));
    assert_eq!(vm.unmap(&range), Err(Errno::ENOENT));
    let [left] = vm.memslots()[..] else {
        panic!("{:?}", vm.memslots());
    };
    assert_eq!((left.id, left.userspace_addr), (Some(0), HOST));
}
