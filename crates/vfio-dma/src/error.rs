// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Invalid numbers in a range or a limit.

use thiserror::Error;

/// A number that is not valid for a range, a unit or a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DmaInputError {
    /// IOVAs that do not fit 64 bits.
    #[error("range of {size:#x} bytes at {offset:#x} wraps around")]
    Wraps {
        /// The first IOVA.
        offset: u64,
        /// The number of bytes.
        size: u64,
    },
    /// A page of an IOMMU, or a unit of DMA mappings, that is not a power of two.
    #[error("{bytes:#x} bytes are not a power of two, as pages and units of DMA mappings are")]
    Unit {
        /// The number of bytes.
        bytes: u64,
    },
}
