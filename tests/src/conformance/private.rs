// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftests `private_mem_kvm_exits` and `private_mem_conversions`: private
//! pages.

use std::os::fd::AsFd;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use kvm_slots::sim::FileCall;
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use super::{EXIT, create, delete, load, on_file, page, same, set, store};
use crate::subject::{Arena, HostChange, PAGE, Subject};

const NONE: GuestMemfdFlags = GuestMemfdFlags::empty();
/// The address of the pages. The guest reaches two large pages from there.
const BASE: u64 = 0x4000_0000;
const LARGE: u64 = 2 << 20;

/// The memory fault of a private access to the page at `gpa`.
fn private_fault(gpa: u64) -> GuestFault {
    GuestFault::Memory {
        flags: MEMORY_EXIT_FLAG_PRIVATE,
        gpa,
        size: PAGE,
    }
}

fn convert(subject: &impl Subject, gpa: u64, size: u64, private: bool) -> Result<(), Errno> {
    let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
    subject.vm().set_memory_attributes(gpa, size, attributes)
}

pub(super) fn a_private_access_faults_when_its_slot_is_deleted(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let (arena, file) = (Arena::new(1), create(subject, PAGE, NONE)?);
    let region = on_file(page(&arena, 0, BASE), &file);
    same("a slot", set(subject, region), Ok(()))?;
    same("to private", convert(subject, BASE, PAGE, true), Ok(()))?;
    same("a store", store(subject, BASE, 5), Ok(0))?;
    same("deletion", delete(subject, 0), Ok(()))?;
    let fault = Err(private_fault(BASE).into());
    same("a load", load(subject, BASE + 0x128), fault)?;
    // As a shared page, it is an MMIO exit.
    same("to shared", convert(subject, BASE, PAGE, false), Ok(()))?;
    same("a load", load(subject, BASE), Ok(EXIT))
}

pub(super) fn a_private_access_faults_where_the_slot_is_not_private(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let arena = Arena::new(2);
    let region = kvm_userspace_memory_region2 {
        memory_size: 2 * PAGE,
        ..page(&arena, 0, BASE)
    };
    same("a slot", set(subject, region), Ok(()))?;
    let second = BASE + PAGE;
    same("to private", convert(subject, second, PAGE, true), Ok(()))?;
    let fault = || Err(private_fault(second).into());
    same("a load", load(subject, second + 0x7f8), fault())?;
    same("a store", store(subject, second, 1), fault())?;
    same("a load beside it", load(subject, BASE), Ok(0))?;
    same("to shared", convert(subject, second, PAGE, false), Ok(()))?;
    same("a load", load(subject, second), Ok(0))
}

pub(super) fn conversions_never_leak_and_keep_what_is_not_discarded(
    subject: &mut impl Subject,
) -> Result<(), String> {
    conversions(subject, false)
}

pub(super) fn conversions_with_discards_leave_zeros(
    subject: &mut impl Subject,
) -> Result<(), String> {
    conversions(subject, true)
}

/// Ranges in two large pages: whole pages, parts, and across their border.
const RANGES: [(u64, u64); 8] = [
    (0, PAGE),
    (LARGE - PAGE, PAGE),
    (LARGE - PAGE, 2 * PAGE),
    (0, LARGE),
    (LARGE, LARGE),
    (0, 2 * LARGE),
    (LARGE / 2, LARGE),
    (3 * PAGE, 2 * LARGE - 7 * PAGE),
];

fn conversions(subject: &mut impl Subject, discard: bool) -> Result<(), String> {
    let pages = usize::try_from(2 * LARGE / PAGE).unwrap_or(0);
    let (arena, file) = (Arena::new(pages), create(subject, 2 * LARGE, NONE)?);
    let region = kvm_userspace_memory_region2 {
        memory_size: 2 * LARGE,
        ..on_file(page(&arena, 0, BASE), &file)
    };
    same("a slot", set(subject, region), Ok(()))?;
    for (n, (start, size)) in (1_u64..).zip(RANGES) {
        let what = format!("{size:#x} bytes from {start:#x} on");
        convert_there_and_back(subject, &arena, &file.as_fd(), (start, size), n, discard)
            .map_err(|e| format!("{what}: {e}"))?;
    }
    Ok(())
}

fn convert_there_and_back(
    subject: &mut impl Subject,
    arena: &Arena,
    file: &std::os::fd::BorrowedFd<'_>,
    (start, size): (u64, u64),
    n: u64,
    discard: bool,
) -> Result<(), String> {
    let inside = [start, start + size / 2 / PAGE * PAGE, start + size - PAGE];
    let outside = [start.wrapping_sub(PAGE), start + size].into_iter();
    let outside: Vec<u64> = outside.filter(|at| *at < 2 * LARGE).collect();
    let [shared, private] = [n << 8 | 1, n << 8 | 2];
    for &at in inside.iter().chain(&outside) {
        same(
            "the host's store",
            arena.write(at, &shared.to_le_bytes()),
            Ok(()),
        )?;
        same("before", load(subject, BASE + at), Ok(shared))?;
    }
    same(
        "to private",
        convert(subject, BASE + start, size, true),
        Ok(()),
    )?;
    if discard {
        punch(subject, file, start, size)?;
        for at in inside {
            same("private at first", load(subject, BASE + at), Ok(0))?;
        }
    }
    for at in inside {
        same("a private store", store(subject, BASE + at, private), Ok(0))?;
        same("private", load(subject, BASE + at), Ok(private))?;
        let hosts = arena.read(at).map(u64::from_le_bytes);
        same("what the host sees", hosts, Ok(shared))?;
    }
    for &at in &outside {
        same("beside the private", load(subject, BASE + at), Ok(shared))?;
    }
    // The host unmaps its memory, which does not affect private pages.
    if discard {
        for page in start / PAGE..(start + size) / PAGE {
            let page = usize::try_from(page).unwrap_or(0);
            arena.change(page, HostChange::Discard);
        }
        same("still private", load(subject, BASE + start), Ok(private))?;
    }
    same(
        "to shared",
        convert(subject, BASE + start, size, false),
        Ok(()),
    )?;
    let left = if discard { 0 } else { shared };
    for at in inside {
        same("shared again", load(subject, BASE + at), Ok(left))?;
    }
    // The old private bytes are back, unless they were discarded.
    if discard {
        punch(subject, file, start, size)?;
    }
    same(
        "to private",
        convert(subject, BASE + start, size, true),
        Ok(()),
    )?;
    let left = if discard { 0 } else { private };
    for at in inside {
        same("private again", load(subject, BASE + at), Ok(left))?;
    }
    same(
        "to shared",
        convert(subject, BASE + start, size, false),
        Ok(()),
    )
}

fn punch(
    subject: &impl Subject,
    file: &std::os::fd::BorrowedFd<'_>,
    start: u64,
    size: u64,
) -> Result<(), String> {
    let call = FileCall::Allocate {
        mode: libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
        offset: start.cast_signed(),
        len: size.cast_signed(),
    };
    same("a hole", subject.file_call(*file, call), Ok(()))
}
