// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftest `set_memory_region_test`: flags, numbers, files and addresses
//! of memslots.

use std::os::fd::AsRawFd;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_bindings::{KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_slots::{Errno, GuestMemfdFlags};

use super::{EXIT, create, delete, for_slots, load, on_file, page, same, set, set_v1, store};
use crate::subject::Subject;

const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

pub(super) fn every_bad_flag_is_refused_by_the_older_ioctl(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let arena = subject.arena(1);
    let region = page(&arena, 0, 0);
    for bit in 2..32 {
        let flags = 1 << bit;
        let region = kvm_userspace_memory_region2 { flags, ..region };
        same(&format!("flag {flags:#x}"), set_v1(subject, region), EINVAL)?;
    }
    same("no flag", set_v1(subject, region), Ok(()))
}

pub(super) fn every_bad_flag_is_refused_by_the_newer_ioctl(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let arena = subject.arena(1);
    for bit in 3..32 {
        for with in [0, KVM_MEM_GUEST_MEMFD] {
            let region = kvm_userspace_memory_region2 {
                flags: 1 << bit | with,
                ..page(&arena, 0, 0)
            };
            let flags = region.flags;
            same(&format!("flags {flags:#x}"), set(subject, region), EINVAL)?;
        }
    }
    same("no flag", set(subject, page(&arena, 0, 0)), Ok(()))
}

pub(super) fn exactly_the_advertised_number_of_slots_fits(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let (arena, other) = (subject.arena(1), subject.another(false)?);
    let count = other.capabilities().nr_memslots;
    for slot in 0..count {
        let region = page(&arena, slot, u64::from(slot) * page_size);
        same(&format!("slot {slot}"), set_v1(&other, region), Ok(()))?;
    }
    let one_more = page(&arena, count, u64::from(count) * page_size);
    same("one more", set_v1(&other, one_more), EINVAL)
}

pub(super) fn a_slot_in_use_can_be_moved_and_deleted(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let arena = subject.arena(1);
    let (old, new) = (0x1_0000_0000, 0x4000_0000);
    same("creation", set_v1(subject, page(&arena, 0, old)), Ok(()))?;
    same("store", store(subject, old, 0x1234), Ok(0))?;
    same("load", load(subject, old), Ok(0x1234))?;
    same("move", set_v1(subject, page(&arena, 0, new)), Ok(()))?;
    same("load at the old place", load(subject, old), Ok(EXIT))?;
    same("load at the new one", load(subject, new), Ok(0x1234))?;
    same("deletion", delete(subject, 0), Ok(()))?;
    same("load at neither", load(subject, new), Ok(EXIT))?;
    same("back", set_v1(subject, page(&arena, 0, old)), Ok(()))?;
    same("load once more", load(subject, old), Ok(0x1234))
}

pub(super) fn logging_and_read_only_exclude_guest_memfd(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let (arena, file) = (
        subject.arena(1),
        create(subject, page_size, for_slots(subject))?,
    );
    let good = on_file(page(&arena, 0, 0), &file);
    for other in [KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 3] {
        let flags = KVM_MEM_GUEST_MEMFD | other;
        let region = kvm_userspace_memory_region2 { flags, ..good };
        same(&format!("flags {flags}"), set(subject, region), EINVAL)?;
    }
    same("neither", set(subject, good), Ok(()))
}

pub(super) fn a_file_of_the_wrong_kind_is_refused(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let (arena, other) = (subject.arena(1), subject.another(false)?);
    let region = page(&arena, 0, 0);
    let theirs = create(&other, page_size, for_slots(subject))?;
    same(
        "another VM's",
        set(subject, on_file(region, &theirs)),
        EINVAL,
    )?;
    // /dev/kvm is also a file of the wrong kind.
    for path in ["/dev/null", "/dev/zero", "/dev/kvm", "/"] {
        if let Ok(file) = std::fs::File::open(path) {
            same(path, set(subject, on_file(region, &file)), EINVAL)?;
        }
    }
    if let Some(vm) = subject.descriptor() {
        same("the VM itself", set(subject, on_file(region, &vm)), EINVAL)?;
    }
    let closed = on_file(region, &99_999);
    same("none", set(subject, closed), Err(Errno::EBADF))?;
    let mut others = on_file(region, &theirs);
    others.guest_memfd = u32::from_ne_bytes(theirs.as_raw_fd().to_ne_bytes());
    same("its own VM", set(&other, others), Ok(()))
}

pub(super) fn every_unaligned_offset_is_refused(subject: &mut impl Subject) -> Result<(), String> {
    let page_size = subject.page_size();
    let (arena, file) = (
        subject.arena(1),
        create(subject, 4 * page_size, for_slots(subject))?,
    );
    for guest_memfd_offset in 1..page_size {
        let region = kvm_userspace_memory_region2 {
            guest_memfd_offset,
            ..on_file(page(&arena, 0, 0), &file)
        };
        let offset = format!("offset {guest_memfd_offset}");
        same(&offset, set(subject, region), EINVAL)?;
    }
    Ok(())
}

pub(super) fn neither_files_nor_addresses_overlap(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let page_size = subject.page_size();
    let arena = subject.arena(4);
    let file = create(subject, 4 * page_size, for_slots(subject))?;
    let part = |slot, gpa, offset, size| kvm_userspace_memory_region2 {
        guest_memfd_offset: offset,
        memory_size: size,
        ..on_file(page(&arena, slot, gpa), &file)
    };
    let middle = part(0, 0x10_0000, page_size, 2 * page_size);
    same("the first", set(subject, middle), Ok(()))?;
    // The addresses overlap, the parts of the file do not.
    for gpa in [0x10_0000, 0x10_0000 + page_size] {
        let region = part(1, gpa, 3 * page_size, page_size);
        same("same addresses", set(subject, region), Err(Errno::EEXIST))?;
    }
    // The parts of the file overlap, the addresses do not. The error depends on
    // the version.
    for (offset, size) in [(0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (0, 4)] {
        let region = part(1, 0x20_0000, offset * page_size, size * page_size);
        match set(subject, region) {
            Err(Errno::EEXIST | Errno::EINVAL) => {}
            other => return Err(format!("the same part of the file: {other:?}")),
        }
    }
    same(
        "before",
        set(subject, part(1, 0x20_0000, 0, page_size)),
        Ok(()),
    )?;
    same(
        "behind",
        set(subject, part(2, 0x30_0000, 3 * page_size, page_size)),
        Ok(()),
    )?;
    same("deletion", delete(subject, 0), Ok(()))?;
    same("free again", set(subject, middle), Ok(()))
}

pub(super) fn a_file_that_the_host_cannot_map_is_refused_in_a_slot(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let (arena, page_size) = (subject.arena(1), subject.page_size());
    let mappable = GuestMemfdFlags::MMAP;
    for (flags, should) in [(GuestMemfdFlags::empty(), EINVAL), (mappable, Ok(()))] {
        let file = create(subject, page_size, flags)?;
        let region = on_file(page(&arena, 0, 0), &file);
        same(&format!("{flags:?}"), set(subject, region), should)?;
    }
    Ok(())
}

pub(super) fn a_slot_beyond_the_guest_is_refused_after_every_other_check(
    subject: &mut impl Subject,
) -> Result<(), String> {
    let (arena, page_size) = (subject.arena(2), subject.page_size());
    // No guest has wider addresses.
    let beyond = 1 << 52;
    let error = subject.expected().beyond_guest;
    same(
        "creation",
        set_v1(subject, page(&arena, 0, beyond)),
        Err(error),
    )?;
    let straddling = kvm_userspace_memory_region2 {
        memory_size: 2 * page_size,
        ..page(&arena, 0, beyond - page_size)
    };
    same("an end beyond", set_v1(subject, straddling), Err(error))?;
    same("a slot", set_v1(subject, page(&arena, 0, 0)), Ok(()))?;
    same(
        "a move",
        set_v1(subject, page(&arena, 0, beyond)),
        Err(error),
    )?;
    let unaligned = page(&arena, 0, beyond + page_size / 2);
    same("unaligned", set_v1(subject, unaligned), EINVAL)?;
    store(subject, 0, 3).map_err(|e| e.to_string())?;
    same("the slot is where it was", load(subject, 0), Ok(3))
}

pub(super) fn every_number_is_of_whole_pages(subject: &mut impl Subject) -> Result<(), String> {
    let (arena, page_size) = (subject.arena(2), subject.page_size());
    let good = page(&arena, 0, page_size);
    for off in [1, 8, 512, page_size / 2, page_size - 1] {
        let (gpa, host) = (good.guest_phys_addr + off, good.userspace_addr + off);
        let regions = [
            kvm_userspace_memory_region2 {
                guest_phys_addr: gpa,
                ..good
            },
            kvm_userspace_memory_region2 {
                userspace_addr: host,
                ..good
            },
            kvm_userspace_memory_region2 {
                memory_size: off,
                ..good
            },
        ];
        for region in regions {
            same(&format!("{region:x?}"), set_v1(subject, region), EINVAL)?;
        }
    }
    same("whole pages", set_v1(subject, good), Ok(()))
}
