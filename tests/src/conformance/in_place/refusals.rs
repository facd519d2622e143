// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VM with attributes of files has and refuses, and how a file starts.

use std::os::fd::AsFd;

use kvm_slots::convert::Home;
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use super::super::{create, same};
use super::{ALL, BASE, convert, map};
use crate::subject::{PAGE, Subject, peek};

pub(in crate::conformance) fn the_vm_itself_has_no_attributes(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let capabilities = subject.capabilities();
    same("attributes", capabilities.memory_attributes, 0)?;
    same("flags", capabilities.guest_memfd_flags, ALL)?;
    for attributes in [0, MEMORY_ATTRIBUTE_PRIVATE] {
        let set = subject.vm().set_memory_attributes(BASE, PAGE, attributes);
        same("the VM's ioctl", set, Err(Errno::ENOTTY))?;
    }
    same(
        "the home",
        Home::probe(subject.vm()),
        Ok(Home::FileAttributes),
    )
}

pub(in crate::conformance) fn malformed_ranges_are_refused(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = create(subject, 4 * PAGE, ALL)?;
    let end = 0_u64.wrapping_sub(PAGE);
    for private in [true, false] {
        let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
        for (offset, size, attributes) in [
            (0, 0, attributes),
            (4 * PAGE, 0, attributes),
            (8, PAGE, attributes),
            (PAGE / 2, PAGE / 2, attributes),
            (0, PAGE + 8, attributes),
            (0, 5 * PAGE, attributes),
            (4 * PAGE, PAGE, attributes),
            (1 << 40, PAGE, attributes),
            (end, PAGE, attributes),
            (end, 2 * PAGE, attributes),
            (PAGE, end, attributes),
            (0, PAGE, attributes | 1),
            (0, PAGE, attributes | 1 << 4),
            (0, PAGE, attributes | 1 << 63),
        ] {
            let what = format!("{attributes:#x} for {size:#x} bytes at {offset:#x}");
            let set = subject
                .vm()
                .set_file_attributes(file.as_fd(), offset, size, attributes);
            let set = set.map_err(|error| (error.errno, error.pinned_at));
            same(&what, set, Err((Errno::EINVAL, None)))?;
        }
    }
    let mapping = map(subject, file.as_fd(), 0, 4)?;
    let is_shared = |page: u64| peek(mapping.address() + page * PAGE) == Ok([0; 8]);
    same("all are shared", (0..4).all(is_shared), true)?;
    // The last page is in the file, and so are all of them.
    for range in [(3, 1), (0, 4)] {
        same("to private", convert(subject, &file, range, true), Ok(()))?;
    }
    Ok(())
}

pub(in crate::conformance) fn other_files_have_no_attributes(
    subject: &mut impl Subject,
) -> Result<(), String> {
    // Not a terminal, whose ioctls are many.
    let null = std::fs::File::open("/dev/null").map_err(|e| e.to_string())?;
    let set = subject
        .vm()
        .set_file_attributes(null.as_fd(), 0, PAGE, MEMORY_ATTRIBUTE_PRIVATE);
    same("/dev/null", set.map_err(|e| e.errno), Err(Errno::ENOTTY))
}

pub(in crate::conformance) fn a_new_file_is_private_unless_it_is_created_shared(
    subject: &mut impl Subject,
) -> Result<(), String> {
    for (flags, seen) in [
        (GuestMemfdFlags::MMAP, Err(Errno::EFAULT)),
        (ALL, Ok([0; 8])),
    ] {
        let file = create(subject, 2 * PAGE, flags)?;
        let mapping = map(subject, file.as_fd(), 0, 2)?;
        for page in 0..2 {
            let what = format!("page {page} with {flags:?}");
            same(&what, peek(mapping.address() + page * PAGE), seen)?;
        }
        // In that state already.
        let private = seen.is_err();
        same("again", convert(subject, &file, (0, 2), private), Ok(()))?;
        same("the same", peek(mapping.address()), seen)?;
        // And to the other one.
        same("changed", convert(subject, &file, (1, 1), !private), Ok(()))?;
        same("the first", peek(mapping.address()), seen)?;
        let second = peek::<8>(mapping.address() + PAGE).is_err();
        same("the second", second, !private)?;
    }
    Ok(())
}
