// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's request to convert pages.

use guest_ranges::{PAGE_SIZE, PageRange, PageRangeError, PageSize, PageState};

/// A request to make pages private or shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) range: PageRange,
    pub(super) to: PageState,
    pub(super) source: Source,
}

/// What led to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A call that names the pages.
    Call,
    /// An access, whose pages KVM reports.
    MemoryFault,
    /// The guest accepts private MMIO. All pages must be that.
    Acceptance,
}

/// Bit 4 of the third argument of `KVM_HC_MAP_GPA_RANGE`: encrypted.
const HYPERCALL_ENCRYPTED: u64 = 1 << 4;
/// Bits 0 to 3: the page size that the guest prefers.
const HYPERCALL_PAGE_SIZE: u64 = 0xf;
/// `KVM_MEMORY_EXIT_FLAG_PRIVATE`.
const EXIT_PRIVATE: u64 = 1 << 3;

impl Request {
    /// A request to change these pages to this state.
    ///
    /// # Errors
    /// [`RequestError`] if this is not a range of pages.
    pub fn new(gpa: u64, size: u64, to: PageState) -> Result<Self, RequestError> {
        Ok(Self {
            range: PageRange::new(gpa, size)?,
            to,
            source: Source::Call,
        })
    }

    /// The hypercall `KVM_HC_MAP_GPA_RANGE` (12), by its three arguments: an
    /// address, a number of pages of 4 KiB, and attributes
    /// (Documentation/virt/kvm/x86/hypercalls.rst). The page size in the attributes is
    /// only a preference and is ignored.
    ///
    /// # Errors
    /// [`RequestError`], also for reserved bits of the attributes.
    pub fn hypercall(gpa: u64, pages: u64, attributes: u64) -> Result<Self, RequestError> {
        if attributes & !(HYPERCALL_ENCRYPTED | HYPERCALL_PAGE_SIZE) != 0 {
            return Err(RequestError::Attributes { attributes });
        }
        let to = match attributes & HYPERCALL_ENCRYPTED {
            0 => PageState::Shared,
            _ => PageState::Private,
        };
        let wraps = RequestError::Wraps {
            gpa,
            size: u64::MAX,
        };
        Self::new(gpa, pages.checked_mul(PAGE_SIZE).ok_or(wraps)?, to)
    }

    /// The exit `KVM_EXIT_MEMORY_FAULT` (39), by its three fields: the guest accessed
    /// shared pages as private, or private pages as shared.
    ///
    /// The range may start inside a host page: on arm64, KVM reports the address to
    /// 4 KiB, and the size of a host page. [`Engine`](crate::convert::Engine) and
    /// [`Converter`](crate::convert::Converter), which know the page size, round the
    /// address down to the start of that page and keep the size.
    ///
    /// # Errors
    /// [`RequestError`], also for flags other than
    /// `KVM_MEMORY_EXIT_FLAG_PRIVATE`.
    pub fn memory_fault(flags: u64, gpa: u64, size: u64) -> Result<Self, RequestError> {
        let to = match flags {
            0 => PageState::Shared,
            EXIT_PRIVATE => PageState::Private,
            flags => return Err(RequestError::Flags { flags }),
        };
        Ok(Self {
            source: Source::MemoryFault,
            ..Self::new(gpa, size, to)?
        })
    }

    /// The guest accepts private MMIO: the pages become private, and must all be
    /// private MMIO.
    ///
    /// # Errors
    /// [`RequestError`] if this is not a range of pages.
    pub fn accept(gpa: u64, size: u64) -> Result<Self, RequestError> {
        Ok(Self {
            source: Source::Acceptance,
            ..Self::new(gpa, size, PageState::Private)?
        })
    }

    /// The request on a host with pages of this size: a memory fault starts with the
    /// host page of its address. Its end is not rounded up, because the next page
    /// did not fault.
    pub(super) fn on_host(self, page: PageSize) -> Self {
        let (start, size) = (self.range.start(), self.range.size());
        // Other requests are refused as the guest made them.
        if self.source != Source::MemoryFault || !page.is_aligned(size) {
            return self;
        }
        let range = PageRange::new(page.floor(start), size);
        Self {
            // A lower start does not wrap.
            range: range.unwrap_or(self.range),
            ..self
        }
    }

    /// The pages. Those of a memory fault are as KVM reported them
    /// ([`memory_fault`](Self::memory_fault)).
    pub fn range(self) -> PageRange {
        self.range
    }

    /// The state that they change to.
    pub fn to(self) -> PageState {
        self.to
    }
}

/// The reason why a request is invalid. A guest chooses these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The range is empty.
    #[error("no pages at {gpa:#x}")]
    Empty {
        /// The first address.
        gpa: u64,
    },
    /// The range does not consist of whole pages of 4 KiB, or of the host's pages
    /// where those are larger. Only a memory fault may start inside a host page.
    #[error("{size:#x} bytes at {gpa:#x} are not whole pages")]
    Unaligned {
        /// The first address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
    /// The range does not end below 2^64.
    #[error("{size:#x} bytes at {gpa:#x} do not end below 2^64")]
    Wraps {
        /// The first address.
        gpa: u64,
        /// The number of bytes; 2^64 - 1 if it does not fit.
        size: u64,
    },
    /// The hypercall's attributes have reserved bits.
    #[error("attributes {attributes:#x} of the hypercall have reserved bits")]
    Attributes {
        /// The attributes.
        attributes: u64,
    },
    /// The exit has unknown flags.
    #[error("flags {flags:#x} of the memory fault are unknown")]
    Flags {
        /// The flags.
        flags: u64,
    },
}

impl From<PageRangeError> for RequestError {
    fn from(error: PageRangeError) -> Self {
        match error {
            PageRangeError::Empty { gpa } => Self::Empty { gpa },
            PageRangeError::Unaligned { gpa, size } => Self::Unaligned { gpa, size },
            PageRangeError::Wraps { gpa, size } => Self::Wraps { gpa, size },
            // An error of a later version: not a range of pages.
            _ => Self::Unaligned { gpa: 0, size: 0 },
        }
    }
}
