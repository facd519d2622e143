// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls on a simulated guest_memfd, and the effects of closing it.

use crate::common;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use common::PAGE;
use common::guest::Guest;
use common::pages::Pages;
use common::region::{EINVAL, Guestless, file_page, private_vm, wrong_files};
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{FileCall, KernelVersion, Sharing, SimConfig};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = KEEP | libc::FALLOC_FL_PUNCH_HOLE;

fn plain() -> SimConfig {
    SimConfig::released(KernelVersion::V7_3)
}

fn allocate(guest: &Guest, file: &OwnedFd, mode: i32, offset: i64, len: i64) -> Result<(), Errno> {
    let call = FileCall::Allocate { mode, offset, len };
    guest.vm().file_call(file.as_fd(), call)
}

#[test]
fn a_hole_takes_the_private_bytes_and_no_others() {
    let mut guest = Guest::new(private_vm(KernelVersion::V7_3));
    let ram = Arc::new(Pages::new(0x2000));
    let file = guest.ram_and_file(0, 0x1000, &ram, GuestMemfdFlags::empty());
    ram.write(0, b"shared");
    for gpa in [0x1000, 0x2000] {
        guest.convert(gpa, true);
        guest.store(gpa, b"secret").unwrap();
    }
    assert_eq!(allocate(&guest, &file, PUNCH, 0, 0x1000), Ok(()));
    assert_eq!(guest.load(0x1000), Ok([0; 6]));
    assert_eq!(&guest.load::<6>(0x2000).unwrap(), b"secret");
    guest.convert(0x1000, false);
    assert_eq!(&guest.load::<6>(0x1000).unwrap(), b"shared");
}

#[test]
fn allocated_pages_take_memory_until_they_are_discarded() {
    let guest = Guest::new(plain());
    let file = guest
        .vm()
        .create_guest_memfd(4 * PAGE, GuestMemfdFlags::empty());
    let file = File::from(file.unwrap());
    let is = |pages: u64| assert_eq!(file.metadata().unwrap().blocks() * 512, pages * PAGE);
    let allocate = |mode, offset, len| {
        let call = FileCall::Allocate { mode, offset, len };
        guest.vm().file_call(file.as_fd(), call)
    };
    is(0);
    assert_eq!(allocate(KEEP, 0x1000, 0x2000), Ok(()));
    is(2);
    // Past the end there is nothing to allocate, not even in part.
    assert_eq!(allocate(KEEP, 0x3000, 0x2000), EINVAL);
    is(2);
    assert_eq!(allocate(PUNCH, 0x1000, 0x1000), Ok(()));
    is(1);
    assert_eq!(file.metadata().unwrap().len(), 4 * PAGE);
}

#[test]
fn a_refused_hole_changes_nothing() {
    let mut guest = Guest::new(plain());
    let ram = Arc::new(Pages::new(0x1000));
    let file = guest.ram_and_file(0, 0x1000, &ram, GuestMemfdFlags::all());
    guest.store(0x1000, b"bytes").unwrap();
    for (mode, offset, len, error) in [
        (PUNCH, 1, 0x1000, Errno::EINVAL),
        (PUNCH, 0, 0xfff, Errno::EINVAL),
        (PUNCH, 0, 0, Errno::EINVAL),
        (PUNCH, 0, -0x1000, Errno::EINVAL),
        (PUNCH, 0x1000, i64::MAX, Errno(libc::EFBIG)),
        (libc::FALLOC_FL_PUNCH_HOLE, 0, 0x1000, Errno::EOPNOTSUPP),
        (
            PUNCH | libc::FALLOC_FL_ZERO_RANGE,
            0,
            0x1000,
            Errno::EOPNOTSUPP,
        ),
        (1 << 20, 0, 0x1000, Errno::EOPNOTSUPP),
    ] {
        assert_eq!(allocate(&guest, &file, mode, offset, len), Err(error));
    }
    assert_eq!(&guest.load::<5>(0x1000).unwrap(), b"bytes");
    // To allocate is no change either.
    assert_eq!(allocate(&guest, &file, KEEP, 0, 0x1000), Ok(()));
    assert_eq!(&guest.load::<5>(0x1000).unwrap(), b"bytes");
}

#[test]
fn a_file_that_is_no_guest_memfd_of_the_vm_takes_no_call() {
    let (guest, other) = (Guest::new(plain()), Guestless::new(plain()));
    let mut files = wrong_files();
    files.push(other.file(1));
    files.push(guest.vm().create_dma_buf(PAGE).unwrap());
    for file in files {
        assert_eq!(allocate(&guest, &file, PUNCH, 0, 0x1000), EINVAL);
        let mapped = guest.vm().map_file(file.as_fd(), 0, PAGE, Sharing::Shared);
        assert_eq!(mapped.map(drop), EINVAL);
    }
}

