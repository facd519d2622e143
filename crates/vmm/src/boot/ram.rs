// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's RAM: one anonymous mapping for each range of the layout.

use std::sync::Arc;

use guest_ranges::HostMemory;
use memory_model::AddrRange;
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// The guest's RAM.
#[derive(Clone, Debug)]
pub struct Ram {
    banks: Vec<Bank>,
    memory: GuestMemoryMmap,
}

/// A contiguous range of RAM, mapped as a whole.
#[derive(Clone, Debug)]
pub struct Bank {
    range: AddrRange,
    region: Arc<GuestRegionMmap>,
}

/// Why there is no RAM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RamError {
    /// The host has no room for a bank.
    #[error("cannot map {} bytes for RAM at {:#x}", .range.size(), .range.start())]
    Map {
        /// The guest-physical addresses of the bank.
        range: AddrRange,
        /// The error of `mmap`.
        source: MmapRegionError,
    },
    /// The ranges of the layout overlap, or wrap around.
    #[error("RAM has no valid layout")]
    Layout(#[source] FromRangesError),
}

impl Ram {
    /// RAM of zeros at these guest-physical addresses, from the lowest up. It takes up
    /// host memory when it is first accessed.
    ///
    /// # Errors
    /// [`RamError`].
    pub fn anonymous(ranges: impl IntoIterator<Item = AddrRange>) -> Result<Self, RamError> {
        let banks = ranges.into_iter().map(Bank::anonymous);
        let banks: Vec<Bank> = banks.collect::<Result<_, _>>()?;
        let regions = banks.iter().map(|bank| bank.region.clone()).collect();
        let memory = GuestMemoryMmap::from_arc_regions(regions);
        let memory = memory.map_err(|error| RamError::Layout(error.into()))?;
        Ok(Self { banks, memory })
    }

    /// The banks, from the lowest address up.
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// All banks, for access from the host.
    pub fn guest_memory(&self) -> GuestMemoryMmap {
        self.memory.clone()
    }
}

impl Bank {
    fn anonymous(range: AddrRange) -> Result<Self, RamError> {
        let failed = |source| RamError::Map { range, source };
        let no_room = || {
            failed(MmapRegionError::Mmap(
                std::io::ErrorKind::OutOfMemory.into(),
            ))
        };
        let size = usize::try_from(range.size()).map_err(|_| no_room())?;
        // Private, anonymous and not reserved (MAP_NORESERVE).
        let region = GuestRegionMmap::from_range(GuestAddress(range.start()), size, None);
        match region {
            Ok(region) => Ok(Self {
                range,
                region: Arc::new(region),
            }),
            Err(FromRangesError::MmapRegion(source)) => Err(failed(source)),
            Err(error) => Err(RamError::Layout(error)),
        }
    }

    /// The guest-physical addresses.
    pub fn range(&self) -> AddrRange {
        self.range
    }

    /// The bank as host memory, which keeps it mapped.
    pub fn host_memory(&self) -> HostMemory {
        let address = self.region.as_ptr().expose_provenance() as u64;
        let size = self.region.size() as u64;
        // SAFETY: `Bank::anonymous` created the region with a mapping of its own, of
        // exactly this address and size, readable and writable. Nothing but the
        // region's drop unmaps it, and the owner keeps the region alive. The mapping
        // is anonymous, so no file can shrink under it. The region is private to
        // `Ram`, which lends it out as `GuestMemoryMmap` only: vm-memory accesses its
        // bytes with volatile and atomic operations, never through plain references,
        // and takes any value for valid.
        let memory = unsafe { HostMemory::new(address, size, self.region.clone()) };
        // A mapping is never empty, and the kernel maps nothing at address 0.
        memory.expect("a mapping has bytes and an address")
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;

    /// Two ranges with a hole between them.
    fn ranges() -> [AddrRange; 2] {
        [(0x4000_0000, 32 << 20), (1 << 32, 1 << 20)]
            .map(|(start, size)| AddrRange::new(start, size).unwrap())
    }

    #[test]
    fn every_bank_is_the_host_memory_that_the_loader_writes_to() {
        let ram = Ram::anonymous(ranges()).unwrap();
        let memory = ram.guest_memory();
        let banks: Vec<AddrRange> = ram.banks().iter().map(Bank::range).collect();
        assert_eq!(banks, ranges());
        for bank in ram.banks() {
            let host = bank.host_memory();
            assert_eq!(u128::from(host.size()), bank.range().size());
            let first = GuestAddress(bank.range().start());
            let address = memory.get_host_address(first).unwrap();
            assert_eq!(host.address(), address.addr() as u64);
            memory
                .write_obj(7_u8, GuestAddress(bank.range().last()))
                .unwrap();
        }
    }

    #[test]
    fn host_memory_outlives_the_ram() {
        let ram = Ram::anonymous(ranges()).unwrap();
        let region = Arc::downgrade(&ram.banks()[0].region);
        let host = ram.banks()[0].host_memory();
        drop(ram);
        assert!(region.upgrade().is_some());
        drop(host);
        assert!(region.upgrade().is_none());
    }

    #[test]
    fn ram_up_to_the_last_address_is_an_invalid_layout_and_not_a_lack_of_memory() {
        let last = AddrRange::new(u64::MAX - 0xffff, 0x1_0000).unwrap();
        let error = Ram::anonymous([last]).unwrap_err();
        assert!(matches!(error, RamError::Layout(_)), "{error:?}");
    }
}
