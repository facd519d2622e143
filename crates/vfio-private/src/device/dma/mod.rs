// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DMA mappings of a container or an IOAS.
//!
//! # Who keeps the memory
//!
//! A device writes to what is mapped for it whenever it likes, also after everybody else has let go.
//! So an [`Iommu`] holds the owner of what it has mapped, until the kernel has said that it is
//! unmapped: by [`unmap_dma`](Iommu::unmap_dma), or when the last clone of it goes. What the kernel
//! would not unmap is never let go.
//!
//! That is half of what memory needs. The other half, that nobody in this process has a reference to
//! bytes which a device changes, no type can say of an address. It is promised by whoever calls
//! [`map_dma`](Iommu::map_dma), or once for all by [`DmaSpace::new`]. A file's pages need no promise:
//! [`map_dma_file`](Iommu::map_dma_file).

mod info;
mod ioctl;

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, MutexGuard, PoisonError};

use guest_ranges::AddrRange;
use info::{Type1Info, Type1InfoError};
use vfio_dma::{
    AddressSpace, DmaAccess, DmaInputError, DmaLimits, DmaPlace, DmaRange, DmaRefusal,
    DmaUnsupported,
};

use super::iommu::{Files, Inner, Iommu};

/// The most that is taken for what a container says of itself, and for an IOAS's ranges.
const MAX_INFO: usize = 1 << 20;

/// What devices reach, by IOVA: it holds the owners.
pub(super) type Mapped = BTreeMap<u64, DmaRange>;

impl Iommu {
    /// Maps memory for the devices of this address space. There must be one: a container without a
    /// device maps nothing.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`]; [`DmaUnsupported`] for a file in a container. Nothing is mapped then.
    ///
    /// # Safety
    ///
    /// If the range is [`DmaPlace::Host`]: until it is unmapped, and at least for as long as its owner
    /// lives, the bytes must be mapped at that address, and not be otherwise used by this process, as
    /// devices read and, unless the range is [`DmaAccess::Read`], write them at any time. If it is
    /// [`DmaPlace::File`]: the owner must keep the descriptor open.
    pub unsafe fn map_dma(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        let mut mapped = self.inner.mapped();
        // SAFETY: passed on from the caller. The owner is held below, before anybody could unmap.
        unsafe { self.inner.map(range) }?;
        mapped.insert(range.iova().start(), range.clone());
        Ok(())
    }

    /// Maps bytes of a file, from `offset` on: a memfd, or a dma-buf of a device, so that one device
    /// reaches the other's memory. It needs an iommufd, and Linux 6.13; dma-bufs were
    /// seen to be taken by 7.3.
    ///
    /// A dma-buf's mapping is dead once the dma-buf was revoked, and stays so when the device is
    /// back: then it has to be unmapped and mapped again.
    ///
    /// # Errors
    ///
    /// [`DmaFileError`].
    pub fn map_dma_file(
        &self,
        iova: AddrRange,
        access: DmaAccess,
        file: Arc<OwnedFd>,
        offset: u64,
    ) -> Result<(), DmaFileError> {
        let at = (file.as_raw_fd(), offset);
        let range = DmaRange::file(iova, access, at, file)?;
        // SAFETY: the descriptor's owner is the owner of the range.
        Ok(unsafe { self.map_dma(&range) }?)
    }

    /// Unmaps all mappings in a range, and returns how many bytes that was. When it returns, no device
    /// reaches them any more, and their owners are let go.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`], if a mapping would have to be split: EINVAL from a container, ENOENT from an
    /// iommufd. The iommufd may have unmapped those below it. Where there is no mapping, a container
    /// unmaps 0 bytes, and an iommufd says ENOENT.
    pub fn unmap_dma(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        let mut mapped = self.inner.mapped();
        let unmapped = self.inner.unmap(iova);
        let known = mapped.get(&iova.start()).map(DmaRange::iova);
        let is_gone = match unmapped {
            Ok(_) => true,
            // As a whole it cannot be split: it went with an earlier call, which failed later.
            Err(refusal) => known == Some(iova) && refusal.is_nothing_there(),
        };
        let mut let_go = Vec::new();
        if is_gone {
            let starts = mapped.range(iova.start()..=iova.last());
            let starts: Vec<u64> = starts.map(|(start, _)| *start).collect();
            let_go.extend(starts.iter().filter_map(|start| mapped.remove(start)));
        }
        // Owners go when nothing is locked any more: they may do anything.
        drop(mapped);
        drop(let_go);
        unmapped
    }

