// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeps the DMA mappings of assigned devices to the guest's shared pages.
//!
//! There are two listeners. `RamListener` (feature `kvm-slots`) is for a VMM that lists its
//! RAM and follows conversions only. The rest of this page is about the other one.
//!
//! `DmaListener` (feature `memory-model`) listens to the memory model: added RAM is mapped, removed RAM
//! is unmapped. With the feature `kvm-slots` it also listens to the conversion
//! engine: pages that become private are unmapped before the guest uses them, and
//! pages that become shared are mapped afterwards.
//!
//! The listener follows the engine's calls and not the model's page set, which changes
//! too late: after the guest has got or lost the pages. In a transaction it takes the
//! private pages from the update. It keeps them only if an IOMMU page has several guest
//! pages ([`PAGE_SIZE`](guest_ranges::PAGE_SIZE)), because such a page is mapped while
//! all of them are shared.
//!
//! | memory | devices may |
//! | --- | --- |
//! | RAM, shared pages | access it as the guest: read and write, or read |
//! | RAM, private pages | not access it |
//! | ROM, and a ROM device that is read directly | read |
//! | a device's mapped memory | access it by [`Peers`] |
//! | private MMIO, trapped registers | not access it |
//!
//! Where memory has a guest_memfd, shared pages are at the host address and
//! private ones in the file. All mappings of RAM lead to host addresses.
//!
//! Give the listener a higher priority than the memslots. It then applies before
//! them: devices lose memory before the guest does, and no listener can refuse
//! after the guest has lost it. New memory is mapped in `prepare`, before the guest
//! has it. Open the devices first, because each can narrow what can be mapped
//! (`DmaListener::device_added`).
//!
//! When a device is unplugged, remove the listener from the model and then from the
//! conversion engine. If the model refuses to add a listener, close its address space: a
//! rollback that failed can have left mappings there, which no one would unmap.
//!
//! A model with private pages also needs `kvm_slots::convert::PrivateStays`: a view does
//! not show that the state of memory moves with it.

#[cfg(all(feature = "kvm-slots", feature = "memory-model"))]
mod convert;
mod error;
#[cfg(feature = "memory-model")]
mod follow;
#[cfg(feature = "kvm-slots")]
mod ram;
#[cfg(feature = "memory-model")]
mod target;

#[cfg(feature = "kvm-slots")]
use guest_ranges::{AddrRange, PageSet};
#[cfg(feature = "kvm-slots")]
use kvm_slots::convert::{Conversion, PageState};

pub use error::DmaFollowError;
#[cfg(feature = "memory-model")]
pub use follow::DmaListener;
#[cfg(feature = "kvm-slots")]
pub use ram::RamListener;
#[cfg(feature = "memory-model")]
pub use target::{DmaPolicy, FindFile, Peers};

/// The pages of a conversion.
#[cfg(feature = "kvm-slots")]
fn pages(change: &Conversion<'_>) -> Vec<AddrRange> {
    let ranges = change.stretches.iter().map(|stretch| stretch.range);
    let ranges = ranges.chain(change.unbacked.iter().copied());
    ranges.map(AddrRange::from).collect()
}

/// Records the state of pages.
#[cfg(feature = "kvm-slots")]
fn record(private: &mut PageSet, pages: &[AddrRange], to: PageState) {
    for range in pages {
        match to {
            PageState::Private => private.insert(*range),
            PageState::Shared => private.remove(*range),
        }
    }
}
