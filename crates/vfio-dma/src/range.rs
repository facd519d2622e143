// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device may reach at an IOVA: the planner's input, and each mapping that it makes.

use core::any::Any;
use core::fmt;
use std::sync::Arc;

use guest_ranges::AddrRange;

use crate::error::DmaInputError;

/// Whatever must stay alive for a host address or a descriptor to stay valid: a mapping, an owned
/// file.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// What devices may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DmaAccess {
    /// Load. A store is stopped by the IOMMU, as if nothing were there.
    Read,
    /// Load and store.
    ReadWrite,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DmaPlace {
    /// In this process.
    Host {
        /// The host virtual address of the first byte.
        address: u64,
    },
    /// In a file: a memfd, or a dma-buf that VFIO exported. Only an iommufd takes files.
    File {
        /// The file's descriptor.
        fd: i32,
        /// Where in the file the first byte is.
        offset: u64,
    },
}

impl DmaPlace {
    /// Whether the bytes are a file's, which only an iommufd takes.
    pub fn is_file(self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// The address, or the offset in the file.
    pub(crate) fn position(self) -> u64 {
        match self {
            Self::Host { address } => address,
            Self::File { offset, .. } => offset,
        }
    }

    /// The same memory, `bytes` further on. No range is so long that this wraps.
    fn advanced(self, bytes: u64) -> Self {
        match self {
            Self::Host { address } => Self::Host {
                address: address.wrapping_add(bytes),
            },
            Self::File { fd, offset } => Self::File {
                fd,
                offset: offset.wrapping_add(bytes),
            },
        }
    }
}

/// IOVAs at which devices reach some bytes.
///
/// Plain data: nothing is read through the address here. Whoever maps it promises that it is memory
/// which devices may touch for as long as the owner lives, and the address space that it is mapped in
/// keeps the owner until the kernel has unmapped it.
#[derive(Clone)]
pub struct DmaRange {
    iova: AddrRange,
    access: DmaAccess,
    place: DmaPlace,
    unit: Option<u64>,
    owner: Owner,
}

impl DmaRange {
    /// Memory of this process, from `address` on.
    ///
    /// # Errors
    ///
    /// [`DmaInputError::Wraps`] if the addresses wrap around.
    pub fn host<O: Any + Send + Sync>(
        iova: AddrRange,
        access: DmaAccess,
        address: u64,
        owner: Arc<O>,
    ) -> Result<Self, DmaInputError> {
        Self::new(iova, access, DmaPlace::Host { address }, owner)
    }

    /// The bytes of a file, from `offset` on: a memfd, or a dma-buf of a device.
    ///
    /// # Errors
    ///
    /// [`DmaInputError::Wraps`] if the offsets wrap around.
    pub fn file<O: Any + Send + Sync>(
        iova: AddrRange,
        access: DmaAccess,
        (fd, offset): (i32, u64),
        owner: Arc<O>,
    ) -> Result<Self, DmaInputError> {
        Self::new(iova, access, DmaPlace::File { fd, offset }, owner)
    }

    /// Bytes at either place.
    ///
    /// # Errors
    ///
    /// [`DmaInputError::Wraps`] if the addresses or offsets wrap around.
    pub fn new(
        iova: AddrRange,
        access: DmaAccess,
        place: DmaPlace,
        owner: Owner,
    ) -> Result<Self, DmaInputError> {
        let (offset, size) = (place.position(), iova.size());
        // All 2^64 bytes have no size that a mapping could have.
        if AddrRange::new(offset, size).is_none() || u64::try_from(size).is_err() {
            return Err(DmaInputError::Wraps { offset, size });
        }
        Ok(Self {
            iova,
            access,
            place,
            unit: None,
            owner,
        })
    }

    /// The same range as mappings that each lie in one unit of `bytes` IOVAs, at multiples of it: so
    /// that what is in one unit can go while the others stay mapped. Without that a range is one
    /// mapping. Less than the IOMMU's page counts as one.
    ///
    /// # Errors
    ///
    /// [`DmaInputError::Unit`] if that is not a power of two.
    pub fn in_units_of(self, bytes: u64) -> Result<Self, DmaInputError> {
        if !bytes.is_power_of_two() {
            return Err(DmaInputError::Unit { bytes });
        }
        Ok(Self {
            unit: Some(bytes),
            ..self
        })
    }

    /// The IOVAs.
    pub fn iova(&self) -> AddrRange {
        self.iova
    }

    /// How many bytes.
    pub fn size(&self) -> u64 {
        self.iova.last() - self.iova.start() + 1
    }

    /// What devices may do there.
    pub fn access(&self) -> DmaAccess {
        self.access
    }

    /// Where the bytes are.
    pub fn place(&self) -> DmaPlace {
        self.place
    }

    /// The unit that mappings do not reach out of.
    pub fn unit(&self) -> Option<u64> {
        self.unit
    }

    /// What keeps the bytes valid.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The part of it that lies in `range`.
    pub(crate) fn within(&self, range: AddrRange) -> Option<Self> {
        let iova = self.iova.intersect(range)?;
        Some(Self {
            place: self.place.advanced(iova.start() - self.iova.start()),
            iova,
            ..self.clone()
        })
    }

    /// Whether both lead to the same bytes in the same way, wherever they have IOVAs in common. The
    /// same address of another owner is other memory: it was unmapped meanwhile, and a device would
    /// be left on what was there before.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let first = self.iova.start().min(other.iova.start());
        let place = |range: &Self| {
            // Both counted back to the same IOVA: this may be before the memory.
            range
                .place
                .advanced(0_u64.wrapping_sub(range.iova.start() - first))
        };
        self.access == other.access
            && place(self) == place(other)
            && address(&self.owner) == address(&other.owner)
    }

    /// This and the IOVAs right behind it as one, if that is the same memory.
    pub(crate) fn joined(&self, next: &Self) -> Option<Self> {
        let adjacent = self.iova.last().checked_add(1) == Some(next.iova.start());
        let joins = adjacent && self.unit == next.unit && self.agrees_with(next);
        let iova = AddrRange::from_bounds(self.iova.start(), next.iova.last()).filter(|_| joins)?;
        Some(Self {
            iova,
            ..self.clone()
        })
    }
}

/// First and last IOVA, as in `/proc/iomem`: `0x1000-0x1fff`.
pub(crate) struct Shown(pub(crate) AddrRange);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.0.start(), self.0.last())
    }
}

/// Which owner it is.
fn address(owner: &Owner) -> *const () {
    Arc::as_ptr(owner).cast()
}

/// Two ranges are equal when they are the same bytes of the same owner, reached alike.
impl PartialEq for DmaRange {
    fn eq(&self, other: &Self) -> bool {
        self.iova == other.iova && self.unit == other.unit && self.agrees_with(other)
    }
}
impl Eq for DmaRange {}

/// For example `0x1000-0x1fff to host 0x7f0000001000`.
impl fmt::Display for DmaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iova = Shown(self.iova);
        match self.place {
            DmaPlace::Host { address } => write!(f, "{iova} to host {address:#x}")?,
            DmaPlace::File { fd, offset } => write!(f, "{iova} to fd {fd} + {offset:#x}")?,
        }
        match self.access {
            DmaAccess::Read => f.write_str(", read-only"),
            DmaAccess::ReadWrite => Ok(()),
        }
    }
}

impl fmt::Debug for DmaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaRange({self})")
    }
}
