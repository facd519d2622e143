// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Counts the allocations of this thread: areas make none.

use crate::common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use common::{Device, in_bar, index, tee};
use vfio_private::areas::{AreaChange, BarAreas, DeviceAreas};
use vfio_private::{BarInput, classify};

/// The system's allocator, with a count.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system's, unchanged; the count is a number of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about pointer and layout, which `alloc` got from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(what: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    what();
    COUNT.get() - before
}

/// A BAR with MSI-X and `areas` areas of one page.
fn device(areas: u64) -> Device {
    let sparse: Vec<(u64, u64)> = (1..=areas).map(|n| (n * 0x2000, 0x1000)).collect();
    let device = Device::with_bar(0x10_0000).sparse(&sparse);
    device.msix(in_bar(0, 0, 16), in_bar(0, 0x800, 8))
}

fn carve(device: &Device, room: usize) -> u64 {
    let input = BarInput::new(device.bar, &device.region)
        .with_msix(device.msix)
        .with_report(device.report.as_deref());
    allocations(|| {
        let areas = BarAreas::<64>::carve_bounded(&input, device.page, device.policy);
        assert!(black_box(areas).is_ok_and(|areas| areas.all().len() <= room));
    })
}

#[test]
fn carving_allocates_only_for_a_report_or_for_more_than_16_sparse_areas() {
    for areas in 0..=16 {
        assert_eq!(carve(&device(areas), 34), 0, "{areas} areas");
    }
    assert_ne!(carve(&device(17), 36), 0);
    assert_ne!(carve(&device(0).report(&[tee(0x1000, 0x1000)]), 4), 0);
    // What is counted is counted: the list of pieces is on the heap.
    let device = device(4);
    let input = BarInput::new(device.bar, &device.region).with_msix(device.msix);
    let classified = allocations(|| {
        black_box(classify(&input, device.page, device.policy)).unwrap();
    });
    assert_ne!(classified, 0);
}

#[test]
fn lookups_and_moves_allocate_nothing() {
    let areas = device(4).areas();
    let count = allocations(|| {
        let none = DeviceAreas::new([areas]).unwrap();
        let device = none.moved(index(0), Some(0xe000_0000)).unwrap();
        let device = device.with_decoding(true).unwrap();
        assert!(black_box(device.find(0xe000_2000, 4)).is_ok());
        assert!(black_box(device.find_dma(0xe000_2000, 0x1000)).is_ok());
        assert!(black_box(device.find(0xe000_2ffe, 4)).is_err());
        let moved = device.moved(index(0), Some(0xf000_0000)).unwrap();
        let change = AreaChange::between(&device, &moved);
        let all = change.unmaps().chain(change.maps());
        let all = all.chain(change.dma_unmaps()).chain(change.dma_maps());
        assert_eq!(black_box(all).count(), 16);
        assert!(black_box(device.moved(index(0), Some(0))).is_err());
    });
    assert_eq!(count, 0);
}
