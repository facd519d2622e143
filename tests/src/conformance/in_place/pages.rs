// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that change, their mappings, and references to them.

use std::os::fd::AsFd;

use kvm_slots::Errno;
use kvm_slots::sim::{FileCall, PreFault};

use super::super::{load, same, store};
use super::{BASE, File, HELD, PAGES, convert, map};
use crate::subject::{FileMapping, PAGE, Subject, peek, poke};

pub(in crate::conformance) fn pages_are_converted_before_they_are_allocated(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::untouched(subject)?;
    file.converts(subject, (1, 3), true)?;
    for page in 0..PAGES {
        let gpa = BASE + page * PAGE;
        same("a store", store(subject, gpa, 100 + page), Ok(0))?;
        same("its load", load(subject, gpa), Ok(100 + page))?;
    }
    same("private", file.private(), vec![1, 2, 3])?;
    same("shared", file.host(4), Ok(104))?;
    file.converts(subject, (0, PAGES), false)?;
    same("none is private", file.private(), vec![])?;
    file.end(subject)
}

pub(in crate::conformance) fn one_page_among_many_is_converted(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    for at in 0..PAGES {
        let gpa = BASE + at * PAGE;
        file.converts(subject, (at, 1), true)?;
        same("private", file.private(), vec![at])?;
        for page in (0..PAGES).filter(|page| *page != at) {
            same("the host's load", file.host(page), Ok(100 + page))?;
            let seen = load(subject, BASE + page * PAGE);
            same("the guest's load", seen, Ok(100 + page))?;
        }
        same("a private store", store(subject, gpa, 7), Ok(0))?;
        same("its load", load(subject, gpa), Ok(7))?;
        same(
            "the host's store",
            file.host_store(at, 1),
            Err(Errno::EFAULT),
        )?;
        same("still", load(subject, gpa), Ok(7))?;
        file.converts(subject, (at, 1), false)?;
        same("none is private", file.private(), vec![])?;
        same("the host's store", file.host_store(at, 100 + at), Ok(()))?;
        same("the guest's load", load(subject, gpa), Ok(100 + at))?;
    }
    file.end(subject)
}

pub(in crate::conformance) fn a_page_that_someone_holds_does_not_become_private(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    let pin = subject.pin(file.file.as_fd(), 2 * PAGE, 2 * PAGE);
    let pin = pin.map_err(|e| format!("a pin: {e}"))?;
    let held = |page: u64| Err((HELD, Some(page * PAGE)));
    for (range, first) in [((0, PAGES), 2), ((2, 1), 2), ((1, 2), 2), ((3, 4), 3)] {
        let converted = convert(subject, &file.file, range, true);
        same(&format!("{range:?}"), converted, held(first))?;
        // Nothing has changed, for the host and for the guest.
        same("none is private", file.private(), vec![])?;
        for page in 0..PAGES {
            let seen = load(subject, BASE + page * PAGE);
            same("the guest's load", seen, Ok(100 + page))?;
        }
    }
    same(
        "shared as before",
        convert(subject, &file.file, (0, PAGES), false),
        Ok(()),
    )?;
    // The pages beside it are free.
    same(
        "before it",
        convert(subject, &file.file, (0, 2), true),
        Ok(()),
    )?;
    same(
        "behind it",
        convert(subject, &file.file, (4, 4), true),
        Ok(()),
    )?;
    same("all but two", file.private(), vec![0, 1, 4, 5, 6, 7])?;
    drop(pin);
    same(
        "all",
        convert(subject, &file.file, (0, PAGES), true),
        Ok(()),
    )?;
    same("all are private", file.private().len() as u64, PAGES)?;
    // No one can hold what is private.
    let pin = subject.pin(file.file.as_fd(), 2 * PAGE, PAGE);
    same("a pin", pin.map(drop), Err(Errno::EFAULT))?;
    file.converts(subject, (2, 1), false)?;
    let pin = subject.pin(file.file.as_fd(), 2 * PAGE, PAGE);
    let _pin = pin.map_err(|e| format!("a pin: {e}"))?;
    same(
        "held again",
        convert(subject, &file.file, (2, 1), true),
        held(2),
    )?;
    file.end(subject)
}

