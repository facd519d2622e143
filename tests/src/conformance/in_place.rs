// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftest `x86/guest_memfd_conversions_test`: attributes of a guest_memfd's
//! pages, by what it asserts. What a page contains after it has changed is not
//! specified, so the statements store before they load.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::convert::Home;
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{FileCall, PreFault, Sharing};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use super::{EXIT, create, delete, load, on_file, page, same, set, store};
use crate::subject::{Arena, FileMapping, PAGE, Subject, peek, poke};

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

pub(super) fn the_vm_itself_has_no_attributes(subject: &mut impl Subject) -> Result<(), String> {
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

pub(super) fn malformed_ranges_are_refused(subject: &mut impl Subject) -> Result<(), String> {
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

pub(super) fn other_files_have_no_attributes(subject: &mut impl Subject) -> Result<(), String> {
    // Not a terminal, whose ioctls are many.
    let null = std::fs::File::open("/dev/null").map_err(|e| e.to_string())?;
    let set = subject
        .vm()
        .set_file_attributes(null.as_fd(), 0, PAGE, MEMORY_ATTRIBUTE_PRIVATE);
    same("/dev/null", set.map_err(|e| e.errno), Err(Errno::ENOTTY))
}

pub(super) fn a_new_file_is_private_unless_it_is_created_shared(
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

pub(super) fn pages_are_converted_before_they_are_allocated(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::untouched(subject)?;
    same(
        "to private",
        convert(subject, &file.file, (1, 3), true),
        Ok(()),
    )?;
    for page in 0..PAGES {
        let gpa = BASE + page * PAGE;
        same("a store", store(subject, gpa, 100 + page), Ok(0))?;
        same("its load", load(subject, gpa), Ok(100 + page))?;
    }
    same("private", file.private(), vec![1, 2, 3])?;
    same("shared", file.host(4), Ok(104))?;
    same(
        "to shared",
        convert(subject, &file.file, (0, PAGES), false),
        Ok(()),
    )?;
    same("none is private", file.private(), vec![])?;
    file.end(subject)
}

pub(super) fn one_page_among_many_is_converted(subject: &mut impl Subject) -> Result<(), String> {
    let file = File::new(subject)?;
    for at in 0..PAGES {
        let gpa = BASE + at * PAGE;
        same(
            "to private",
            convert(subject, &file.file, (at, 1), true),
            Ok(()),
        )?;
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
        same(
            "to shared",
            convert(subject, &file.file, (at, 1), false),
            Ok(()),
        )?;
        same("none is private", file.private(), vec![])?;
        same("the host's store", file.host_store(at, 100 + at), Ok(()))?;
        same("the guest's load", load(subject, gpa), Ok(100 + at))?;
    }
    file.end(subject)
}

pub(super) fn a_page_that_someone_holds_does_not_become_private(
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
    same(
        "to shared",
        convert(subject, &file.file, (2, 1), false),
        Ok(()),
    )?;
    let pin = subject.pin(file.file.as_fd(), 2 * PAGE, PAGE);
    let _pin = pin.map_err(|e| format!("a pin: {e}"))?;
    same(
        "held again",
        convert(subject, &file.file, (2, 1), true),
        held(2),
    )?;
    file.end(subject)
}

pub(super) fn mappings_lose_private_pages_and_regain_shared_ones(
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
    same(
        "to private",
        convert(subject, &file.file, (3, 2), true),
        Ok(()),
    )?;
    same("the first mapping", file.private(), vec![3, 4])?;
    same("the second", seen(&other, 4), vec![two, None, None, five])?;
    // One that is made meanwhile.
    let later = map(subject, file.file.as_fd(), 4, 2)?;
    same("the third", seen(&later, 2), vec![None, five])?;
    same(
        "to shared",
        convert(subject, &file.file, (4, 1), false),
        Ok(()),
    )?;
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

pub(super) fn all_slots_of_a_file_follow_it(subject: &mut impl Subject) -> Result<(), String> {
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

pub(super) fn attributes_stay_with_the_file_without_a_slot(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::new(subject)?;
    same(
        "to private",
        convert(subject, &file.file, (1, 2), true),
        Ok(()),
    )?;
    same("deletion", delete(subject, 0), Ok(()))?;
    same("without a slot", load(subject, BASE + PAGE), Ok(EXIT))?;
    same("private", file.private(), vec![1, 2])?;
    same(
        "to shared",
        convert(subject, &file.file, (2, 1), false),
        Ok(()),
    )?;
    same(
        "to private",
        convert(subject, &file.file, (5, 1), true),
        Ok(()),
    )?;
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

pub(super) fn a_hole_does_not_change_attributes(subject: &mut impl Subject) -> Result<(), String> {
    let file = File::new(subject)?;
    same(
        "to private",
        convert(subject, &file.file, (1, 2), true),
        Ok(()),
    )?;
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

/// A file that the host cannot map has the private side only, as without attributes of
/// files.
pub(super) fn memory_beside_the_file_shows_while_pages_are_shared(
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

pub(super) fn the_guest_uses_a_page_privately_shared_and_back(
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
        same(
            "to private",
            convert(subject, &file.file, (page, 1), true),
            Ok(()),
        )?;
        same("a private store", store(subject, gpa, round), Ok(0))?;
        same("the host's store", host(0), Err(Errno::EFAULT))?;
        same("a private load", load(subject, gpa), Ok(round))?;
        same(
            "to shared",
            convert(subject, &file.file, (page, 1), false),
            Ok(()),
        )?;
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

pub(super) fn a_private_page_of_a_closed_file_is_not_reached(
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

pub(super) fn pages_of_both_states_are_pre_faulted(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let file = File::untouched(subject)?;
    same(
        "to private",
        convert(subject, &file.file, (2, 3), true),
        Ok(()),
    )?;
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
    same(
        "to private",
        convert(subject, &file.file, (0, PAGES), true),
        Ok(()),
    )?;
    file.end(subject)
}
