// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One round of a live migration: merges the pages that the guest wrote, as KVM's dirty
//! log reports them, with those that the VMM wrote. It needs no `/dev/kvm`.
//!
//! `cargo run -p guest-ranges --all-features --example dirty_pages`

use guest_ranges::{AddrRange, PageSet, PageSize, subtract};

fn main() {
    let range = |start, size| AddrRange::new(start, size).expect("the range is not empty");
    // Two memslots of 128 pages, with the bitmaps of KVM_GET_DIRTY_LOG.
    let slots = [(0x0, [0b1111 << 60, 0b11]), (0x1_0000_0000, [1, 1 << 63])];
    let mut dirty = PageSet::new();
    for (gpa, bitmap) in slots {
        dirty.insert_bitmap(gpa, &bitmap, 128, PageSize::Size4K);
    }
    print("The guest wrote", dirty.iter());

    // The buffers of an emulated device; bytes count as whole pages.
    let mut devices = PageSet::new();
    devices.insert(range(0x4_2800, 0x1000));
    print("The VMM wrote", devices.iter());
    dirty.insert_all(&devices);

    // Memory that the other side has in a file, and does not need.
    let rom = [range(0x1_0000_0000, 0x1_0000)];
    print("Send", subtract(dirty.iter(), rom));

    // What is written from here on belongs to the next round.
    let round = dirty.take(AddrRange::ALL);
    let (pages, next) = (round.pages(), dirty.pages());
    println!("{pages} pages in this round; the next one starts with {next}.");
}

fn print(what: &str, ranges: impl Iterator<Item = AddrRange>) {
    println!("{what}:");
    for range in ranges {
        println!("  {range}, {} pages", range.size() / 4096);
    }
}
