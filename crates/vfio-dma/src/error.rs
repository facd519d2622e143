// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a range or a limit cannot be.

use thiserror::Error;

/// A number that cannot be what it is given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DmaInputError {
    /// Addresses, or offsets in a file, that do not fit 64 bits.
    #[error("range of {size:#x} bytes at {offset:#x} wraps around")]
    Wraps {
        /// The first address or offset, in bytes.
        offset: u64,
        /// How many bytes the range would hold.
        size: u128,
    },
    /// A page of an IOMMU, or a unit of DMA mappings, that is not a power of two.
    #[error("{bytes:#x} bytes are not a power of two, as pages and units of DMA mappings are")]
    Unit {
        /// The number of bytes.
        bytes: u64,
    },
}
