// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The conversion engine on private memory. The guest requests conversions as
//! in the selftest `private_mem_conversions`, by a hypercall.

use std::os::fd::AsFd;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::convert::{
    ConvertError, Converter, ConvertibleMemory, ConvertibleRange, FailedStep, GuestMemfdSides,
    Home, NotChanged, PageRange,
};
use kvm_slots::sim::Sharing;
use kvm_slots::{Errno, FileSlice, GuestMemfdFlags, SlotAccess, SlotBacking, SlotRange};

use super::{create, delete, load, on_file, page, same, set, store};
use crate::subject::{Arena, PAGE, Subject, peek};

/// The address of the pages. The guest reaches two large pages from there.
const BASE: u64 = 0x4000_0000;
const LARGE: u64 = 2 << 20;
const SIZE: u64 = 2 * LARGE;
/// The attributes of the hypercall.
const SHARED: u64 = 0;
const PRIVATE: u64 = 1 << 4;

/// The offsets and sizes to convert.
const RANGES: [(u64, u64); 5] = [
    (0, PAGE),
    (LARGE - PAGE, 2 * PAGE),
    (LARGE, LARGE),
    (PAGE, SIZE - 2 * PAGE),
    (0, SIZE),
];

pub(super) fn conversions_never_leak_and_leave_no_stale_byte(
    subject: &mut impl Subject,
) -> Result<(), String> {
    two_sides(subject, Home::VmAttributes)
}

/// The same where the file has the attributes.
pub(super) fn conversions_of_two_sides_follow_the_file(
    subject: &mut impl Subject,
) -> Result<(), String> {
    two_sides(subject, Home::FileAttributes)
}

fn two_sides(subject: &mut impl Subject, due: Home) -> Result<(), String> {
    let home = Home::probe(subject.vm()).map_err(|e| e.to_string())?;
    same("the home", home, due)?;
    let pages = usize::try_from(SIZE / PAGE).map_err(|e| e.to_string())?;
    let arena = Arc::new(Arena::new(pages));
    let file = Arc::new(create(subject, SIZE, home.file_flags())?);
    let region = kvm_userspace_memory_region2 {
        memory_size: SIZE,
        ..on_file(page(&arena, 0, BASE), &*file)
    };
    same("a slot", set(subject, region), Ok(()))?;

    let backing = SlotBacking::GuestMemfd {
        file: FileSlice::new(file.clone(), 0, SIZE).ok_or("no bytes")?,
        host: Some(arena.host_memory(0, pages)),
    };
    let range = SlotRange::new(BASE, SlotAccess::ReadWrite, backing).map_err(|e| e.to_string())?;
    let mut memory = ConvertibleMemory::new();
    let range = ConvertibleRange::new(&range, GuestMemfdSides::Private);
    memory.set_ranges(range).map_err(|e| e.to_string())?;
    let converter = Converter::new(subject.vm().clone(), home, memory);

    let convert = |start: u64, size: u64, to: u64| {
        let converted = converter.hypercall(BASE + start, size / PAGE, to);
        let converted = converted.map_err(|e| e.to_string())?;
        same("bytes", converted.bytes, size)?;
        match converted.not_discarded.is_empty() {
            true => Ok(()),
            false => Err(format!("not discarded: {:?}", converted.not_discarded)),
        }
    };
    for (n, (start, size)) in (1_u64..).zip(RANGES) {
        let inside = [start, start + size / 2 / PAGE * PAGE, start + size - PAGE];
        let beside = [start.wrapping_sub(PAGE), start + size];
        let beside = beside.into_iter().filter(|at| *at < SIZE);
        let (open, secret) = (n << 8 | 1, n << 8 | 2);
        for at in inside.into_iter().chain(beside.clone()) {
            same("shared", store(subject, BASE + at, open), Ok(0))?;
        }
        convert(start, size, PRIVATE)?;
        for at in inside {
            same("private at first", load(subject, BASE + at), Ok(0))?;
        }
        for at in inside {
            same("a secret", store(subject, BASE + at, secret), Ok(0))?;
            let host = arena.read(at).map(u64::from_le_bytes);
            same("what the host sees", host, Ok(0))?;
        }
        for at in beside {
            same("beside it", load(subject, BASE + at), Ok(open))?;
        }
        convert(start, size, SHARED)?;
        for at in inside {
            same("shared again", load(subject, BASE + at), Ok(0))?;
        }
        convert(start, size, PRIVATE)?;
        for at in inside {
            same("private again", load(subject, BASE + at), Ok(0))?;
        }
        convert(start, size, SHARED)?;
    }
    Ok(())
}

