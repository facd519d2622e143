// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What an IOMMU, or the kernel in front of it, does not take.

use crate::coverage::Coverage;
use crate::error::InputError;
use crate::span::Span;

/// What can be mapped in an address space. Each device that joins it can narrow this.
#[derive(Clone, Debug)]
pub struct DmaLimits {
    page_size: u64,
    allowed: Coverage,
    mappings: Option<u64>,
}

impl DmaLimits {
    /// Mappings of whole pages of `page_size` bytes, at IOVAs in `allowed`, and as many as
    /// `mappings` at a time if there is a number.
    ///
    /// # Errors
    ///
    /// [`InputError::DmaUnit`] for a page size that is not a power of two.
    pub fn new(
        page_size: u64,
        allowed: impl IntoIterator<Item = Span>,
        mappings: Option<u64>,
    ) -> Result<Self, InputError> {
        if !page_size.is_power_of_two() {
            return Err(InputError::DmaUnit { bytes: page_size });
        }
        Ok(Self {
            page_size,
            allowed: Coverage::of(allowed),
            mappings,
        })
    }

    /// The smallest page of the IOMMU, but no smaller than the host's.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The IOVAs that can be mapped, by address. What lies between them is the hardware's: on x86
    /// 0xfee00000 to 0xfeefffff, where a write is an interrupt.
    pub fn allowed(&self) -> impl Iterator<Item = Span> {
        self.allowed.spans()
    }

    /// How many mappings there can be, those that there are included.
    pub fn mappings(&self) -> Option<u64> {
        self.mappings
    }

    /// The whole pages in a span.
    pub(super) fn pages_in(&self, span: Span) -> Option<Span> {
        let start = span.offset().checked_next_multiple_of(self.page_size)?;
        Span::between(start, self.floor(span.end()))
    }

    /// Every page with a byte of a span; the highest page of all is cut short.
    pub(super) fn pages_around(&self, span: Span) -> Span {
        let end = span.end().checked_next_multiple_of(self.page_size);
        let around = Span::between(self.floor(span.offset()), end.unwrap_or(u64::MAX));
        around.unwrap_or(span)
    }

    /// The whole pages of `span` that can be mapped.
    pub(super) fn mappable(&self, span: Span) -> Vec<Span> {
        let inside = self.allowed.within(span);
        inside.filter_map(|part| self.pages_in(part)).collect()
    }

    fn floor(&self, iova: u64) -> u64 {
        iova & !(self.page_size - 1)
    }
}
