// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `PlainMemory`: RAM that never becomes private, as a list of regions.

use crate::common;

use std::sync::Arc;

use common::mapped::{LAST, MORE, Mapped};
use common::{Machine, host};
use linux_loader::cmdline::Cmdline;
use linux_loader::loader::load_cmdline;
use memory_model::{HostMemory, Memory, PlainMemory, Region};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
    MmapRegion,
};

fn of(m: &Machine) -> PlainMemory<()> {
    PlainMemory::new(&m.model.view(m.space)).unwrap()
}

/// The first and the last address of each region.
fn ranges(memory: &PlainMemory<()>) -> Vec<(u64, u64)> {
    let range =
        |r: &<PlainMemory<()> as GuestMemoryBackend>::R| (r.start_addr().0, r.last_addr().0);
    memory.iter().map(range).collect()
}

#[test]
fn only_writable_memory_without_a_private_side_is_plain() {
    let mapped = Mapped::new();
    let plain = of(&mapped.m);
    assert_eq!(ranges(&plain), [(MORE, MORE + 0xfff), (LAST, u64::MAX)]);
    assert_eq!(plain.num_regions(), 2);
    for (at, region) in [
        (MORE - 1, None),
        (MORE, Some(MORE)),
        (MORE + 0xfff, Some(MORE)),
        (MORE + 0x1000, None),
        (u64::MAX, Some(LAST)),
    ] {
        let found = plain.find_region(GuestAddress(at));
        assert_eq!(found.map(|r| r.start_addr().0), region, "{at:#x}");
    }
}

#[test]
fn plain_memory_and_shared_memory_are_the_same_bytes() {
    let mapped = Mapped::new();
    let (plain, shared) = (of(&mapped.m), mapped.shared());
    let at = GuestAddress(MORE + 0xff8);
    plain.write_obj(0x1234_u64, at).unwrap();
    assert_eq!(shared.read_obj::<u64>(at).unwrap(), 0x1234);
    assert!(plain.write_obj(0_u64, GuestAddress(MORE + 0xff9)).is_err());
}

#[test]
fn a_region_that_is_a_part_of_a_mapping_knows_its_place_in_it() {
    // Offsets in files are whole pages of every host.
    const BIG: u64 = 0x1_0000;
    let file = tempfile::tempfile().unwrap();
    file.set_len(5 * BIG).unwrap();
    let size = usize::try_from(4 * BIG).unwrap();
    let mapping = MmapRegion::<()>::from_file(FileOffset::new(file, BIG), size).unwrap();
    let mapping = Arc::new(mapping);
    let host = HostMemory::of_mmap(mapping.clone()).unwrap();
    let mut m = Machine::new();
    m.put(Region::ram("ram", Memory::host_only(host)), 0);
    m.put_over(Region::mmio("registers", BIG.into()), BIG);
    let plain = of(&m);
    assert_eq!(ranges(&plain), [(0, BIG - 1), (2 * BIG, 4 * BIG - 1)]);

    let region = plain.find_region(GuestAddress(2 * BIG)).unwrap();
    assert_eq!(region.file_offset().unwrap().start(), 3 * BIG);
    let address = region.get_host_address(MemoryRegionAddress(4)).unwrap();
    assert_eq!(address, mapping.as_ptr().wrapping_add(0x2_0004));
    // Not a byte of the mapping behind or before the region.
    assert!(
        region
            .get_host_address(MemoryRegionAddress(2 * BIG))
            .is_err()
    );
    let first = plain.find_region(GuestAddress(0)).unwrap();
    let last = MemoryRegionAddress(BIG - 1);
    assert!(first.get_slice(last, 2).is_err());
    assert!(first.get_slice(MemoryRegionAddress(u64::MAX), 2).is_err());
    assert_eq!(first.get_slice(last, 1).unwrap().len(), 1);
}

#[test]
fn linux_loader_writes_a_command_line_to_plain_memory() {
    let mut m = Machine::new();
    let mapping = Arc::new(MmapRegion::<()>::new(0x2000).unwrap());
    let host = HostMemory::of_mmap(mapping).unwrap();
    m.put(Region::ram("ram", Memory::host_only(host)), 0x10_0000);
    let plain = of(&m);
    let mut line = Cmdline::new(64).unwrap();
    line.insert_str("console=ttyS0").unwrap();
    load_cmdline(&plain, GuestAddress(0x10_1000), &line).unwrap();
    let mut found = [0; 14];
    plain
        .read_slice(&mut found, GuestAddress(0x10_1000))
        .unwrap();
    assert_eq!(&found, b"console=ttyS0\0");
    // There is no RAM.
    assert!(load_cmdline(&plain, GuestAddress(0x10_2000), &line).is_err());
}

#[test]
fn memory_of_another_owner_is_an_error() {
    let mut m = Machine::new();
    m.put(Region::ram("other", Memory::host_only(host(0x1000))), 0);
    let error = PlainMemory::<()>::new(&m.model.view(m.space)).unwrap_err();
    assert_eq!(error.region, "other");
}