pub(super) fn conversions_in_place_wait_for_whoever_holds_a_page(
    subject: &mut impl Subject,
) -> Result<(), String> {
    const PAGES: u64 = 8;
    let size = PAGES * PAGE;
    let file = Arc::new(create(subject, size, GuestMemfdFlags::all())?);
    let mapping = subject.map_file(file.as_fd(), 0, size, Sharing::Shared);
    let mapping = mapping.map_err(|e| e.to_string())?;
    let region = kvm_userspace_memory_region2 {
        guest_phys_addr: BASE,
        memory_size: size,
        userspace_addr: mapping.address(),
        ..Default::default()
    };
    same("a slot", set(subject, on_file(region, &*file)), Ok(()))?;
    let backing = SlotBacking::GuestMemfd {
        file: FileSlice::new(file.clone(), 0, size).ok_or("no bytes")?,
        host: None,
    };
    let range = SlotRange::new(BASE, SlotAccess::ReadWrite, backing).map_err(|e| e.to_string())?;
    let mut memory = ConvertibleMemory::new();
    let range = ConvertibleRange::new(&range, GuestMemfdSides::Both);
    memory.set_ranges(range).map_err(|e| e.to_string())?;
    let home = Home::probe(subject.vm()).map_err(|e| e.to_string())?;
    let converter = Converter::new(subject.vm().clone(), home, memory);
    let convert = |first: u64, pages: u64, to: u64| {
        let converted = converter.hypercall(BASE + first * PAGE, pages, to);
        converted.map(|converted| converted.bytes / PAGE)
    };
    let private = || {
        let touched = (0..PAGES).map(|page| peek::<8>(mapping.address() + page * PAGE));
        let private = touched.map(|seen| seen == Err(Errno::EFAULT));
        (0..PAGES)
            .zip(private)
            .filter(|(_, p)| *p)
            .map(|(n, _)| n)
            .collect::<Vec<u64>>()
    };

    for page in 0..PAGES {
        same("a store", store(subject, BASE + page * PAGE, page), Ok(0))?;
    }
    let pin = subject.pin(file.as_fd(), 2 * PAGE, PAGE);
    let pin = pin.map_err(|e| format!("a pin: {e}"))?;
    let page = PageRange::new(BASE + 2 * PAGE, PAGE).map_err(|e| e.to_string())?;
    match convert(1, 4, PRIVATE) {
        Err(ConvertError::Failed(failure)) => match failure.cause {
            FailedStep::State { why, .. } => same("why", why, NotChanged::Pinned(page))?,
            other => return Err(format!("{other:?}")),
        },
        other => return Err(format!("{other:?}")),
    }
    same("private", private(), vec![])?;
    drop(pin);
    let count = |converted: Result<u64, ConvertError>| converted.map_err(|e| e.to_string());
    same("to private", count(convert(1, 4, PRIVATE)), Ok(4))?;
    same("private", private(), vec![1, 2, 3, 4])?;
    same("a private store", store(subject, BASE + 2 * PAGE, 7), Ok(0))?;
    same("to shared", count(convert(0, 4, SHARED)), Ok(3))?;
    same("private", private(), vec![4])?;
    same("a shared store", store(subject, BASE + 2 * PAGE, 8), Ok(0))?;
    let seen = peek(mapping.address() + 2 * PAGE).map(u64::from_le_bytes);
    same("the host's load", seen, Ok(8))?;
    same("deletion", delete(subject, 0), Ok(()))
}
