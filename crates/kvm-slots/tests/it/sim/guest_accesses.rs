// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results of a simulated guest's loads and stores.

use crate::common;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::guest::{Guest, MMIO};
use common::pages::Pages;
use common::region::device_page;
use common::{ABI, PAGE};
use kvm_bindings::KVM_MEM_READONLY;
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

const NONE: [&str; 0] = [];

fn guest() -> Guest {
    Guest::new(SimConfig {
        abi: ABI,
        ..SimConfig::released(KernelVersion::V7_3)
    })
}

fn pages(count: usize) -> Arc<Pages> {
    Arc::new(Pages::new(count * 0x1000))
}

#[test]
fn where_there_is_no_slot_every_access_is_an_exit() {
    let mut guest = guest();
    assert_eq!(guest.load(0x1000), Ok([MMIO; 4]));
    assert_eq!(guest.store(0x1004, &[1, 2]), Ok(()));
    assert_eq!(
        guest.exits(),
        ["read 4 at 0x1000", "write [1, 2] at 0x1004"]
    );
}

#[test]
fn an_exit_has_eight_bytes_at_most() {
    let mut guest = guest();
    assert_eq!(guest.load(0xffc), Ok([MMIO; 24]));
    assert_eq!(
        guest.exits(),
        [
            "read 4 at 0xffc",
            "read 8 at 0x1000",
            "read 8 at 0x1008",
            "read 4 at 0x1010",
        ]
    );
    assert_eq!(guest.store(0, &[7; 9]), Ok(()));
    assert_eq!(
        guest.exits(),
        ["write [7, 7, 7, 7, 7, 7, 7, 7] at 0x0", "write [7] at 0x8"]
    );
    assert_eq!(guest.load(0), Ok([]));
    assert_eq!(guest.exits(), NONE);
}

#[test]
fn ram_is_the_processs_own_memory_both_ways() {
    let (mut guest, ram) = (guest(), pages(2));
    guest.ram(0, 0x1000, 0, &ram);
    ram.write(0x18, b"from the host");
    assert_eq!(&guest.load::<13>(0x1018).unwrap(), b"from the host");
    guest.store(0x2ff8, b"theguest").unwrap();
    assert_eq!(&ram.read::<8>(0x1ff8), b"theguest");
    // Also across the border of two pages.
    guest.store(0x1ffe, b"page").unwrap();
    assert_eq!(&ram.read::<4>(0xffe), b"page");
    assert_eq!(guest.exits(), NONE);
}

#[test]
fn a_slots_ends_are_exact() {
    let (mut guest, ram) = (guest(), pages(1));
    guest.ram(0, 0x1000, 0, &ram);
    ram.write(0, &[1; 0x1000]);
    let bytes = [0xfff, 0x1000, 0x1fff, 0x2000].map(|gpa| guest.load::<1>(gpa).unwrap()[0]);
    assert_eq!(bytes, [MMIO, 1, 1, MMIO]);
}

#[test]
fn two_slots_may_show_the_same_memory() {
    let (mut guest, ram) = (guest(), pages(1));
    guest.ram(0, 0x1000, 0, &ram);
    guest.ram(1, 0x8000, KVM_MEM_READONLY, &ram);
    guest.store(0x1010, b"alias").unwrap();
    assert_eq!(&guest.load::<5>(0x8010).unwrap(), b"alias");
}

#[test]
fn a_moved_slot_takes_its_memory_with_it() {
    let (mut guest, ram) = (guest(), pages(1));
    guest.ram(0, 0x1000, 0, &ram);
    guest.store(0x1000, b"bar").unwrap();
    guest.ram(0, 0x8000, 0, &ram);
    assert_eq!(&guest.load::<3>(0x8000).unwrap(), b"bar");
    assert_eq!(guest.load(0x1000), Ok([MMIO; 3]));
    guest.delete(0);
    assert_eq!(guest.load(0x8000), Ok([MMIO; 3]));
}

#[test]
fn a_store_to_a_read_only_slot_is_an_exit_and_changes_nothing() {
    let (mut guest, rom) = (guest(), pages(1));
    rom.write(0, b"rom");
    guest.ram(0, 0x1000, KVM_MEM_READONLY, &rom);
    assert_eq!(&guest.load::<3>(0x1000).unwrap(), b"rom");
    guest.store(0x1000, b"ram").unwrap();
    assert_eq!(guest.exits(), ["write [72, 61, 6d] at 0x1000"]);
    assert_eq!(&rom.read::<3>(0), b"rom");
}

#[test]
fn an_access_half_in_ram_exits_for_the_other_half() {
    let (mut guest, ram) = (guest(), pages(1));
    guest.ram(0, 0x1000, 0, &ram);
    ram.write(0xffc, &[1, 2, 3, 4]);
    ram.write(0, &[5, 6, 7, 8]);
    assert_eq!(guest.load(0x1ffc), Ok([1, 2, 3, 4, MMIO, MMIO]));
    assert_eq!(guest.load(0xffe), Ok([MMIO, MMIO, 5, 6]));
    assert_eq!(guest.exits(), ["read 2 at 0x2000", "read 2 at 0xffe"]);
    guest.store(0x1ffe, &[9, 9, 8, 8]).unwrap();
    assert_eq!(guest.exits(), ["write [8, 8] at 0x2000"]);
    assert_eq!(ram.read(0xffc), [1, 2, 9, 9]);
}

