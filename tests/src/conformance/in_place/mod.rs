// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftest `x86/guest_memfd_conversions_test`: attributes of a guest_memfd's
//! pages, by what it asserts. What a page contains after it has changed is not
//! specified, so the statements store before they load.

mod pages;
mod refusals;
mod slots;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::sim::Sharing;
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use super::{create, delete, on_file, same, set, store};
use crate::subject::{FileMapping, PAGE, Subject, peek, poke};

pub(super) use pages::{
    a_hole_does_not_change_attributes, a_page_that_someone_holds_does_not_become_private,
    mappings_lose_private_pages_and_regain_shared_ones, one_page_among_many_is_converted,
    pages_are_converted_before_they_are_allocated, pages_of_both_states_are_pre_faulted,
    the_guest_uses_a_page_privately_shared_and_back,
};
pub(super) use refusals::{
    a_new_file_is_private_unless_it_is_created_shared, malformed_ranges_are_refused,
    other_files_have_no_attributes, the_vm_itself_has_no_attributes,
};
pub(super) use slots::{
    a_private_page_of_a_closed_file_is_not_reached, all_slots_of_a_file_follow_it,
    attributes_stay_with_the_file_without_a_slot,
    memory_beside_the_file_shows_while_pages_are_shared,
};

const ALL: GuestMemfdFlags = GuestMemfdFlags::all();
const NONE: GuestMemfdFlags = GuestMemfdFlags::empty();
/// Addresses of slots.
const BASE: u64 = 0x4000_0000;
const HIGH: u64 = 0x1_0000_0000;
/// The number of pages of most files.
const PAGES: u64 = 8;

/// The result of a conversion: the error, and the offset of a page that is held.
type Converted = Result<(), (Errno, Option<u64>)>;

const HELD: Errno = Errno::EAGAIN;

fn convert(
    subject: &impl Subject,
    file: &OwnedFd,
    (first, pages): (u64, u64),
    private: bool,
) -> Converted {
    let attributes = if private { MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
    let (offset, size) = (first * PAGE, pages * PAGE);
    let set = subject
        .vm()
        .set_file_attributes(file.as_fd(), offset, size, attributes);
    set.map_err(|error| (error.errno, error.pinned_at))
}

fn map(
    subject: &impl Subject,
    file: BorrowedFd<'_>,
    first: u64,
    pages: u64,
) -> Result<FileMapping, String> {
    let mapping = subject.map_file(file, first * PAGE, pages * PAGE, Sharing::Shared);
    mapping.map_err(|e| format!("a mapping: {e}"))
}

/// A file of [`PAGES`] pages that are shared at first, its mapping, and a slot of all of
/// it at [`BASE`]. Each page has its number plus 100 in it.
struct File {
    file: OwnedFd,
    mapping: FileMapping,
}

impl File {
    fn new(subject: &mut impl Subject) -> Result<Self, String> {
        let new = Self::untouched(subject)?;
        for page in 0..PAGES {
            same(
                "a store",
                store(subject, BASE + page * PAGE, 100 + page),
                Ok(0),
            )?;
        }
        Ok(new)
    }

    /// The same without bytes in it, and so without pages.
    fn untouched(subject: &impl Subject) -> Result<Self, String> {
        let file = create(subject, PAGES * PAGE, ALL)?;
        let mapping = map(subject, file.as_fd(), 0, PAGES)?;
        let new = Self { file, mapping };
        let slot = new.slot(0, BASE, (0, PAGES));
        same("a slot", set(subject, slot), Ok(()))?;
        Ok(new)
    }

    /// A slot of some pages of the file.
    fn slot(
        &self,
        slot: u32,
        gpa: u64,
        (first, pages): (u64, u64),
    ) -> kvm_userspace_memory_region2 {
        let region = kvm_userspace_memory_region2 {
            slot,
            guest_phys_addr: gpa,
            memory_size: pages * PAGE,
            userspace_addr: self.mapping.address() + first * PAGE,
            guest_memfd_offset: first * PAGE,
            ..Default::default()
        };
        on_file(region, &self.file)
    }

    /// Some pages, the first and their number, become private or shared.
    fn converts(
        &self,
        subject: &impl Subject,
        pages: (u64, u64),
        private: bool,
    ) -> Result<(), String> {
        let what = if private { "to private" } else { "to shared" };
        same(what, convert(subject, &self.file, pages, private), Ok(()))
    }

    /// What the host reads of a page: an error if the page is private.
    fn host(&self, page: u64) -> Result<u64, Errno> {
        peek(self.mapping.address() + page * PAGE).map(u64::from_le_bytes)
    }

    fn host_store(&self, page: u64, value: u64) -> Result<(), Errno> {
        let address = self.mapping.address() + page * PAGE;
        // SAFETY: there are no references to the mapping.
        unsafe { poke(address, &value.to_le_bytes()) }
    }

    /// The pages that the host cannot reach.
    fn private(&self) -> Vec<u64> {
        let is_private = |page: &u64| self.host(*page) == Err(Errno::EFAULT);
        (0..PAGES).filter(is_private).collect()
    }

    /// Deletes the slot before the mapping that it names is unmapped.
    fn end(self, subject: &impl Subject) -> Result<(), String> {
        same("deletion", delete(subject, 0), Ok(()))
    }
}
