// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Address spaces to check against, and a machine whose devices have one.

pub(crate) mod machine;
pub(crate) mod picture;

use guest_ranges::{AddrRange, HostMemory, Owner};
use vfio_dma::{DmaAccess, DmaRange};

pub(crate) const PAGE: u64 = 4096;

/// When a call panics: before or after it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

pub(crate) fn bytes(start: u64, size: u64) -> AddrRange {
    AddrRange::new(start, size.into()).unwrap()
}

/// A range to host memory that nothing accesses.
pub(crate) fn to_host(iova: AddrRange, access: DmaAccess, address: u64, owner: Owner) -> DmaRange {
    let size = u64::try_from(iova.size()).unwrap();
    // SAFETY: the address spaces of these tests map nothing.
    let memory = unsafe { HostMemory::new(address, size, owner) }.unwrap();
    DmaRange::new(iova.start(), memory, access).unwrap()
}

pub(crate) fn pages(start: u64, count: u64) -> AddrRange {
    bytes(start * PAGE, count * PAGE)
}
