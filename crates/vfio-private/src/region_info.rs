// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `VFIO_DEVICE_GET_REGION_INFO` returns: a fixed part and a chain of capabilities.
//!
//! The bytes are in the host's order, as the kernel wrote them.

use alloc::vec::Vec;

use thiserror::Error;

use crate::bar_input::{Region, SparseArea};
use crate::bytes::{ne32, ne64};
use crate::info_caps::{Capability, ChainError, HEADER, capabilities};

/// Offsets in `struct vfio_region_info`, and its size.
mod fixed {
    pub(super) const ARGSZ: usize = 0;
    pub(super) const FLAGS: usize = 4;
    pub(super) const INDEX: usize = 8;
    pub(super) const CAP_OFFSET: usize = 12;
    pub(super) const SIZE: usize = 16;
    pub(super) const OFFSET: usize = 24;
    pub(super) const LEN: usize = 32;
}

/// The constants of `vfio-bindings`, which needs the standard library.
mod uapi {
    pub(super) const VFIO_REGION_INFO_FLAG_READ: u32 = 1 << 0;
    pub(super) const VFIO_REGION_INFO_FLAG_WRITE: u32 = 1 << 1;
    pub(super) const VFIO_REGION_INFO_FLAG_MMAP: u32 = 1 << 2;
    pub(super) const VFIO_REGION_INFO_FLAG_CAPS: u32 = 1 << 3;
    pub(super) const VFIO_REGION_INFO_CAP_SPARSE_MMAP: u32 = 1;
    pub(super) const VFIO_REGION_INFO_CAP_TYPE: u32 = 2;
    pub(super) const VFIO_REGION_INFO_CAP_MSIX_MAPPABLE: u32 = 3;
}

/// The flag of a region that userspace may map.
pub(crate) const FLAG_MMAP: u32 = uapi::VFIO_REGION_INFO_FLAG_MMAP;

/// The size of `struct vfio_region_sparse_mmap_area`.
const SPARSE_AREA: usize = 16;

/// What is wrong with the bytes. Offsets are from the start of the region info.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegionInfoError {
    /// Fewer bytes than the fixed part has.
    #[error("{len} bytes are less than the 32 of a region info")]
    Short {
        /// How many bytes there were.
        len: usize,
    },
    /// The kernel has more to return than there was room for. Call it again with `argsz` bytes.
    #[error("the kernel has {argsz} bytes of region info, and there are {len}")]
    Incomplete {
        /// How many bytes the kernel asks for.
        argsz: u32,
        /// How many bytes there were.
        len: usize,
    },
    /// A capability that starts inside the fixed part.
    #[error("capability at offset {offset:#x} is inside the fixed part of 0x20 bytes")]
    InsideFixedPart {
        /// Where the capability starts.
        offset: usize,
    },
    /// A capability that ends past the bytes.
    #[error("capability at offset {offset:#x} leaves the {len:#x} bytes of the region info")]
    Truncated {
        /// Where the capability starts.
        offset: usize,
        /// How many bytes belong to the region info.
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
}

impl From<ChainError> for RegionInfoError {
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

/// The type capability: what a device-specific region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionType {
    /// Global, or of the vendor in the low 16 bits if bit 31 is set.
    pub kind: u32,
    /// The subtype.
    pub subtype: u32,
}

/// The region info of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionInfo {
    /// The number of the region: 0 to 5 are the BARs, 6 is the ROM, 7 configuration space, 8 VGA;
    /// device-specific regions follow.
    pub index: u32,
    /// Size in bytes; 0 for a BAR that does not exist, or that the kernel could not claim.
    pub size: u64,
    /// Where the region starts in the device's file.
    pub offset: u64,
    /// The device's file can be read there.
    pub readable: bool,
    /// The device's file can be written there.
    pub writable: bool,
    /// What may be mapped: the classifier's input.
    pub region: Region,
    /// The type capability.
    pub kind: Option<RegionType>,
}

