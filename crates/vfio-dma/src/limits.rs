// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What an IOMMU, and the kernel that drives it, can map.

use guest_ranges::{AddrRange, RangeSet};

use crate::error::DmaInputError;

/// What can be mapped in an address space. Each device that joins can narrow it.
#[derive(Clone, Debug)]
pub struct DmaLimits {
    page_size: u64,
    allowed: RangeSet,
    mappings: Option<u64>,
}

impl DmaLimits {
    /// Mappings of whole pages of `page_size` bytes at IOVAs in `allowed`, and at most `mappings` at a
    /// time; `None` for no limit.
    ///
    /// # Errors
    ///
    /// [`DmaInputError::Unit`] for a page size that is not a power of two.
    pub fn new(
        page_size: u64,
        allowed: impl IntoIterator<Item = AddrRange>,
        mappings: Option<u64>,
    ) -> Result<Self, DmaInputError> {
        if !page_size.is_power_of_two() {
            return Err(DmaInputError::Unit { bytes: page_size });
        }
        Ok(Self {
            page_size,
            allowed: allowed.into_iter().collect(),
            mappings,
        })
    }

    /// The smallest page of the IOMMU, but no smaller than the host's.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The IOVAs that can be mapped, by address. The hardware reserves those between them: on x86
    /// 0xfee00000 to 0xfeefffff, where a write is an interrupt.
    pub fn allowed(&self) -> impl Iterator<Item = AddrRange> {
        self.allowed.iter()
    }

    /// How many mappings there can be, existing ones included; `None` for no limit.
    pub fn mappings(&self) -> Option<u64> {
        self.mappings
    }

    /// The whole pages in a range.
    pub(crate) fn pages_in(&self, range: AddrRange) -> Option<AddrRange> {
        let start = range.start().checked_next_multiple_of(self.page_size)?;
        let last = match range.last().checked_add(1) {
            Some(end) => self.floor(end).checked_sub(1)?,
            // The highest page of all ends where addresses do.
            None => range.last(),
        };
        AddrRange::from_bounds(start, last)
    }

    /// Every page with a byte of a range.
    pub(crate) fn pages_around(&self, range: AddrRange) -> AddrRange {
        let last = range.last() | (self.page_size - 1);
        AddrRange::from_bounds(self.floor(range.start()), last).unwrap_or(range)
    }

    /// The whole pages of `range` that can be mapped.
    pub(crate) fn mappable(&self, range: AddrRange) -> Vec<AddrRange> {
        let inside = self.allowed.within(range);
        inside.filter_map(|part| self.pages_in(part)).collect()
    }

    fn floor(&self, iova: u64) -> u64 {
        iova & !(self.page_size - 1)
    }
}
