// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DMA mappings of a container or an IOAS.
//!
//! # Which memory can be mapped
//!
//! A device writes to the memory that is mapped for it at any time, so such memory needs two things.
//! It must stay mapped in this process: an [`Iommu`] holds the owner of each mapping until the kernel
//! has unmapped it, by [`unmap_dma`](Iommu::unmap_dma) or when the last clone of the `Iommu` is
//! dropped. What the kernel does not unmap is never released. And this process must not hold
//! references to the bytes: the creator of the [`HostMemory`](guest_ranges::HostMemory) has promised
//! that. A [`FileSlice`](guest_ranges::FileSlice) needs no promise, because the kernel holds the
//! file's pages. So mapping is safe.

mod ioctl;
mod mapped;

use std::mem;
use std::sync::{MutexGuard, PoisonError};

use guest_ranges::AddrRange;
use vfio_dma::{AddressSpace, DmaLimits, DmaMemory, DmaRange, DmaRefusal, DmaUnsupported};

use super::host_page_size;
use super::iommu::{Files, Inner, Iommu};
use crate::iommu_info::{IommuInfo, IommuInfoError};

pub(super) use mapped::Mapped;

/// The most that is taken for what a container says of itself, and for an IOAS's ranges.
const MAX_INFO: usize = 1 << 20;

impl Iommu {
    /// Maps memory for the devices of this address space. There must be one: a container without a
    /// device maps nothing.
    ///
    /// Files need an iommufd and Linux 6.13; it takes memfds. Linux 7.3 was seen to map dma-bufs of
    /// other devices too. The mapping of a dma-buf is dead once the dma-buf was revoked, and stays so
    /// when the device is back: unmap it and map it again.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`]; [`DmaUnsupported`] for a file in a container. Nothing is mapped then.
    pub fn map_dma(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        let mut mapped = self.inner.mapped();
        // SAFETY: nothing is unmapped between this call and the record of it, because `mapped` is
        // locked. The record then holds a clone of the range, and with it the owner, until an answer of
        // the kernel proves that the mapping is gone: see `Mapped`. What the kernel does not unmap at
        // the end is leaked.
        unsafe { self.inner.map(range) }?;
        let replaced = mapped.insert(range.clone());
        // Owners are dropped after the lock is released: they may run any code.
        drop(mapped);
        drop(replaced);
        Ok(())
    }

    /// Unmaps all mappings in a range and returns the number of unmapped bytes. After it returns, no
    /// device reaches them, and their owners are released.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`], if a mapping would have to be split: EINVAL from a container, ENOENT from an
    /// iommufd. The iommufd may have unmapped those below it. Their owners are released when their
    /// ranges are unmapped one by one, or with the `Iommu`. Without a mapping in the range, a container
    /// unmaps 0 bytes, and an iommufd returns ENOENT.
    pub fn unmap_dma(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        let mut mapped = self.inner.mapped();
        let unmapped = self.inner.unmap(iova);
        let removed = mapped.forget(iova, unmapped);
        // As in `map_dma`.
        drop(mapped);
        drop(removed);
        unmapped
    }

