// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The conversion engine on private memory. The guest requests conversions as
//! in the selftest `private_mem_conversions`, by a hypercall.

use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::convert::{Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides, Home};
use kvm_slots::{FileSlice, GuestMemfdFlags, SlotAccess, SlotBacking, SlotRange};

use super::{create, load, on_file, page, same, set, store};
use crate::subject::{Arena, PAGE, Subject};

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
    let pages = usize::try_from(SIZE / PAGE).map_err(|e| e.to_string())?;
    let arena = Arc::new(Arena::new(pages));
    let file = Arc::new(create(subject, SIZE, GuestMemfdFlags::empty())?);
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
    let home = Home::probe(subject.vm()).map_err(|e| e.to_string())?;
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
