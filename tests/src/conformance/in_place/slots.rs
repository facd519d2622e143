// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files and the memslots that show them.

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::exit::GuestFault;
use kvm_slots::{Errno, GuestMemfdFlags};

use super::super::{EXIT, create, delete, load, on_file, page, same, set, store};
use super::{BASE, File, HIGH, NONE, PAGES, convert};
use crate::subject::{Arena, PAGE, Subject};

pub(in crate::conformance) fn all_slots_of_a_file_follow_it(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    same("deletion", delete(subject, 0), Ok(()))?;
    // The halves change places, and a gap is between them.
    let half = PAGES / 2;
    let [low, high] = [(half, half), (0, half)];
    same("a slot", set(subject, file.slot(0, BASE, low)), Ok(()))?;
    same("a slot", set(subject, file.slot(1, HIGH, high)), Ok(()))?;
    let gpa = |page: u64| match page < half {
        true => HIGH + page * PAGE,
        false => BASE + (page - half) * PAGE,
    };
    for page in 0..PAGES {
        same("the guest's load", load(subject, gpa(page)), Ok(100 + page))?;
    }
    // One call, from the end of one slot to the beginning of the other.
    let range = (half - 1, 2);
    same(
        "to private",
        convert(subject, &file.file, range, true),
        Ok(()),
    )?;
    same("private", file.private(), vec![half - 1, half])?;
    for page in 0..PAGES {
        same("a store", store(subject, gpa(page), 200 + page), Ok(0))?;
        same("its load", load(subject, gpa(page)), Ok(200 + page))?;
        let private = page == half - 1 || page == half;
        let host = if private {
            Err(Errno::EFAULT)
        } else {
            Ok(200 + page)
        };
        same("the host's load", file.host(page), host)?;
    }
    same(
        "to shared",
        convert(subject, &file.file, range, false),
        Ok(()),
    )?;
    for page in 0..PAGES {
        same(
            "the host's store",
            file.host_store(page, 300 + page),
            Ok(()),
        )?;
        same("the guest's load", load(subject, gpa(page)), Ok(300 + page))?;
    }
    same("deletion", delete(subject, 1), Ok(()))?;
    file.end(subject)
}

pub(in crate::conformance) fn attributes_stay_with_the_file_without_a_slot(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    file.converts(subject, (1, 2), true)?;
    same("deletion", delete(subject, 0), Ok(()))?;
    same("without a slot", load(subject, BASE + PAGE), Ok(EXIT))?;
    same("private", file.private(), vec![1, 2])?;
    file.converts(subject, (2, 1), false)?;
    file.converts(subject, (5, 1), true)?;
    same(
        "a slot",
        set(subject, file.slot(0, HIGH, (0, PAGES))),
        Ok(()),
    )?;
    for page in 0..PAGES {
        let gpa = HIGH + page * PAGE;
        same("a store", store(subject, gpa, 200 + page), Ok(0))?;
        same("its load", load(subject, gpa), Ok(200 + page))?;
    }
    same("private", file.private(), vec![1, 5])?;
    file.end(subject)
}

/// A file that the host cannot map has the private side only, as without attributes of
/// files.
pub(in crate::conformance) fn memory_beside_the_file_shows_while_pages_are_shared(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let (arena, file) = (Arena::new(4), create(subject, 4 * PAGE, NONE)?);
    let region = kvm_userspace_memory_region2 {
        memory_size: 4 * PAGE,
        ..on_file(page(&arena, 0, BASE), &file)
    };
    same("a slot", set(subject, region), Ok(()))?;
    let host = |page: u64| arena.read(page * PAGE).map(u64::from_le_bytes);
    for page in 0..4 {
        same(
            "a private store",
            store(subject, BASE + page * PAGE, 7),
            Ok(0),
        )?;
        same("the host's memory", host(page), Ok(0))?;
    }
    same("to shared", convert(subject, &file, (1, 2), false), Ok(()))?;
    for page in 0..4 {
        let (gpa, shared) = (BASE + page * PAGE, page == 1 || page == 2);
        let before = if shared { 0 } else { 7 };
        same("a load", load(subject, gpa), Ok(before))?;
        same("a store", store(subject, gpa, 8), Ok(0))?;
        same(
            "the host's memory",
            host(page),
            Ok(if shared { 8 } else { 0 }),
        )?;
    }
    same("to private", convert(subject, &file, (0, 4), true), Ok(()))?;
    same("a private store", store(subject, BASE + PAGE, 9), Ok(0))?;
    same("the host's memory", host(1), Ok(8))
}

pub(in crate::conformance) fn a_private_page_of_a_closed_file_is_not_reached(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let (arena, file) = (
        Arena::new(2),
        create(subject, 2 * PAGE, GuestMemfdFlags::MMAP)?,
    );
    let region = kvm_userspace_memory_region2 {
        memory_size: 2 * PAGE,
        ..on_file(page(&arena, 0, BASE), &file)
    };
    same("a slot", set(subject, region), Ok(()))?;
    same("to shared", convert(subject, &file, (1, 1), false), Ok(()))?;
    for page in 0..2 {
        same("a store", store(subject, BASE + page * PAGE, 7), Ok(0))?;
    }
    drop(file);
    // Without the file, no page is known to be private.
    for page in 0..2 {
        let gpa = BASE + page * PAGE;
        let (flags, size) = (0, PAGE);
        let fault = GuestFault::Memory { flags, gpa, size };
        same("a load", load(subject, gpa), Err(fault.into()))?;
    }
    let hosts = arena.read(0).map(u64::from_le_bytes);
    same("the host's memory", hosts, Ok(0))
}
