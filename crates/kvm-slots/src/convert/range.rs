// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole pages of guest-physical addresses.

use std::fmt;

use super::request::RequestError;
use crate::plan::op::PageRun;

/// The smallest page of any host: the unit of hypercalls, and of what is
/// private.
pub(crate) const PAGE: u64 = 4096;

/// One or more whole pages of 4 KiB, next to each other.
///
/// The end is exclusive and a `u64`: the very last page of a 64-bit space
/// cannot be named, nor can it for `KVM_SET_MEMORY_ATTRIBUTES`, which refuses
/// what reaches 2^64 (`kvm_vm_ioctl_set_mem_attributes` in
/// virt/kvm/kvm_main.c).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// The `size` bytes from `gpa` on.
    ///
    /// # Errors
    /// [`RequestError`] for no byte at all, half a page, or an end at or above
    /// 2^64.
    pub fn new(gpa: u64, size: u64) -> Result<Self, RequestError> {
        if size == 0 {
            return Err(RequestError::Empty { gpa });
        }
        if gpa % PAGE != 0 || size % PAGE != 0 {
            return Err(RequestError::Unaligned { gpa, size });
        }
        match gpa.checked_add(size) {
            Some(end) => Ok(Self { start: gpa, end }),
            None => Err(RequestError::Wraps { gpa, size }),
        }
    }

    /// The pages from `start` up to `end`; `None` if there is none. Both must
    /// be the start of a page.
    pub(crate) fn between(start: u64, end: u64) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The pages that lie in these bytes as a whole; `None` if there is none.
    pub(crate) fn inside(gpa: u64, size: u64) -> Option<Self> {
        let end = gpa.saturating_add(size) & !(PAGE - 1);
        Self::between(gpa.checked_next_multiple_of(PAGE)?, end)
    }

    /// The first address.
    pub fn start(self) -> u64 {
        self.start
    }

    /// The first address behind the range.
    pub fn end(self) -> u64 {
        self.end
    }

    /// The number of bytes.
    pub fn size(self) -> u64 {
        self.end - self.start
    }

    /// The number of pages of 4 KiB.
    pub fn pages(self) -> u64 {
        self.size() / PAGE
    }

    /// Whether the page at `gpa` is in the range.
    pub fn contains(self, gpa: u64) -> bool {
        self.start <= gpa && gpa < self.end
    }

    /// The pages that both ranges have, if any.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }
}

/// As [`Change`](crate::Change) names private pages.
impl From<PageRange> for PageRun {
    fn from(range: PageRange) -> Self {
        Self {
            gpa: range.start(),
            size: range.size(),
        }
    }
}

/// As for [`PageRange::new`].
impl TryFrom<PageRun> for PageRange {
    type Error = RequestError;

    fn try_from(run: PageRun) -> Result<Self, RequestError> {
        Self::new(run.gpa, run.size)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
