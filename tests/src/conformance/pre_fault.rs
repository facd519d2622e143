// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftest `pre_fault_memory_test`: mapping pages before the guest
//! accesses them.

use std::thread;

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::sim::PreFault;
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use super::{create, on_file, page, same, set, set_v1};
use crate::subject::Subject;

/// The address of the slot, and its number of pages.
const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 4;

/// Pre-faults until nothing is left or a call fails. Returns the number of
/// pages that are left, and the last result.
fn pre_fault(subject: &mut impl Subject, gpa: u64, pages: u64) -> (u64, Result<(), Errno>) {
    let page_size = subject.page_size();
    let mut range = PreFault {
        gpa,
        size: pages * page_size,
        flags: 0,
    };
    loop {
        let before = range.size;
        match subject.pre_fault(&mut range) {
            Ok(()) if range.size == 0 => return (0, Ok(())),
            Ok(()) if range.size < before => {}
            Ok(()) => return (range.size / page_size, Err(Errno::EIO)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return (range.size / page_size, Err(errno)),
        }
    }
}

pub(super) fn a_slot_is_pre_faulted_up_to_its_end(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let arena = subject.arena(usize::try_from(PAGES).unwrap_or(0));
    let region = kvm_userspace_memory_region2 {
        memory_size: PAGES * page_size,
        ..page(&arena, 0, BASE)
    };
    same("a slot", set_v1(subject, region), Ok(()))?;
    all_of_it(subject)
}

/// A range in the slot, one across its end, and one beyond it.
fn all_of_it(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    let end = BASE + PAGES * page_size;
    same("all", pre_fault(subject, BASE, PAGES), (0, Ok(())))?;
    same("again", pre_fault(subject, BASE, PAGES), (0, Ok(())))?;
    let behind = Err(Errno::ENOENT);
    let last = end - page_size;
    same("across the end", pre_fault(subject, last, 2), (1, behind))?;
    same("past the end", pre_fault(subject, end, 2), (2, behind))
}

/// The kernel returns its progress and does not retry forever.
pub(super) fn deleting_the_slot_ends_pre_faulting(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    const MANY: u64 = 256;
    let arena = subject.arena(usize::try_from(MANY).unwrap_or(0));
    let region = kvm_userspace_memory_region2 {
        memory_size: MANY * page_size,
        ..page(&arena, 0, BASE)
    };
    for _ in 0..20 {
        same("a slot", set_v1(subject, region), Ok(()))?;
        let vm = subject.vm().clone();
        let (came_to, deleted) = thread::scope(|scope| {
            let deleter = scope.spawn(move || {
                let gone = kvm_userspace_memory_region::default();
                // SAFETY: a deletion names no memory.
                unsafe { vm.set_user_memory_region(&gone) }
            });
            (pre_fault(subject, BASE, MANY), deleter.join())
        });
        same("deletion", deleted.map_err(|_| "a panic")?, Ok(()))?;
        match came_to {
            (0, Ok(())) | (1..=MANY, Err(Errno::ENOENT)) => {}
            other => return Err(format!("pre-faulting came to {other:x?}")),
        }
        let behind = (MANY, Err(Errno::ENOENT));
        same("behind it", pre_fault(subject, BASE, MANY), behind)?;
    }
    Ok(())
}

pub(super) fn malformed_ranges_are_refused(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    for (gpa, size, flags) in [
        (1, page_size, 0),
        (0, 1, 0),
        (0, 0, 0),
        (0, page_size, 1),
        (0_u64.wrapping_sub(page_size), page_size, 0),
        (0_u64.wrapping_sub(page_size), 2 * page_size, 0),
    ] {
        let mut range = PreFault { gpa, size, flags };
        let result = subject.pre_fault(&mut range);
        same(&format!("{range:x?}"), result, Err(Errno::EINVAL))?;
    }
    Ok(())
}

pub(super) fn private_pages_are_pre_faulted_too(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    let arena = subject.arena(usize::try_from(PAGES).unwrap_or(0));
    let file = create(subject, PAGES * page_size, GuestMemfdFlags::empty())?;
    let region = kvm_userspace_memory_region2 {
        memory_size: PAGES * page_size,
        ..on_file(page(&arena, 0, BASE), &file)
    };
    same("a slot", set(subject, region), Ok(()))?;
    let (size, private) = (PAGES * page_size, MEMORY_ATTRIBUTE_PRIVATE);
    let converted = subject.vm().set_memory_attributes(BASE, size, private);
    same("to private", converted, Ok(()))?;
    all_of_it(subject)
}