    /// What can be mapped: the page size, the IOVAs, and the number of mappings. Devices that are
    /// opened later can narrow it.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`]: EINVAL where no device is open yet.
    pub fn dma_limits(&self) -> Result<DmaLimits, DmaRefusal> {
        let mapped = self.inner.mapped();
        match &self.inner.files {
            Files::Container { container, .. } => {
                let info = iommu_info(container)?;
                Ok(info.dma_limits(host_page_size(), mapped.len() as u64))
            }
            Files::Iommufd { iommufd, ioas } => {
                // Its alignment is never more than a host page.
                let page_size = host_page_size().bytes();
                let limits = DmaLimits::new(page_size, iova_ranges(iommufd, *ioas)?, None);
                limits.map_err(|_| DmaRefusal::Errno(libc::EPROTO))
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unmap_all();
    }
}

impl Inner {
    fn mapped(&self) -> MutexGuard<'_, Mapped> {
        // It follows the kernel one call at a time, and so a panic leaves nothing half done.
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    ///
    /// The owner of the range's memory must live until the range is unmapped.
    unsafe fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        let (iova, access) = (range.iova().start(), range.access());
        match (&self.files, range.memory()) {
            // SAFETY: passed on from the caller.
            (Files::Container { container, .. }, DmaMemory::Host(memory)) => unsafe {
                ioctl::type1_map(container, iova, memory, access)
            },
            (Files::Container { .. }, DmaMemory::File(_)) => {
                Err(DmaUnsupported::FileInContainer.into())
            }
            // SAFETY: passed on from the caller.
            (Files::Iommufd { iommufd, ioas }, DmaMemory::Host(memory)) => unsafe {
                ioctl::ioas_map(iommufd, *ioas, iova, memory, access)
            },
            (Files::Iommufd { iommufd, ioas }, DmaMemory::File(file)) => {
                let mapped = ioctl::ioas_map_file(iommufd, *ioas, iova, file, access);
                mapped.map_err(without_files)
            }
        }
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        match &self.files {
            Files::Container { container, .. } => ioctl::type1_unmap(container, iova),
            Files::Iommufd { iommufd, ioas } => ioctl::ioas_unmap(iommufd, *ioas, iova),
        }
    }

    /// Unmaps everything, so that owners can go. A device's mapping or dma-buf can keep the address
    /// space alive after its files are closed here.
    fn unmap_all(&mut self) {
        let mapped = mem::take(&mut *self.mapped());
        let mut unmapped = Vec::new();
        for range in mapped.into_ranges() {
            match self.unmap(range.iova()) {
                // A device may still write there, so the memory is never released.
                Err(refusal) if !refusal.is_not_mapped() => mem::forget(range),
                // ENOENT is the answer for a stale entry: see `Mapped::forget`.
                _ => unmapped.push(range),
            }
        }
        // An owner that panics must not release the owners of what is still mapped.
        drop(unmapped);
    }
}

/// The errors of an iommufd that cannot map files.
fn without_files(refusal: DmaRefusal) -> DmaRefusal {
    match refusal {
        DmaRefusal::Errno(libc::ENOTTY) => DmaUnsupported::Files.into(),
        DmaRefusal::Errno(libc::EOPNOTSUPP) => DmaUnsupported::DmaBuf.into(),
        other => other,
    }
}

/// Repeats the query with more room until the kernel has returned everything.
fn iommu_info(container: &std::fs::File) -> Result<IommuInfo, DmaRefusal> {
    let mut words = vec![0_u64; 16];
    loop {
        ioctl::type1_info(container, &mut words)?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match IommuInfo::parse(&bytes) {
            Ok(info) => return Ok(info),
            Err(IommuInfoError::Incomplete { argsz, .. }) if argsz as usize <= MAX_INFO => {
                words = vec![0; argsz.div_ceil(8) as usize];
            }
            Err(_) => return Err(DmaRefusal::Errno(libc::EPROTO)),
        }
    }
}

fn iova_ranges(iommufd: &std::fs::File, ioas: u32) -> Result<Vec<AddrRange>, DmaRefusal> {
    let mut ranges = vec![[0_u64; 2]; 16];
    loop {
        let count = ioctl::ioas_iova_ranges(iommufd, ioas, &mut ranges)?;
        if let Some(found) = ranges.get(..count) {
            let ranges = found
                .iter()
                .filter_map(|[first, last]| AddrRange::from_bounds(*first, *last));
            return Ok(ranges.collect());
        }
        if count > MAX_INFO / 16 {
            return Err(DmaRefusal::Errno(libc::EPROTO));
        }
        ranges = vec![[0; 2]; count];
    }
}

/// The address space that the crate [`vfio_dma`] plans for. It is empty at first.
impl AddressSpace for Iommu {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        self.map_dma(range)
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        self.unmap_dma(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        self.dma_limits()
    }
}
