// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! IOVAs and the memory that devices reach there: the planner's input, and its mappings.

use core::fmt;
use std::sync::Arc;

use guest_ranges::{AddrRange, FileSlice, HostMemory, Owner};

use crate::error::DmaInputError;

/// How devices may access memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: an address space has to grant exactly this access.
pub enum DmaAccess {
    /// Loads only. The IOMMU stops stores.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// The memory that IOVAs lead to.
///
/// A value vouches for its memory: [`HostMemory`] by the promise of its creator, [`FileSlice`]
/// by the descriptor that it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: an address space has to map or to refuse each of them.
pub enum DmaMemory {
    /// Memory of this process.
    Host(HostMemory),
    /// Bytes of a file: a memfd, or a dma-buf that VFIO exported. Only an iommufd maps files.
    File(FileSlice),
}

impl DmaMemory {
    /// The number of bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Host(memory) => memory.size(),
            Self::File(file) => file.size(),
        }
    }

    /// What keeps the memory mapped, or the descriptor open.
    pub fn owner(&self) -> &Owner {
        match self {
            Self::Host(memory) => memory.owner(),
            Self::File(file) => file.owner(),
        }
    }

    /// Whether the memory is in a file, which only an iommufd maps.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// The address, or the offset in the file.
    pub(crate) fn position(&self) -> u64 {
        match self {
            Self::Host(memory) => memory.address(),
            Self::File(file) => file.offset(),
        }
    }

    fn descriptor(&self) -> Option<i32> {
        match self {
            Self::Host(_) => None,
            Self::File(file) => Some(file.fd()),
        }
    }

    fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        Some(match self {
            Self::Host(memory) => Self::Host(memory.slice(offset, size)?),
            Self::File(file) => Self::File(file.slice(offset, size)?),
        })
    }

    fn joined(&self, next: &Self) -> Option<Self> {
        match (self, next) {
            (Self::Host(memory), Self::Host(next)) => memory.joined(next).map(Self::Host),
            (Self::File(file), Self::File(next)) => file.joined(next).map(Self::File),
            (Self::Host(_), Self::File(_)) | (Self::File(_), Self::Host(_)) => None,
        }
    }
}

impl From<HostMemory> for DmaMemory {
    fn from(memory: HostMemory) -> Self {
        Self::Host(memory)
    }
}

impl From<FileSlice> for DmaMemory {
    fn from(file: FileSlice) -> Self {
        Self::File(file)
    }
}

/// For example `host 0x7f0000001000`.
impl fmt::Display for DmaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(memory) => write!(f, "host {:#x}", memory.address()),
            Self::File(file) => write!(f, "fd {} + {:#x}", file.fd(), file.offset()),
        }
    }
}

/// IOVAs at which devices reach some memory, as many as the memory has bytes.
///
/// The memory is a [`HostMemory`] or a [`FileSlice`], so a range never leads to memory that no one
/// has vouched for:
///
/// ```
/// use std::sync::Arc;
///
/// use guest_ranges::HostMemory;
/// use vfio_dma::{DmaAccess, DmaRange};
///
/// // SAFETY: nothing accesses the memory in this example.
/// let ram = unsafe { HostMemory::new(0x7f00_0000_0000, 0x4000, Arc::new(())) }.unwrap();
/// let range = DmaRange::new(0x10_0000, ram, DmaAccess::ReadWrite)?;
/// assert_eq!(range.to_string(), "0x100000-0x103fff to host 0x7f0000000000");
/// # Ok::<(), vfio_dma::DmaInputError>(())
/// ```
///
/// An address is not memory:
///
/// ```compile_fail,E0277
/// use vfio_dma::{DmaAccess, DmaRange};
///
/// let range = DmaRange::new(0x10_0000, 0x7f00_0000_0000_u64, DmaAccess::ReadWrite);
/// ```
///
/// Nor can a range be changed to lead elsewhere:
///
/// ```compile_fail,E0451
/// # fn larger(range: vfio_dma::DmaRange) -> vfio_dma::DmaRange {
/// use guest_ranges::AddrRange;
/// use vfio_dma::DmaRange;
///
/// DmaRange { iova: AddrRange::ALL, ..range }
/// # }
/// ```
#[derive(Clone)]
pub struct DmaRange {
    iova: AddrRange,
    access: DmaAccess,
    /// As large as `iova`.
    memory: DmaMemory,
    unit: Option<u64>,
}

impl DmaRange {
    /// All of `memory`, from the IOVA `iova` on.
    ///
    /// # Errors
    ///
    /// [`DmaInputError::Wraps`] if the IOVAs wrap around.
    pub fn new(
        iova: u64,
        memory: impl Into<DmaMemory>,
        access: DmaAccess,
    ) -> Result<Self, DmaInputError> {
        let memory = memory.into();
        let (offset, size) = (iova, memory.size());
        let iova = AddrRange::new(offset, size.into());
        Ok(Self {
            iova: iova.ok_or(DmaInputError::Wraps { offset, size })?,
            access,
            memory,
            unit: None,
        })
    }

    /// The same range, mapped in units of `bytes` IOVAs that start at multiples of `bytes`. Each unit
    /// can be unmapped while the others stay. Without units a range is one mapping. A unit smaller than
    /// the IOMMU's page counts as a page.
    ///
    /// # Errors
    ///
    /// [`DmaInputError::Unit`] if `bytes` is not a power of two.
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

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.memory.size()
    }

    /// How devices may access it.
    pub fn access(&self) -> DmaAccess {
        self.access
    }

    /// The memory that devices reach.
    pub fn memory(&self) -> &DmaMemory {
        &self.memory
    }

    /// The size of units, if the range is mapped in units.
    pub fn unit(&self) -> Option<u64> {
        self.unit
    }

    /// The part of it that lies in `range`.
    pub(crate) fn within(&self, range: AddrRange) -> Option<Self> {
        let iova = self.iova.intersect(range)?;
        let offset = iova.start() - self.iova.start();
        Some(Self {
            iova,
            memory: self.memory.slice(offset, iova.size_u64()?)?,
            ..*self
        })
    }

    /// Whether both lead to the same bytes with the same access, wherever they share IOVAs. The same
    /// address with another owner is other memory: it was unmapped in between, and a device would keep
    /// the old pages.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        // What IOVA 0 would lead to, were the range that long.
        let base = |range: &Self| range.memory.position().wrapping_sub(range.iova.start());
        self.access == other.access
            && self.memory.descriptor() == other.memory.descriptor()
            && base(self) == base(other)
            && address(self.memory.owner()) == address(other.memory.owner())
    }

    /// This range and `next`, which starts right behind it in IOVAs and in memory, as one.
    pub(crate) fn joined(&self, next: &Self) -> Option<Self> {
        let iova = self.iova.joined(next.iova)?;
        let joins = self.unit == next.unit && self.agrees_with(next);
        let memory = self.memory.joined(&next.memory).filter(|_| joins)?;
        Some(Self {
            iova,
            memory,
            ..*self
        })
    }
}

/// Which owner it is.
fn address(owner: &Owner) -> *const () {
    Arc::as_ptr(owner).cast()
}

/// Two ranges are equal if they lead to the same bytes of the same owner with the same access.
impl PartialEq for DmaRange {
    fn eq(&self, other: &Self) -> bool {
        self.iova == other.iova && self.unit == other.unit && self.agrees_with(other)
    }
}
impl Eq for DmaRange {}

/// For example `0x1000-0x1fff to host 0x7f0000001000`.
impl fmt::Display for DmaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.iova.dashed(), self.memory)?;
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
