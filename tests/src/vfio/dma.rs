// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device reaches by DMA: edu copies between its own memory and the
//! memory that is mapped for it, and reaches nothing else.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use guest_ranges::FileSlice;
use vfio_dma::{DmaAccess, DmaObstacle, DmaRange, DmaRefusal, DmaUnsupported};
use vfio_private::device::{Device, Iommu, VfioInterface};

use super::edu::{Edu, map, range, unmap};
use super::registers::mapping;
use super::{Model, OnDevice, at, dma_convert, dma_peer, iommu_of, same};
use crate::needs::Need;
use crate::subject::{Arena, host_page_size};

/// Attributes of files, a guest_memfd that can be mapped, the VFIO interface, edu,
/// another device, and a VM with private pages.
static NEEDS: [[Need; 6]; 2] = {
    let mut needs = [[Need::ConvertiblePages; 6]; 2];
    let mut at = 0;
    while at < needs.len() {
        needs[at][0] = Need::FileAttributes;
        needs[at][1] = Need::MappableGuestMemfd;
        needs[at][2] = Need::VfioInterface(VfioInterface::ALL[at]);
        needs[at][3] = Need::Vfio(Model::Edu);
        needs[at][4] = Need::Vfio(Model::Ivshmem);
        at += 1;
    }
    needs
};

/// All tests for each VFIO interface: the first and last index of each test's
/// needs, and the test.
pub(super) fn all() -> Vec<OnDevice> {
    type Test = (&'static str, [usize; 2], fn(&Device) -> Result<(), String>);
    const TESTS: [Test; 9] = [
        (
            "dma_reaches_what_is_mapped_and_nothing_else",
            [2, 4],
            reaches_what_is_mapped,
        ),
        (
            "dma_reaches_a_guest_memfd_through_its_mapping",
            [1, 4],
            dma_convert::reaches_a_guest_memfd,
        ),
        ("dma_mappings_are_removed_as_a_whole", [2, 4], go_as_a_whole),
        (
            "dma_limits_match_what_the_kernel_refuses",
            [2, 4],
            limits_hold,
        ),
        (
            "dma_reaches_a_memfd_through_an_iommufd",
            [2, 4],
            reaches_a_memfd,
        ),
        (
            "dma_reaches_another_device_until_it_is_revoked",
            [2, 5],
            dma_peer::reaches_a_peer,
        ),
        (
            "memory_is_released_when_nothing_can_map_or_unmap",
            [2, 5],
            lets_go,
        ),
        (
            "dma_follows_conversions_of_a_guest",
            [2, 6],
            dma_convert::follows_conversions,
        ),
        (
            "dma_follows_conversions_in_place",
            [0, 4],
            dma_convert::follows_conversions_in_place,
        ),
    ];
    let of_way = |needs: &'static [Need; 6]| {
        TESTS.iter().filter_map(move |(name, [from, to], run)| {
            let Need::VfioInterface(way) = needs[2] else {
                return None;
            };
            Some(OnDevice {
                name,
                model: Model::Edu,
                way,
                needs: &needs[*from..*to],
                run: *run,
            })
        })
    };
    NEEDS.iter().flat_map(of_way).collect()
}

/// The IOVAs of the pages.
const A: u64 = 0x10_0000;
const B: u64 = 0x20_0000;
const C: u64 = 0x30_0000;

