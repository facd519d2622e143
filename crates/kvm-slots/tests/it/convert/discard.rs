// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stale bytes are discarded, by the kind of memory that they are in.

use crate::common;

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use common::watched::Paper;
use kvm_slots::convert::Discard;
use kvm_slots::{Errno, Vm};
use memmap2::{MmapMut, MmapOptions};

/// Whole pages of every host: the system calls are real ones.
const LEN: usize = 0x1_0000;
const PAGE: u64 = LEN as u64;

/// A file of four pages that each begin with a 7.
fn file() -> File {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a string with its terminator.
    let fd = unsafe { libc::memfd_create(c"memory".as_ptr(), flags) };
    assert!(fd >= 0);
    // SAFETY: the kernel has just made this descriptor for us alone.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(4 * PAGE).unwrap();
    for page in 0..4 {
        file.write_all_at(&[7], page * PAGE).unwrap();
    }
    file
}

fn bytes_of_file(file: &File) -> [u8; 4] {
    [0, 1, 2, 3].map(|page| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, page * PAGE).unwrap();
        byte[0]
    })
}

/// The first byte of each page.
fn bytes(map: &MmapMut) -> [u8; 4] {
    [0, 1, 2, 3].map(|page| map[page * LEN])
}

fn write(map: &mut MmapMut, value: u8) {
    (0..4).for_each(|page| map[page * LEN] = value);
}

/// Discards the two pages in the middle.
fn discard(map: &mut MmapMut) -> Result<(), Errno> {
    let address = map.as_mut_ptr().expose_provenance() as u64 + PAGE;
    let size = 2 * PAGE;
    // SAFETY: inside the mapping; the only reference to it is the one that this
    // function was given.
    unsafe { Paper.discard(Discard::Host { address, size }) }
}

#[test]
fn a_shared_mapping_gives_its_bytes_back_with_those_of_the_file() {
    let file = file();
    // SAFETY: no one else has the file.
    let mut map = unsafe { MmapOptions::new().map_mut(&file) }.unwrap();
    discard(&mut map).unwrap();
    assert_eq!(bytes(&map), [7, 0, 0, 7]);
    assert_eq!(bytes_of_file(&file), [7, 0, 0, 7]);
}

#[test]
fn bytes_that_a_shared_mapping_cannot_give_back_are_an_error() {
    let file = file();
    // SAFETY: no one else has the file.
    let mut map = unsafe { MmapOptions::new().map_mut(&file) }.unwrap();
    // SAFETY: three numbers, of which the kernel checks each.
    let sealed = unsafe {
        libc::fcntl(
            file.as_raw_fd(),
            libc::F_ADD_SEALS,
            libc::F_SEAL_FUTURE_WRITE,
        )
    };
    assert_eq!(sealed, 0);
    assert_eq!(discard(&mut map), Err(Errno::EPERM));
    assert_eq!(bytes(&map), [7; 4]);
}

#[test]
fn a_private_mapping_gives_its_own_bytes_back_and_not_those_of_the_file() {
    let file = file();
    // SAFETY: no one else has the file.
    let mut map = unsafe { MmapOptions::new().map_copy(&file) }.unwrap();
    write(&mut map, 9);
    discard(&mut map).unwrap();
    // The file shows again where the guest's bytes were.
    assert_eq!(bytes(&map), [9, 7, 7, 9]);
    assert_eq!(bytes_of_file(&file), [7; 4]);
}

#[test]
fn anonymous_memory_is_zero_again() {
    let mut map = MmapMut::map_anon(4 * LEN).unwrap();
    write(&mut map, 9);
    discard(&mut map).unwrap();
    assert_eq!(bytes(&map), [9, 0, 0, 9]);
}

#[test]
fn a_hole_is_punched_into_a_file_that_keeps_its_size() {
    let file = file();
    let (fd, offset, size) = (file.as_raw_fd(), PAGE, 2 * PAGE);
    // SAFETY: the file is not mapped.
    unsafe { Paper.discard(Discard::File { fd, offset, size }) }.unwrap();
    assert_eq!(bytes_of_file(&file), [7, 0, 0, 7]);
    assert_eq!(file.metadata().unwrap().len(), 4 * PAGE);
}

#[test]
fn a_failed_discard_is_an_error() {
    let file = file();
    let fd = file.as_raw_fd();
    for (what, errno) in [
        // A part of a page of memory, and memory that is not there.
        (
            Discard::Host {
                address: 1,
                size: PAGE,
            },
            Errno::EINVAL,
        ),
        (
            Discard::Host {
                address: PAGE,
                size: PAGE,
            },
            Errno::ENOMEM,
        ),
        (
            Discard::File {
                fd: -1,
                offset: 0,
                size: PAGE,
            },
            Errno::EBADF,
        ),
        (
            Discard::File {
                fd,
                offset: 1 << 63,
                size: PAGE,
            },
            Errno::EINVAL,
        ),
        (
            Discard::File {
                fd,
                offset: 0,
                size: 0,
            },
            Errno::EINVAL,
        ),
    ] {
        // SAFETY: none of these ranges is memory of the process.
        let refused = unsafe { Paper.discard(what) };
        assert_eq!(refused, Err(errno), "{what}");
    }
    assert_eq!(bytes_of_file(&file), [7; 4]);
}
