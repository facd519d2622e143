// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftest `guest_memfd_test`: creating the files, system calls on them,
//! and accesses by the guest and the host.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{FileCall, Sharing};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use super::{create, for_slots, load, on_file, page, same, set, store};
use crate::subject::{Subject, peek, poke};

const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);
const NONE: GuestMemfdFlags = GuestMemfdFlags::empty();
const ALL: GuestMemfdFlags = GuestMemfdFlags::all();
const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = KEEP | libc::FALLOC_FL_PUNCH_HOLE;

pub(super) fn flags_are_accepted_if_and_only_if_they_are_advertised(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let offered = subject.capabilities().guest_memfd_flags.bits();
    for flags in (0..64).map(|bit| 1 << bit).chain([0, 3, 7]) {
        let made = subject
            .vm()
            .create_guest_memfd(page_size, GuestMemfdFlags::from_bits_retain(flags));
        let should = if flags & !offered == 0 {
            Ok(())
        } else {
            EINVAL
        };
        same(&format!("flags {flags:#x}"), made.map(drop), should)?;
    }
    Ok(())
}

pub(super) fn every_file_is_an_inode_of_its_own(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    let (one, two) = (
        create(subject, page_size, NONE)?,
        create(subject, 2 * page_size, NONE)?,
    );
    let (one, two) = (std::fs::File::from(one), std::fs::File::from(two));
    let data = |file: &std::fs::File| file.metadata().map_err(|e| e.to_string());
    let (one, two) = (data(&one)?, data(&two)?);
    same(
        "the sizes",
        (one.size(), two.size()),
        (page_size, 2 * page_size),
    )?;
    match one.ino() == two.ino() {
        true => Err(format!("both are inode {}", one.ino())),
        false => Ok(()),
    }
}

pub(super) fn bad_sizes_are_refused(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    let unaligned = (1..page_size).step_by(511);
    for size in unaligned.chain([0, page_size + 1, 1 << 63, 0_u64.wrapping_sub(page_size)]) {
        let made = subject.vm().create_guest_memfd(size, NONE).map(drop);
        same(&format!("size {size:#x}"), made, EINVAL)?;
    }
    Ok(())
}

pub(super) fn a_file_cannot_be_read_written_or_resized(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let file = create(subject, page_size, NONE)?;
    let calls = [FileCall::Read, FileCall::Write];
    let resizes = [0, page_size / 2, page_size, 2 * page_size]
        .map(|size| FileCall::Truncate(size.cast_signed()));
    for call in calls.into_iter().chain(resizes) {
        let result = subject.file_call(file.as_fd(), call);
        same(&format!("{call:?}"), result, EINVAL)?;
    }
    for call in [FileCall::ReadAt, FileCall::WriteAt] {
        let result = subject.file_call(file.as_fd(), call);
        same(&format!("{call:?}"), result, Err(Errno(libc::ESPIPE)))?;
    }
    Ok(())
}

pub(super) fn holes_and_allocations_have_rules(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    let file = create(subject, 4 * page_size, NONE)?;
    let page = page_size.cast_signed();
    let unsupported = Err(Errno::EOPNOTSUPP);
    for (mode, offset, len, should) in [
        (KEEP, 0, 4 * page, Ok(())),
        (PUNCH, page, page, Ok(())),
        (KEEP, page, page, Ok(())),
        // Beyond the end, neither allocating nor punching has an effect.
        (KEEP, 4 * page, page, EINVAL),
        (KEEP, 3 * page, 2 * page, EINVAL),
        (PUNCH, 4 * page, page, Ok(())),
        (PUNCH, 3 * page, 2 * page, Ok(())),
        (PUNCH, page, page - 1, EINVAL),
        (PUNCH, page - 1, page, EINVAL),
        (PUNCH, 0, 0, EINVAL),
        (PUNCH, -page, page, EINVAL),
        (0, 0, page, unsupported),
        (libc::FALLOC_FL_PUNCH_HOLE, 0, page, unsupported),
        (libc::FALLOC_FL_ZERO_RANGE | KEEP, 0, page, unsupported),
    ] {
        let call = FileCall::Allocate { mode, offset, len };
        let result = subject.file_call(file.as_fd(), call);
        same(&format!("{call:x?}"), result, should)?;
    }
    Ok(())
}

pub(super) fn an_offset_near_the_end_of_signed_numbers_is_refused(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let (arena, file) = (
        subject.arena(1),
        create(subject, 4 * page_size, for_slots(subject))?,
    );
    // At the very end the sum wraps; kernels before 7.3 do not check that.
    for guest_memfd_offset in [
        (1 << 63) - 2 * page_size,
        1 << 63,
        0_u64.wrapping_sub(2 * page_size),
    ] {
        let region = kvm_userspace_memory_region2 {
            guest_memfd_offset,
            ..on_file(page(&arena, 0, 0), &file)
        };
        let offset = format!("offset {guest_memfd_offset:#x}");
        same(&offset, set(subject, region), EINVAL)?;
    }
    Ok(())
}