pub(in crate::conformance) fn mappings_lose_private_pages_and_regain_shared_ones(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    // Pages 2 to 5 of the file, touched before.
    let other = map(subject, file.file.as_fd(), 2, 4)?;
    let seen = |mapping: &FileMapping, pages: u64| -> Vec<Option<u64>> {
        let page = |page| peek(mapping.address() + page * PAGE).map(u64::from_le_bytes);
        (0..pages).map(|at| page(at).ok()).collect()
    };
    let [two, three, four, five] = [102, 103, 104, 105].map(Some);
    same("at first", seen(&other, 4), vec![two, three, four, five])?;
    file.converts(subject, (3, 2), true)?;
    same("the first mapping", file.private(), vec![3, 4])?;
    same("the second", seen(&other, 4), vec![two, None, None, five])?;
    // One that is made meanwhile.
    let later = map(subject, file.file.as_fd(), 4, 2)?;
    same("the third", seen(&later, 2), vec![None, five])?;
    file.converts(subject, (4, 1), false)?;
    same("the first mapping", file.private(), vec![3])?;
    same("the host's store", file.host_store(4, 9), Ok(()))?;
    same(
        "the second",
        seen(&other, 4),
        vec![two, None, Some(9), five],
    )?;
    same("the third", seen(&later, 2), vec![Some(9), five])?;
    same("the guest", load(subject, BASE + 4 * PAGE), Ok(9))?;
    file.end(subject)
}

pub(in crate::conformance) fn a_hole_does_not_change_attributes(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    file.converts(subject, (1, 2), true)?;
    same("a store", store(subject, BASE + PAGE, 7), Ok(0))?;
    let punch = FileCall::Allocate {
        mode: libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
        offset: 0,
        len: (2 * PAGE).cast_signed(),
    };
    same(
        "a hole",
        subject.file_call(file.file.as_fd(), punch),
        Ok(()),
    )?;
    same("private", file.private(), vec![1, 2])?;
    same("a private load", load(subject, BASE + PAGE), Ok(0))?;
    same("the host's load", file.host(0), Ok(0))?;
    file.end(subject)
}

pub(in crate::conformance) fn the_guest_uses_a_page_privately_shared_and_back(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    let (page, gpa) = (3, BASE + 3 * PAGE + 0x7f8);
    let host = |value: u64| {
        let address = file.mapping.address() + page * PAGE + 0x7f8;
        // SAFETY: there are no references to the mapping.
        unsafe { poke(address, &value.to_le_bytes()) }
    };
    for round in 1..20 {
        file.converts(subject, (page, 1), true)?;
        same("a private store", store(subject, gpa, round), Ok(0))?;
        same("the host's store", host(0), Err(Errno::EFAULT))?;
        same("a private load", load(subject, gpa), Ok(round))?;
        file.converts(subject, (page, 1), false)?;
        same("the host's store", host(1000 + round), Ok(()))?;
        same("a shared load", load(subject, gpa), Ok(1000 + round))?;
        same("a shared store", store(subject, gpa, 2000 + round), Ok(0))?;
        let seen = peek(file.mapping.address() + page * PAGE + 0x7f8);
        same(
            "the host's load",
            seen.map(u64::from_le_bytes),
            Ok(2000 + round),
        )?;
    }
    file.end(subject)
}

pub(in crate::conformance) fn pages_of_both_states_are_pre_faulted(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::untouched(subject)?;
    file.converts(subject, (2, 3), true)?;
    let mut left = PreFault {
        gpa: BASE,
        size: PAGES * PAGE,
        flags: 0,
    };
    // It may stop early, but not without progress.
    for _ in 0..=PAGES {
        if left.size > 0 {
            same("pre-faulting", subject.pre_fault(&mut left), Ok(()))?;
        }
    }
    same("what is left", left.size, 0)?;
    same("a store", store(subject, BASE + 2 * PAGE, 7), Ok(0))?;
    same("private", file.private(), vec![2, 3, 4])?;
    // Pages that the guest has mapped are not held by anyone.
    file.converts(subject, (0, PAGES), true)?;
    file.end(subject)
}