fn reaches_what_is_mapped(device: &Device) -> Result<(), String> {
    let edu = Edu::new(device)?;
    let arena = Arc::new(Arena::new(3));
    let page = arena.page_size();
    let read = |offset| arena.read::<8>(offset).map_err(at("memory"));
    let write = |offset, data: &[u8; 8]| arena.write(offset, data).map_err(at("memory"));
    write(0x100, b"ours, 1.")?;
    write(page, b"ours, 2.")?;
    write(2 * page, b"ours, 3.")?;
    let both = range(A, &arena, 0, DmaAccess::ReadWrite)?;
    map(device, &both).map_err(at("mapping"))?;
    map(device, &range(B, &arena, 1, DmaAccess::Read)?).map_err(at("mapping"))?;

    edu.carry(A + 0x100, A + 0x800)?;
    same("copied", read(0x800)?, *b"ours, 1.")?;
    edu.carry(B, A + 0x808)?;
    same("from the read-only page", read(0x808)?, *b"ours, 2.")?;
    edu.carry(A + 0x100, B)?;
    same("the read-only page", read(page)?, *b"ours, 2.")?;
    edu.carry(A + 0x100, C)?;
    same(
        "the page that was never mapped",
        read(2 * page)?,
        *b"ours, 3.",
    )?;

    same("unmapped", unmap(device, A, page), Ok(page))?;
    edu.carry(B, A + 0x800)?;
    same("after it was unmapped", read(0x800)?, *b"ours, 1.")?;
    // The device does not load the bytes that are there.
    map(device, &range(C, &arena, 2, DmaAccess::ReadWrite)?).map_err(at("mapping"))?;
    edu.carry(A + 0x100, C + 8)?;
    let seen = read(2 * page + 8)?;
    if seen == *b"ours, 1." {
        return Err("a page that is not mapped was read".into());
    }

    map(device, &both).map_err(at("mapping again"))?;
    edu.set_bus_master(false)?;
    edu.carry(B, A + 0x800)?;
    same("without bus mastering", read(0x800)?, *b"ours, 1.")?;
    edu.set_bus_master(true)?;
    edu.carry(B, A + 0x800)?;
    same("mapped again", read(0x800)?, *b"ours, 2.")
}

/// The rule that the planner depends on.
fn go_as_a_whole(device: &Device) -> Result<(), String> {
    let arena = Arc::new(Arena::new(4));
    let size = arena.page_size();
    let all = DmaRange::new(A, arena.host_memory(0, 4), DmaAccess::ReadWrite);
    let all = all.map_err(at("a range"))?;
    let is_group = iommu_of(device).interface() == VfioInterface::LegacyGroup;
    let refused = match is_group {
        true => DmaObstacle::Iova,
        false => DmaObstacle::NotMapped,
    };
    let obstacle = |result: Result<u64, DmaRefusal>| match result {
        Ok(bytes) => Err(format!("{bytes:#x} bytes went")),
        Err(refusal) => Ok(refusal.obstacle()),
    };
    map(device, &all).map_err(at("mapping"))?;
    for (start, pages) in [(0, 1), (0, 3), (1, 2), (2, 4), (3, 1)] {
        let result = unmap(device, A + start * size, pages * size);
        same("a part", obstacle(result)?, Some(refused))?;
    }
    same(
        "mapped",
        map(device, &all).map_err(|e| e.obstacle()),
        Err(Some(DmaObstacle::Mapped)),
    )?;
    same("more", unmap(device, A - size, 8 * size), Ok(4 * size))?;
    let nothing = unmap(device, A, 4 * size).map_err(DmaRefusal::obstacle);
    let due = match is_group {
        true => Ok(0),
        false => Err(Some(DmaObstacle::NotMapped)),
    };
    same("nothing", nothing, due)?;

    // Adjacent mappings are unmapped together, and their owners are dropped.
    for page in 0..4 {
        let one = range(A + page as u64 * size, &arena, page, DmaAccess::ReadWrite)?;
        map(device, &one).map_err(at("mapping"))?;
    }
    same("all four", unmap(device, A, 4 * size), Ok(4 * size))?;
    drop(all);
    same("owners", Arc::strong_count(&arena), 1)
}

/// The device and its address space stay open as long as a mapping of the
/// device exists.
fn lets_go(device: &Device) -> Result<(), String> {
    let iommu = Iommu::new(iommu_of(device).interface()).map_err(at("an address space"))?;
    let other = Device::open(&iommu, Model::Ivshmem.bound()?).map_err(at("ivshmem"))?;
    let (_, bar) = mapping(&other, 2)?;
    let arena = Arc::new(Arena::new(1));
    let memory = range(A, &arena, 0, DmaAccess::ReadWrite)?;
    map(&other, &memory).map_err(at("mapping"))?;
    drop(memory);
    same("owners", Arc::strong_count(&arena), 2)?;
    drop(iommu);
    same("owners", Arc::strong_count(&arena), 2)?;
    drop(other);
    bar.read::<u32>(0).map_err(at("a load"))?;
    same("owners", Arc::strong_count(&arena), 1)
}

