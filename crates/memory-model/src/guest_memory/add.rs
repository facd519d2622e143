// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory of the crate `vm-memory` as RAM of a model.

use alloc::format;
use alloc::vec::Vec;

use guest_ranges::{AddrRange, HostMemory};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::backing::Memory;
use crate::error::TreeError;
use crate::ids::RegionId;
use crate::region::Region;
use crate::transaction::Transaction;

/// Why guest memory could not be added. The transaction is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddGuestMemoryError {
    /// The mapping of a region is not readable and writable, or `vm-memory` did not make
    /// it. [`HostMemory::new`] takes such a mapping.
    #[error("the host mapping of the RAM at {range} is not one that vm-memory made")]
    NotMapped {
        /// The guest's addresses.
        range: AddrRange,
    },
    /// The regions cannot be placed there.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl<H: Clone> Transaction<'_, H> {
    /// Adds guest memory as RAM to `parent`: each region at its guest address in
    /// `parent`, with priority 0, a clone of `handle`, and the name `ram`, or `ram1`,
    /// `ram2` and so on from the second region on. Returns their ids, by address.
    ///
    /// The mappings are the owners of the host memory, so that
    /// [`SharedMemory::of_owners`](crate::SharedMemory::of_owners) finds them.
    ///
    /// # Errors
    /// [`AddGuestMemoryError`]. Regions before the one that failed are taken out again.
    ///
    /// # Example
    ///
    /// ```
    /// use memory_model::{MemoryModel, Region};
    /// use vm_memory::{GuestAddress, GuestMemoryMmap};
    ///
    /// let guest: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[
    ///     (GuestAddress(0), 0x8000),
    ///     (GuestAddress(1 << 32), 0x4000),
    /// ])?;
    /// let mut model = MemoryModel::new();
    /// let mut t = model.transaction();
    /// let memory = t.add(Region::container("memory", 1 << 64))?;
    /// let ram = t.add_guest_memory(memory, &guest, &())?;
    /// assert_eq!(ram.len(), 2);
    /// t.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_guest_memory<B>(
        &mut self,
        parent: RegionId,
        guest: &GuestMemoryMmap<B>,
        handle: &H,
    ) -> Result<Vec<RegionId>, AddGuestMemoryError>
    where
        B: Bitmap + Send + Sync + 'static,
    {
        let mut all = Vec::new();
        for region in guest.iter() {
            let start = region.start_addr().0;
            let host = HostMemory::of_mmap(region.get_mmap());
            let added = match host {
                Some(host) => self.add_ram(parent, start, all.len(), host, handle.clone()),
                None => Err(AddGuestMemoryError::NotMapped {
                    range: AddrRange::new(start, region.len().into()).unwrap_or(AddrRange::ALL),
                }),
            };
            match added {
                Ok(id) => all.push(id),
                Err(error) => {
                    for id in all.into_iter().rev() {
                        self.unplace(id)?;
                        self.remove(id)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    fn add_ram(
        &mut self,
        parent: RegionId,
        start: u64,
        number: usize,
        host: HostMemory,
        handle: H,
    ) -> Result<RegionId, AddGuestMemoryError> {
        let name = match number {
            0 => "ram".into(),
            number => format!("ram{number}"),
        };
        let ram = Region::ram(&name, Memory::host_only(host));
        let id = self.add(ram.with_handle(handle))?;
        if let Err(error) = self.place(id, parent, start, 0) {
            self.remove(id)?;
            return Err(error.into());
        }
        Ok(id)
    }
}