#[test]
fn a_file_without_positions_is_neither_read_nor_written_at_one() {
    let guest = Guest::new(plain());
    let file = guest
        .vm()
        .create_guest_memfd(PAGE, GuestMemfdFlags::empty())
        .unwrap();
    let call = |call| guest.vm().file_call(file.as_fd(), call);
    for (no_positions, no_operation) in [
        (FileCall::ReadAt, FileCall::Read),
        (FileCall::WriteAt, FileCall::Write),
    ] {
        assert_eq!(call(no_positions), Err(Errno(libc::ESPIPE)));
        assert_eq!(call(no_operation), EINVAL);
    }
}

/// The signal that ends a process in which one byte of a mapping is read.
fn signal_of_a_load(address: u64) -> i32 {
    // SAFETY: the child makes only calls that are safe after a fork.
    match unsafe { libc::fork() } {
        -1 => panic!("fork failed"),
        0 => {
            let address = usize::try_from(address).unwrap_or(0);
            let byte: *const u8 = std::ptr::with_exposed_provenance(address);
            // SAFETY: resets the actions of two signals, which then end this
            // process, as may the load from mapped memory of the test.
            unsafe {
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                libc::_exit(byte.read_volatile().into())
            }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for the child; `status` is writable.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            match libc::WIFSIGNALED(status) {
                true => libc::WTERMSIG(status),
                false => 0,
            }
        }
    }
}

#[test]
fn the_hosts_access_to_a_private_page_or_beyond_the_end_is_sigbus() {
    let guest = Guest::new(plain());
    for (flags, at, signal) in [
        (GuestMemfdFlags::all(), 0, 0),
        (GuestMemfdFlags::all(), PAGE, libc::SIGBUS),
        (GuestMemfdFlags::MMAP, 0, libc::SIGBUS),
        (GuestMemfdFlags::MMAP, PAGE, libc::SIGBUS),
    ] {
        let file = guest.vm().create_guest_memfd(PAGE, flags).unwrap();
        let mapping = guest
            .vm()
            .map_file(file.as_fd(), 0, 2 * PAGE, Sharing::Shared);
        let address = mapping.as_ref().unwrap().address();
        assert_eq!(
            signal_of_a_load(address + at),
            signal,
            "{flags:?} + {at:#x}"
        );
    }
}

#[test]
fn a_guest_memfd_of_a_private_vm_is_mapped_and_not_touched() {
    let guest = Guest::new(private_vm(KernelVersion::V7_3));
    let vm = guest.vm();
    let file = vm.create_guest_memfd(PAGE, GuestMemfdFlags::MMAP).unwrap();
    let mapping = vm.map_file(file.as_fd(), 0, PAGE, Sharing::Shared);
    assert_eq!(mapping.map(|mapping| mapping.size()), Ok(PAGE));
}

#[test]
fn bytes_go_with_the_last_descriptor_and_the_last_mapping() {
    let mut guest = Guest::new(plain());
    let ram = Arc::new(Pages::new(0x1000));
    let file = guest.ram_and_file(0, 0x1000, &ram, GuestMemfdFlags::all());
    guest.store(0x1000, &[7]).unwrap();
    let again = file.try_clone().unwrap();
    drop(file);
    assert_eq!(guest.load(0x1000), Ok([7]));
    let mapping = guest.vm().map_file(again.as_fd(), 0, PAGE, Sharing::Shared);
    drop(again);
    assert_eq!(guest.load(0x1000), Ok([7]));
    drop(mapping);
    let fault = GuestFault::Memory {
        flags: 0,
        gpa: 0x1000,
        size: PAGE,
    };
    assert_eq!(guest.load::<1>(0x1000), Err(fault));
    assert_eq!(guest.store(0x1ff8, &[1]), Err(fault));
    // The slot is still there, and can only be deleted.
    guest.delete(0);
    assert!(guest.load::<1>(0x1000).is_ok());
}

#[test]
fn a_closed_file_gives_its_slot_no_claim_to_the_next_one() {
    let vm = Guestless::new(plain());
    for slot in 0..100 {
        let file = vm.file(1);
        let region = file_page(slot, u64::from(slot) * PAGE, &file);
        assert_eq!(vm.set(region), Ok(()), "{slot}");
    }
}