/// The first address that the kernel reserves for interrupt messages of the
/// device's group. It depends on the IOMMU.
fn message_window(device: &Device) -> Result<u64, String> {
    let path = format!(
        "/sys/bus/pci/devices/{}/iommu_group/reserved_regions",
        device.address()
    );
    let reserved = fs::read_to_string(&path).map_err(at(&path))?;
    let window = reserved.lines().find(|line| line.ends_with(" msi"));
    let first = window.and_then(|line| line.split_whitespace().next());
    let digits = first.and_then(|first| first.strip_prefix("0x"));
    let address = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    address.ok_or_else(|| format!("{path} has no window for messages: {reserved}"))
}

fn limits_hold(device: &Device) -> Result<(), String> {
    let limits = iommu_of(device).dma_limits().map_err(at("limits"))?;
    same("pages", limits.page_size(), host_page_size())?;
    let is_allowed = |iova| limits.allowed().any(|range| range.contains(iova));
    same("low memory", is_allowed(A), true)?;
    let messages = message_window(device)?;
    same("interrupts", is_allowed(messages), false)?;
    let default = match iommu_of(device).interface() {
        VfioInterface::LegacyGroup => Some(65535),
        _ => None,
    };
    same("mappings", limits.mappings(), default)?;

    let arena = Arc::new(Arena::new(2));
    let refused = |range: &DmaRange| match map(device, range) {
        Ok(()) => Err(format!("{range} was mapped")),
        Err(refusal) => Ok(refusal.obstacle()),
    };
    let both = DmaAccess::ReadWrite;
    let window = refused(&range(messages, &arena, 0, both)?)?;
    same("interrupts", window, Some(DmaObstacle::Iova))?;
    let part = refused(&range(A + 0x800, &arena, 0, both)?)?;
    same("half a page", part, Some(DmaObstacle::Iova))?;
    // After the arena's pages there are addresses without memory.
    let nothing = refused(&range(A, &arena, 2, both)?)?;
    same("no memory", nothing, Some(DmaObstacle::NoMemory))?;

    map(device, &range(A, &arena, 0, both)?).map_err(at("mapping"))?;
    let limits = iommu_of(device).dma_limits().map_err(at("limits"))?;
    same(
        "mappings, those that there are included",
        limits.mappings(),
        default,
    )
}

/// Mapping a file's pages needs no `unsafe`.
fn reaches_a_memfd(device: &Device) -> Result<(), String> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"dma".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err("there are no memfds".into());
    }
    // SAFETY: the kernel has just created the descriptor, so no one else owns it.
    let file = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut memory = File::from(file.try_clone().map_err(at("a memfd"))?);
    let size = host_page_size();
    memory.set_len(2 * size).map_err(at("a memfd"))?;
    memory.seek(SeekFrom::Start(size)).map_err(at("a memfd"))?;
    memory.write_all(b"in file.").map_err(at("a memfd"))?;

    let edu = Edu::new(device)?;
    let page = FileSlice::new(file.clone(), size, size).ok_or("no bytes")?;
    let page = DmaRange::new(A, page, DmaAccess::ReadWrite).map_err(at("a range"))?;
    let mapped = map(device, &page);
    if iommu_of(device).interface() == VfioInterface::LegacyGroup {
        let due = DmaUnsupported::FileInContainer.into();
        return same("a file in a container", mapped, Err(due));
    }
    mapped.map_err(at("a memfd"))?;
    edu.carry(A, A + 8)?;
    let mut seen = [0; 8];
    memory
        .seek(SeekFrom::Start(size + 8))
        .map_err(at("a memfd"))?;
    memory.read_exact(&mut seen).map_err(at("a memfd"))?;
    same("copied", seen, *b"in file.")?;
    let null = File::open("/dev/null").map_err(at("/dev/null"))?;
    let null = FileSlice::new(Arc::new(null), 0, size).ok_or("no bytes")?;
    let null = DmaRange::new(B, null, DmaAccess::Read).map_err(at("a range"))?;
    let refused = map(device, &null).map_err(DmaRefusal::obstacle);
    same("/dev/null", refused, Err(Some(DmaObstacle::Iova)))
}