#[test]
fn host_memory_that_is_not_there_fails_the_vcpu() {
    let (mut guest, ram) = (guest(), pages(2));
    guest.ram(0, 0x1000, 0, &ram);
    ram.forbid(0x1000, 0x1000);
    let failed = GuestFault::Failed(Errno::EFAULT);
    assert_eq!(guest.load::<1>(0x2000), Err(failed));
    assert_eq!(guest.store(0x2000, &[1]), Err(failed));
    // The processor needs both pages before it stores to either.
    assert_eq!(guest.store(0x1fff, &[1, 1]), Err(failed));
    assert_eq!(ram.read(0xfff), [0]);
    assert_eq!(guest.exits(), NONE);
}

#[test]
fn a_plain_vms_guest_memfd_is_reached_only_if_the_host_can_map_it() {
    let flags = [
        (GuestMemfdFlags::empty(), false),
        (GuestMemfdFlags::MMAP, true),
        (GuestMemfdFlags::all(), true),
    ];
    for (flags, by_file) in flags {
        let (mut guest, ram) = (guest(), pages(1));
        let file = File::from(guest.ram_and_file(0, 0x1000, &ram, flags));
        guest.store(0x1000, b"bytes").unwrap();
        let mut in_file = [0; 5];
        file.read_exact_at(&mut in_file, 0).unwrap();
        assert_eq!(&in_file == b"bytes", by_file, "{flags:?}");
        assert_eq!(&ram.read::<5>(0) == b"bytes", !by_file);
        assert_eq!(&guest.load::<5>(0x1000).unwrap(), b"bytes");
    }
}

#[test]
fn slices_of_one_dma_buf_are_at_their_offsets() {
    let mut guest = guest();
    let dma_buf = guest.vm().create_dma_buf(4 * PAGE).unwrap();
    guest.device(0, 0x1000, &dma_buf, 3 * PAGE);
    guest.device(1, 0x8000, &dma_buf, PAGE);
    guest.store(0x1010, b"three").unwrap();
    guest.store(0x8010, b"one").unwrap();

    let device = File::from(dma_buf);
    let mut bytes = [0; 5];
    device.read_exact_at(&mut bytes, 3 * PAGE + 0x10).unwrap();
    assert_eq!(&bytes, b"three");
    device.write_all_at(b"the device", PAGE + 0x20).unwrap();
    assert_eq!(&guest.load::<10>(0x8020).unwrap(), b"the device");
    assert_eq!(&guest.load::<3>(0x8010).unwrap(), b"one");
    assert_eq!(guest.exits(), NONE);
}

#[test]
fn a_revoked_dma_buf_fails_the_vcpu_until_it_is_back() {
    let mut guest = guest();
    let dma_buf = guest.vm().create_dma_buf(PAGE).unwrap();
    guest.device(0, 0x1000, &dma_buf, 0);
    guest.store(0x1000, b"registers").unwrap();

    guest.vm().set_revoked(dma_buf.as_fd(), true).unwrap();
    let revoked = GuestFault::Revoked {
        flags: 0,
        gpa: 0x1000,
        size: PAGE,
    };
    assert_eq!(guest.load::<9>(0x1000), Err(revoked));
    assert_eq!(guest.store(0x1ff8, &[0]), Err(revoked));
    assert_eq!(guest.exits(), NONE);
    // No new slot can use it meanwhile.
    let mut region = device_page(1, 0x8000, &dma_buf);
    // SAFETY: the slot has no memory of this process.
    let set = |region| unsafe { guest.vm().set_user_memory_region2(&region) };
    assert_eq!(set(region), Err(Errno::ENODEV));
    region.pad2[0] = PAGE;
    assert_eq!(set(region), Err(Errno::EINVAL));

    guest.vm().set_revoked(dma_buf.as_fd(), false).unwrap();
    assert_eq!(&guest.load::<9>(0x1000).unwrap(), b"registers");
}

#[test]
fn only_a_dma_buf_of_the_vm_can_be_revoked() {
    let guest = guest();
    let vm = guest.vm();
    let none = GuestMemfdFlags::empty();
    let guest_memfd = kvm_slots::Vm::create_guest_memfd(vm, PAGE, none).unwrap();
    assert_eq!(
        vm.set_revoked(guest_memfd.as_fd(), true),
        Err(Errno::EINVAL)
    );
    let others = SimVm::new(*vm.config()).create_dma_buf(PAGE).unwrap();
    assert_eq!(vm.set_revoked(others.as_fd(), true), Err(Errno::EINVAL));
    for size in [0, 1, PAGE + 1] {
        assert_eq!(vm.create_dma_buf(size).unwrap_err(), Errno::EINVAL);
    }
}
