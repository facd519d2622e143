// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `VFIO_IOMMU_GET_INFO` returns of a container with the IOMMU model type1: a fixed part and a
//! chain of capabilities.
//!
//! The bytes are in the host's order, as the kernel wrote them. A VMM that has a container of its own,
//! for example from `vfio-ioctls`, gets the limits of its DMA mappings from them.

use alloc::vec::Vec;

use guest_ranges::AddrRange;
use thiserror::Error;

use crate::bytes::{ne32, ne64};
use crate::info_caps::{Capability, ChainError, HEADER, capabilities};

/// Offsets in `struct vfio_iommu_type1_info`, and its size.
mod fixed {
    pub(super) const ARGSZ: usize = 0;
    pub(super) const FLAGS: usize = 4;
    pub(super) const PGSIZES: usize = 8;
    pub(super) const CAP_OFFSET: usize = 16;
    pub(super) const LEN: usize = 24;
}

/// The constants of `vfio-bindings`, which needs the standard library.
mod uapi {
    pub(super) const VFIO_IOMMU_INFO_PGSIZES: u32 = 1 << 0;
    pub(super) const VFIO_IOMMU_INFO_CAPS: u32 = 1 << 1;
    pub(super) const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: u32 = 1;
    pub(super) const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: u32 = 3;
}

/// The size of `struct vfio_iova_range`.
const IOVA_RANGE: usize = 16;

/// What is wrong with the bytes. Offsets are from the start of the info.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IommuInfoError {
    /// Fewer bytes than the part that every kernel fills.
    #[error("{len} bytes are less than the 16 of an IOMMU info")]
    Short {
        /// How many bytes there were.
        len: usize,
    },
    /// The kernel has more to return than there was room for. Call it again with `argsz` bytes.
    #[error("the kernel has {argsz} bytes of IOMMU info, and there are {len}")]
    Incomplete {
        /// How many bytes the kernel asks for.
        argsz: u32,
        /// How many bytes there were.
        len: usize,
    },
    /// A capability that starts inside the fixed part.
    #[error("capability at offset {offset:#x} is inside the fixed part of 0x18 bytes")]
    InsideFixedPart {
        /// Where the capability starts.
        offset: usize,
    },
    /// A capability that ends past the bytes.
    #[error("capability at offset {offset:#x} leaves the {len:#x} bytes of the IOMMU info")]
    Truncated {
        /// Where the capability starts.
        offset: usize,
        /// How many bytes belong to the IOMMU info.
        len: usize,
    },
    /// More capabilities than there is room for: the chain loops.
    #[error("the chain of capabilities has no end; it came by offset {offset:#x} again")]
    Cycle {
        /// Where it was when that was certain.
        offset: usize,
    },
    /// A capability of a kind that there can be only one of.
    #[error("a second capability with ID {id} at offset {offset:#x}")]
    Twice {
        /// Where the second one starts.
        offset: usize,
        /// Its ID.
        id: u16,
    },
    /// A capability that matters here in a version that is not known.
    #[error("capability with ID {id} at offset {offset:#x} has version {version}, not 1")]
    Version {
        /// Where the capability starts.
        offset: usize,
        /// Its ID.
        id: u16,
        /// Its version.
        version: u16,
    },
    /// A range of IOVAs that ends before it starts.
    #[error("the IOVAs {first:#x} to {last:#x} are not a range")]
    NotARange {
        /// The first IOVA.
        first: u64,
        /// The last IOVA.
        last: u64,
    },
}

impl From<ChainError> for IommuInfoError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::InsideFixedPart { offset } => Self::InsideFixedPart { offset },
            ChainError::Truncated { offset, len } => Self::Truncated { offset, len },
            ChainError::Cycle { offset } => Self::Cycle { offset },
            ChainError::Version {
                offset,
                id,
                version,
            } => Self::Version {
                offset,
                id,
                version,
            },
        }
    }
}

/// The IOMMU info of a container.
///
/// It holds for the devices that are in the container: each device that joins can narrow it. Query
/// again when one has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IommuInfo {
    /// A bit for each size of the IOMMU's pages, bit 12 for 4 KiB; `None` if the kernel does not
    /// report them.
    pub page_sizes: Option<u64>,
    /// The IOVAs that can be mapped, since Linux 5.4; `None` if the kernel does not report them. It
    /// refuses the others all the same.
    pub iovas: Option<Vec<AddrRange>>,
    /// How many more mappings there can be, since Linux 5.10; `None` if the kernel does not report
    /// that.
    pub available: Option<u32>,
}

