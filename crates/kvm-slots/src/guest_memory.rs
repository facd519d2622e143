// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory of the crate `vm-memory`.

use guest_ranges::HostMemory;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::range::{RangeError, SlotAccess, SlotBacking, SlotRange};

/// Why guest memory cannot be made into ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestMemoryRangeError {
    /// The mapping of a region is not readable and writable, or `vm-memory` did not make
    /// it. [`HostMemory::new`] takes such a mapping.
    #[error(
        "the host mapping of the RAM at {gpa:#x}, {size:#x} bytes, is not one that vm-memory made"
    )]
    NotMapped {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
    /// KVM has no slots for the region.
    #[error(transparent)]
    Range(#[from] RangeError),
}

impl SlotRange {
    /// All regions of a `GuestMemoryMmap`, which the guest may read and write. The
    /// mappings stay as long as their slots.
    ///
    /// # Errors
    /// [`GuestMemoryRangeError`].
    ///
    /// # Example
    ///
    /// ```
    /// use kvm_slots::SlotRange;
    /// use vm_memory::{GuestAddress, GuestMemoryMmap};
    ///
    /// let guest: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000)])?;
    /// let ranges = SlotRange::of_guest_memory(&guest)?;
    /// assert_eq!((ranges[0].gpa(), ranges[0].size()), (0, 0x8000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of_guest_memory<B>(
        guest: &GuestMemoryMmap<B>,
    ) -> Result<Vec<Self>, GuestMemoryRangeError>
    where
        B: Bitmap + Send + Sync + 'static,
    {
        let ranges = guest.iter().map(|region| {
            let gpa = region.start_addr().0;
            let host = HostMemory::of_mmap(region.get_mmap());
            let host = host.ok_or(GuestMemoryRangeError::NotMapped {
                gpa,
                size: region.len(),
            })?;
            let backing = SlotBacking::Host(host);
            Ok(Self::new(gpa, SlotAccess::ReadWrite, backing)?)
        });
        ranges.collect()
    }
}
