// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The errors of planning.

use crate::unsupported::Unsupported;
use guest_ranges::{PageRange, PageSize};

/// The reason why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The kernel does not support some of the ranges.
    #[error("{}", list(.0))]
    Unsupported(Vec<UnsupportedRange>),
    /// The plan needs more slots than the kernel has, minus the reserved ones.
    #[error("{needed} memslots are needed, the kernel has {limit} and {reserved} are reserved")]
    TooManySlots {
        /// The number of slots after the plan.
        needed: usize,
        /// The maximum number of slots (`KVM_CAP_NR_MEMSLOTS`).
        limit: u32,
        /// The number of slots that [`SlotRules`](crate::SlotRules) reserve.
        reserved: u32,
    },
    /// A range lies beyond the guest's physical addresses
    /// ([`Capabilities::address_bits`](crate::Capabilities::address_bits)): KVM
    /// would refuse its slot, or the guest could never reach it.
    #[error(
        "the range of {size:#x} bytes at {gpa:#x} is out of the guest's reach: its physical \
         addresses have at most {bits} bits"
    )]
    BeyondAddresses {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
        /// The width of guest-physical addresses, or the known upper bound.
        bits: u32,
    },
    /// A range overlaps another one, or a slot that stays.
    #[error(
        "the range of {size:#x} bytes at {gpa:#x} overlaps {other_size:#x} bytes at {other_gpa:#x}"
    )]
    Overlap {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
        /// The first guest-physical address of the other range or slot.
        other_gpa: u64,
        /// Its number of bytes.
        other_size: u64,
    },
    /// A removed range does not have the expected slots. Resync the table with
    /// [`plan()`](crate::plan::plan()), which plans from all memory.
    #[error("the removed range of {size:#x} bytes at {gpa:#x} does not have its memslots")]
    NotThere {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
    /// Private pages are not whole pages of the host.
    #[error(
        "private pages of {:#x} bytes at {:#x} are not whole pages of {page_size}",
        .pages.size(), .pages.start()
    )]
    PagesUnaligned {
        /// The pages.
        pages: PageRange,
        /// The host's page size.
        page_size: PageSize,
    },
    /// Two ranges of private pages overlap.
    #[error(
        "private pages of {:#x} bytes at {:#x} overlap the {:#x} bytes at {:#x}",
        .pages.size(), .pages.start(), .other.size(), .other.start()
    )]
    PagesOverlap {
        /// The pages.
        pages: PageRange,
        /// The pages that they overlap, at the same or a lower address.
        other: PageRange,
    },
    /// The maximum slot size of [`SlotRules`](crate::SlotRules) is not a number of
    /// pages that KVM supports.
    #[error("slots of at most {size:#x} bytes: not whole pages, none, or more than 2^31 - 1")]
    BadMaximum {
        /// The number of bytes.
        size: u64,
    },
}

/// A range that the kernel does not support, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size:#x} bytes at {gpa:#x}: {why}")]
pub struct UnsupportedRange {
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes.
    pub size: u64,
    /// The reason.
    pub why: Unsupported,
}

fn list(ranges: &[UnsupportedRange]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