impl IommuInfo {
    /// Reads the bytes that the ioctl returned.
    ///
    /// Capabilities of unknown ID are passed over, as the kernel's interface wants it. Memory
    /// follows the number of bytes.
    ///
    /// ```
    /// use vfio_private::iommu_info::{IommuInfo, IommuInfoError};
    ///
    /// // 24 bytes were given to the ioctl. The kernel asks for 88: it has capabilities.
    /// let words = [88_u32, 3, 0x1000, 0, 0, 0];
    /// let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    /// let error = IommuInfoError::Incomplete { argsz: 88, len: 24 };
    /// assert_eq!(IommuInfo::parse(&bytes), Err(error));
    /// ```
    ///
    /// # Errors
    ///
    /// [`IommuInfoError`]. A chain that cannot be followed to its end is never taken for a shorter
    /// one: the list of IOVAs could be in the rest of it, and IOVAs that the hardware reserves would
    /// count as mappable.
    pub fn parse(bytes: &[u8]) -> Result<Self, IommuInfoError> {
        let len = bytes.len();
        let short = IommuInfoError::Short { len };
        let argsz = ne32(bytes, fixed::ARGSZ).ok_or(short)?;
        let flags = ne32(bytes, fixed::FLAGS).ok_or(short)?;
        let page_sizes = ne64(bytes, fixed::PGSIZES).ok_or(short)?;
        // The buffer may be longer than what the kernel filled, but not shorter.
        let filled = usize::try_from(argsz).ok().and_then(|len| bytes.get(..len));
        let filled = filled.ok_or(IommuInfoError::Incomplete { argsz, len })?;
        let mut info = Self {
            page_sizes: (flags & uapi::VFIO_IOMMU_INFO_PGSIZES != 0).then_some(page_sizes),
            iovas: None,
            available: None,
        };
        if flags & uapi::VFIO_IOMMU_INFO_CAPS != 0 {
            let first = ne32(filled, fixed::CAP_OFFSET).ok_or(short)?;
            for capability in capabilities(filled, fixed::LEN, first) {
                info.read_capability(&capability?)?;
            }
        }
        Ok(info)
    }

    fn read_capability(&mut self, capability: &Capability<'_>) -> Result<(), IommuInfoError> {
        let is_first = match u32::from(capability.id) {
            uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                let iovas = iovas(capability)?;
                self.iovas.replace(iovas).is_none()
            }
            uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                capability.check_version()?;
                let available = capability.u32_at(HEADER)?;
                self.available.replace(available).is_none()
            }
            _ => true,
        };
        if is_first {
            return Ok(());
        }
        // Besides, this bounds the work: many headers over the same ranges would multiply them.
        Err(IommuInfoError::Twice {
            offset: capability.offset,
            id: capability.id,
        })
    }
}

/// `struct vfio_iommu_type1_info_cap_iova_range`: count, four reserved bytes, the ranges.
fn iovas(capability: &Capability<'_>) -> Result<Vec<AddrRange>, IommuInfoError> {
    capability.check_version()?;
    let count = capability.u32_at(HEADER)?;
    let ranges = capability.entries(HEADER + 8, count, IOVA_RANGE)?;
    let bounds = ranges.filter_map(|range| Some((ne64(range, 0)?, ne64(range, 8)?)));
    let range = |(first, last)| {
        let range = AddrRange::from_bounds(first, last);
        range.ok_or(IommuInfoError::NotARange { first, last })
    };
    bounds.map(range).collect()
}

#[cfg(feature = "vfio-dma")]
impl IommuInfo {
    /// What the container can map, for the planner of the crate [`vfio_dma`]. An implementation of
    /// [`AddressSpace::limits`](vfio_dma::AddressSpace::limits) returns it.
    ///
    /// `host` is the host's page size, in which the kernel pins memory. `mapped` is how many mappings
    /// this descriptor of the container has now: the kernel counts those that are left. Without a list
    /// of IOVAs, all can be mapped.
    pub fn dma_limits(&self, host: guest_ranges::PageSize, mapped: u64) -> vfio_dma::DmaLimits {
        let smallest = self
            .page_sizes
            .map_or(0, |sizes| sizes & sizes.wrapping_neg());
        let everywhere = [AddrRange::ALL];
        let limits = vfio_dma::DmaLimits::new(
            smallest.max(host.bytes()),
            self.iovas.as_deref().unwrap_or(&everywhere).iter().copied(),
            self.available
                .map(|left| mapped.saturating_add(left.into())),
        );
        // Of the first, there is the lowest bit or none.
        limits.expect("the larger of two page sizes is a power of two")
    }
}

#[cfg(all(test, feature = "device"))]
mod tests {
    use vfio_bindings::bindings::vfio as bindings;

    use super::{fixed, uapi};

    #[test]
    fn the_constants_are_those_of_the_bindings() {
        macro_rules! same {
            ($($name:ident)*) => { $(assert_eq!(uapi::$name, bindings::$name);)* };
        }
        same!(VFIO_IOMMU_INFO_PGSIZES VFIO_IOMMU_INFO_CAPS);
        same!(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
        assert_eq!(fixed::LEN, size_of::<bindings::vfio_iommu_type1_info>());
    }
}