    /// What can be mapped: pages of which size, at which IOVAs, and how many mappings there can be.
    /// Devices that are opened later can narrow it.
    ///
    /// # Errors
    ///
    /// [`DmaRefusal`]: EINVAL where no device is open yet.
    pub fn dma_limits(&self) -> Result<DmaLimits, DmaRefusal> {
        let mapped = self.inner.mapped();
        match &self.inner.files {
            Files::Container { container, .. } => {
                let info = type1_info(container)?;
                let page_size = info.page_sizes.map(|sizes| sizes & sizes.wrapping_neg());
                // Each file descriptor has its own count, of those that are left.
                let count = |left| u64::from(left) + mapped.len() as u64;
                limits(
                    page_size.unwrap_or(0),
                    info.iovas.unwrap_or_else(everywhere),
                    info.available.map(count),
                )
            }
            Files::Iommufd { iommufd, ioas } => {
                // Its alignment is never more than a host page.
                limits(0, iova_ranges(iommufd, *ioas)?, None)
            }
        }
    }
}

/// Why bytes of a file are not mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DmaFileError {
    /// The offsets wrap around.
    #[error(transparent)]
    Range(#[from] DmaInputError),
    /// The kernel does not map it.
    #[error(transparent)]
    Refused(#[from] DmaRefusal),
}

impl Inner {
    pub(super) fn mapped(&self) -> MutexGuard<'_, Mapped> {
        // It follows the kernel one call at a time, and so a panic leaves nothing half done.
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    ///
    /// As for [`Iommu::map_dma`].
    unsafe fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        let (iova, access) = (range.iova(), range.access());
        match (&self.files, range.place()) {
            // SAFETY: passed on from the caller.
            (Files::Container { container, .. }, DmaPlace::Host { address }) => unsafe {
                ioctl::type1_map(container, iova, access, address)
            },
            (Files::Container { .. }, DmaPlace::File { .. }) => {
                Err(DmaUnsupported::FileInContainer.into())
            }
            // SAFETY: passed on from the caller.
            (Files::Iommufd { iommufd, ioas }, DmaPlace::Host { address }) => unsafe {
                ioctl::ioas_map(iommufd, *ioas, iova, access, address)
            },
            (Files::Iommufd { iommufd, ioas }, DmaPlace::File { fd, offset }) => {
                let mapped = ioctl::ioas_map_file(iommufd, *ioas, iova, access, (fd, offset));
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
    pub(super) fn unmap_all(&mut self) {
        let mapped = mem::take(&mut *self.mapped());
        for (_, range) in mapped {
            let unmapped = self.unmap(range.iova());
            if unmapped.is_err_and(|refusal| !refusal.is_nothing_there()) {
                // A device may still write there: nobody else ever gets it.
                mem::forget(range);
            }
        }
    }
}

/// What an iommufd says where there is no such thing.
fn without_files(refusal: DmaRefusal) -> DmaRefusal {
    match refusal {
        DmaRefusal::Errno(libc::ENOTTY) => DmaUnsupported::Files.into(),
        DmaRefusal::Errno(libc::EOPNOTSUPP) => DmaUnsupported::DmaBuf.into(),
        other => other,
    }
}

/// The kernel is asked again with more room until it has said all.
fn type1_info(container: &std::fs::File) -> Result<Type1Info, DmaRefusal> {
    let mut words = vec![0_u64; 16];
    loop {
        ioctl::type1_info(container, &mut words)?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match Type1Info::parse(&bytes) {
            Ok(info) => return Ok(info),
            Err(Type1InfoError::Incomplete(argsz)) if argsz as usize <= MAX_INFO => {
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

/// Pages are no smaller than the host's, which is what memory is pinned by.
fn limits(
    page_size: u64,
    allowed: Vec<AddrRange>,
    mappings: Option<u64>,
) -> Result<DmaLimits, DmaRefusal> {
    let limits = DmaLimits::new(page_size.max(super::rounding()), allowed, mappings);
    limits.map_err(|_| DmaRefusal::Errno(libc::EPROTO))
}

/// For a kernel that does not say what it excludes: it refuses it all the same.
fn everywhere() -> Vec<AddrRange> {
    vec![AddrRange::ALL]
}

/// The address space of an [`Iommu`], for the planner: whoever makes one promises once what
/// [`Iommu::map_dma`] asks for each time.
#[derive(Clone, Debug)]
pub struct DmaSpace {
    iommu: Iommu,
}

impl DmaSpace {
    /// The address space of `iommu`.
    ///
    /// # Safety
    ///
    /// Every range that is ever given to [`map`](AddressSpace::map) must be as [`Iommu::map_dma`] asks
    /// for: memory that devices may touch at any time for as long as its owner lives, and that is not
    /// otherwise used by this process.
    pub unsafe fn new(iommu: Iommu) -> Self {
        Self { iommu }
    }

    /// What devices are opened through.
    pub fn iommu(&self) -> &Iommu {
        &self.iommu
    }
}

impl AddressSpace for DmaSpace {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        // SAFETY: promised by whoever made this.
        unsafe { self.iommu.map_dma(range) }
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        self.iommu.unmap_dma(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        self.iommu.dma_limits()
    }
}
