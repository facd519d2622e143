// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of host memory and of files: never empty, never beyond their owner's.

use std::fs::File;
use std::sync::Arc;

use guest_ranges::{FileSlice, HostMemory, Owner};

fn host(address: u64, size: u64, owner: Owner) -> Option<HostMemory> {
    // SAFETY: these tests access no memory.
    unsafe { HostMemory::new(address, size, owner) }
}

fn piece(address: u64, size: u64) -> HostMemory {
    host(address, size, Arc::new(())).unwrap()
}

#[test]
fn memory_can_be_neither_empty_nor_wrap() {
    assert!(host(0x1000, 0, Arc::new(())).is_none());
    assert!(host(u64::MAX, 2, Arc::new(())).is_none());
    let file = Arc::new(File::open("/dev/null").unwrap());
    assert!(FileSlice::new(file, u64::MAX, 2).is_none());
}

#[test]
fn null_is_no_host_address() {
    assert!(host(0, 0x1000, Arc::new(())).is_none());
    assert!(host(1, 0x1000, Arc::new(())).is_some());
}

#[test]
fn a_placeholder_lies_where_no_process_has_memory() {
    for size in [1, 0x1000, 1 << 40, 1 << 63] {
        let memory = HostMemory::placeholder(size).unwrap();
        assert_eq!((memory.size(), memory.range().last()), (size, u64::MAX));
        assert!(memory.address() >= 1 << 63);
    }
    assert!(HostMemory::placeholder(0).is_none());
    assert!(HostMemory::placeholder((1 << 63) + 1).is_none());
}

#[test]
fn a_slice_stays_inside_what_it_is_cut_from() {
    let memory = piece(0x10_0000, 0x4000);
    assert_eq!(memory.slice(0x1000, 0x3000), Some(piece(0x10_1000, 0x3000)));
    assert_eq!(memory.slice(0x1000, 0x3001), None);
    assert_eq!(memory.slice(u64::MAX, 1), None);
    assert_eq!(memory.slice(0, 0), None);
}

#[test]
fn the_owner_lives_as_long_as_any_slice() {
    let owner = Arc::new(());
    let slice = {
        let memory = host(0x1000, 0x1000, owner.clone()).unwrap();
        memory.slice(0, 1).unwrap()
    };
    assert_eq!(Arc::strong_count(&owner), 2);
    drop(slice);
    assert_eq!(Arc::strong_count(&owner), 1);
}

#[test]
fn a_descriptor_is_open_as_long_as_any_slice_of_its_file() {
    let file = Arc::new(File::open("/dev/null").unwrap());
    let held = Arc::downgrade(&file);
    let whole = FileSlice::new(file, 0x1000, 0x2000).unwrap();
    let part = whole.slice(0x1000, 0x1000).unwrap();
    assert_eq!((part.offset(), part.size()), (0x2000, 0x1000));
    drop(whole);
    assert!(held.upgrade().is_some());
    drop(part);
    assert!(held.upgrade().is_none());
}

#[test]
fn memory_joins_what_follows_it_only_with_the_same_owner() {
    let owner: Owner = Arc::new(());
    let memory = host(0x1000, 0x3000, owner.clone()).unwrap();
    let parts = [memory.slice(0, 0x1000), memory.slice(0x1000, 0x2000)];
    let [first, second] = parts.map(Option::unwrap);
    assert_eq!(first.joined(&second), Some(memory.clone()));
    assert_eq!(second.joined(&first), None);
    assert_eq!(first.joined(&memory), None);
    assert_eq!(first.joined(&piece(0x2000, 0x2000)), None);
    let joined = first.joined(&second).unwrap();
    drop((memory, first, second));
    assert_eq!(Arc::strong_count(&owner), 2);
    drop(joined);
}

#[test]
fn slices_join_in_one_descriptor_up_to_the_largest_size() {
    let file = Arc::new(File::open("/dev/null").unwrap());
    let slice = |file: &Arc<File>, offset, size| FileSlice::new(file.clone(), offset, size);
    let first = slice(&file, 0x1000, 0x1000).unwrap();
    let second = slice(&file, 0x2000, 0x1000).unwrap();
    assert_eq!(first.joined(&second), slice(&file, 0x1000, 0x2000));
    assert_eq!(second.joined(&first), None);
    let other = Arc::new(File::open("/dev/null").unwrap());
    assert_eq!(first.joined(&slice(&other, 0x2000, 0x1000).unwrap()), None);
    let half = slice(&file, 0, 1 << 63).unwrap();
    let rest = |size| slice(&file, 1 << 63, size).unwrap();
    assert_eq!(half.joined(&rest(1 << 63)), None);
    let most = half.joined(&rest((1 << 63) - 1)).unwrap();
    assert_eq!(most.size(), u64::MAX);
}