pub(super) fn a_file_can_be_mapped_only_if_created_with_the_flag(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    for (flags, should) in [
        (NONE, Err(Errno::ENODEV)),
        (GuestMemfdFlags::INIT_SHARED, Err(Errno::ENODEV)),
        (GuestMemfdFlags::MMAP, Ok(())),
        (ALL, Ok(())),
    ] {
        let file = create(subject, 2 * page_size, flags)?;
        let mapped = subject.map_file(file.as_fd(), 0, 2 * page_size, Sharing::Shared);
        same(&format!("{flags:?}"), mapped.map(drop), should)?;
    }
    let file = create(subject, page_size, ALL)?;
    for (offset, size) in [(0, 0), (1, page_size), (page_size / 2, page_size)] {
        let mapped = subject.map_file(file.as_fd(), offset, size, Sharing::Shared);
        same(
            &format!("{offset:#x} + {size:#x}"),
            mapped.map(drop),
            EINVAL,
        )?;
    }
    Ok(())
}

pub(super) fn copy_on_write_mappings_are_refused(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    for (flags, should) in [(NONE, Errno::ENODEV), (ALL, Errno::EINVAL)] {
        let file = create(subject, page_size, flags)?;
        let mapped = subject.map_file(file.as_fd(), 0, page_size, Sharing::Private);
        same(&format!("{flags:?}"), mapped.map(drop), Err(should))?;
    }
    Ok(())
}

pub(super) fn the_host_faults_beyond_the_end_and_on_private_pages(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let shared = create(subject, page_size, ALL)?;
    let mapping = subject.map_file(shared.as_fd(), 0, 2 * page_size, Sharing::Shared);
    let mapping = mapping.map_err(|e| e.to_string())?;
    same("inside", peek(mapping.address()), Ok([0; 8]))?;
    let behind = peek::<8>(mapping.address() + page_size);
    same("behind the end", behind, Err(Errno::EFAULT))?;

    let private = create(subject, page_size, GuestMemfdFlags::MMAP)?;
    let mapping = subject.map_file(private.as_fd(), 0, page_size, Sharing::Shared);
    let mapping = mapping.map_err(|e| e.to_string())?;
    let touched = peek::<8>(mapping.address());
    same("a private page", touched, Err(Errno::EFAULT))
}

pub(super) fn guest_and_host_share_a_mapped_file_until_a_hole_is_punched(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let (arena, file) = (subject.arena(1), create(subject, 2 * page_size, ALL)?);
    let mapping = subject.map_file(file.as_fd(), 0, 2 * page_size, Sharing::Shared);
    let mapping = mapping.map_err(|e| e.to_string())?;
    let gpa = 0x4000_0000;
    let region = kvm_userspace_memory_region2 {
        memory_size: 2 * page_size,
        userspace_addr: mapping.address(),
        ..on_file(page(&arena, 0, gpa), &file)
    };
    same("a slot", set(subject, region), Ok(()))?;
    // SAFETY: there are no references to the mapping.
    let written = unsafe { poke(mapping.address() + page_size, &7_u64.to_le_bytes()) };
    same("the host's store", written, Ok(()))?;
    same("the guest's load", load(subject, gpa + page_size), Ok(7))?;
    same("the guest's store", store(subject, gpa, 9), Ok(0))?;
    let seen = peek(mapping.address()).map(u64::from_le_bytes);
    same("the host's load", seen, Ok(9))?;
    let punch = FileCall::Allocate {
        mode: PUNCH,
        offset: 0,
        len: page_size.cast_signed(),
    };
    same("a hole", subject.file_call(file.as_fd(), punch), Ok(()))?;
    same("the guest's load from it", load(subject, gpa), Ok(0))?;
    same("the host's", peek(mapping.address()), Ok([0; 8]))?;
    same("a load beside it", load(subject, gpa + page_size), Ok(7))?;
    // Delete the slot before the mapping that it names is unmapped.
    same("deletion", super::delete(subject, 0), Ok(()))
}

pub(super) fn a_closed_file_leaves_a_slot_without_backing(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let (arena, file) = (subject.arena(1), create(subject, page_size, ALL)?);
    let gpa = 0x4000_0000;
    let region = on_file(page(&arena, 0, gpa), &file);
    same("a slot", set(subject, region), Ok(()))?;
    same("a store", store(subject, gpa, 5), Ok(0))?;
    let again = file.try_clone().map_err(|e| e.to_string())?;
    let mapping = subject.map_file(file.as_fd(), 0, page_size, Sharing::Shared);
    drop(file);
    same("a descriptor is left", load(subject, gpa), Ok(5))?;
    drop(again);
    same("a mapping is left", load(subject, gpa), Ok(5))?;
    drop(mapping);
    let fault = GuestFault::Memory {
        flags: 0,
        gpa,
        size: page_size,
    };
    same("nothing is left", load(subject, gpa), Err(fault.into()))?;
    let other = page(&arena, 1, gpa);
    same("the slot is there", set(subject, other), Err(Errno::EEXIST))?;
    same("until it is deleted", super::delete(subject, 0), Ok(()))?;
    same("its place is free", set(subject, other), Ok(()))
}