impl RegionInfo {
    /// Reads the bytes that the ioctl returned.
    ///
    /// Capabilities of unknown ID are passed over, as the kernel's interface wants it. Memory
    /// follows the number of bytes.
    ///
    /// # Errors
    ///
    /// [`RegionInfoError`]. A chain that cannot be followed to its end is never taken for a shorter
    /// one, and a sparse-mmap capability of an unknown version is not passed over: without it the
    /// whole region would count as mappable.
    pub fn parse(bytes: &[u8]) -> Result<Self, RegionInfoError> {
        let short = RegionInfoError::Short { len: bytes.len() };
        let u32_at = |offset| ne32(bytes, offset).ok_or(short);
        let u64_at = |offset| ne64(bytes, offset).ok_or(short);
        let (argsz, flags) = (u32_at(fixed::ARGSZ)?, u32_at(fixed::FLAGS)?);
        let has = |flag: u32| flags & flag != 0;
        let mut info = Self {
            index: u32_at(fixed::INDEX)?,
            size: u64_at(fixed::SIZE)?,
            offset: u64_at(fixed::OFFSET)?,
            readable: has(uapi::VFIO_REGION_INFO_FLAG_READ),
            writable: has(uapi::VFIO_REGION_INFO_FLAG_WRITE),
            region: Region::of_flags(flags),
            kind: None,
        };
        if has(uapi::VFIO_REGION_INFO_FLAG_CAPS) {
            // The buffer may be longer than what the kernel filled, but not shorter.
            let filled = usize::try_from(argsz).ok().and_then(|len| bytes.get(..len));
            let len = bytes.len();
            let filled = filled.ok_or(RegionInfoError::Incomplete { argsz, len })?;
            for capability in capabilities(filled, fixed::LEN, u32_at(fixed::CAP_OFFSET)?) {
                info.read_capability(&capability?)?;
            }
        }
        Ok(info)
    }

    fn read_capability(&mut self, capability: &Capability<'_>) -> Result<(), RegionInfoError> {
        let is_first = match u32::from(capability.id) {
            uapi::VFIO_REGION_INFO_CAP_SPARSE_MMAP => {
                let areas = sparse_areas(capability)?;
                self.region.sparse.replace(areas).is_none()
            }
            uapi::VFIO_REGION_INFO_CAP_TYPE => {
                let kind = region_type(capability)?;
                self.kind.replace(kind).is_none()
            }
            uapi::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => {
                capability.check_version()?;
                !core::mem::replace(&mut self.region.msix_mappable, true)
            }
            _ => true,
        };
        if is_first {
            return Ok(());
        }
        // Besides, this bounds the work: many headers over the same areas would multiply them.
        Err(RegionInfoError::Twice {
            offset: capability.offset,
            id: capability.id,
        })
    }
}

/// `struct vfio_region_info_cap_sparse_mmap`: count, four bytes of nothing, the areas.
fn sparse_areas(capability: &Capability<'_>) -> Result<Vec<SparseArea>, ChainError> {
    capability.check_version()?;
    let count = capability.u32_at(HEADER)?;
    let areas = capability.entries(HEADER + 8, count, SPARSE_AREA)?;
    let area = |chunk| {
        Some(SparseArea {
            offset: ne64(chunk, 0)?,
            size: ne64(chunk, 8)?,
        })
    };
    Ok(areas.filter_map(area).collect())
}

/// `struct vfio_region_info_cap_type`.
fn region_type(capability: &Capability<'_>) -> Result<RegionType, ChainError> {
    capability.check_version()?;
    Ok(RegionType {
        kind: capability.u32_at(HEADER)?,
        subtype: capability.u32_at(HEADER + 4)?,
    })
}

#[cfg(all(test, feature = "device"))]
mod tests {
    use vfio_bindings::bindings::vfio as bindings;

    use super::uapi;

    #[test]
    fn the_constants_are_those_of_the_bindings() {
        macro_rules! same {
            ($($name:ident)*) => { $(assert_eq!(uapi::$name, bindings::$name);)* };
        }
        same!(VFIO_REGION_INFO_FLAG_READ VFIO_REGION_INFO_FLAG_WRITE);
        same!(VFIO_REGION_INFO_FLAG_MMAP VFIO_REGION_INFO_FLAG_CAPS);
        same!(VFIO_REGION_INFO_CAP_SPARSE_MMAP VFIO_REGION_INFO_CAP_TYPE);
        same!(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
    }
}
