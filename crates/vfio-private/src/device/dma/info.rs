// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `VFIO_IOMMU_GET_INFO` says of a container: a fixed part and a chain of capabilities.

use guest_ranges::AddrRange;
use vfio_bindings::bindings::vfio as uapi;

use crate::bytes::{ne16, ne32, ne64};

/// Offsets in `struct vfio_iommu_type1_info`, and its size.
mod fixed {
    pub(super) const ARGSZ: usize = 0;
    pub(super) const FLAGS: usize = 4;
    pub(super) const PGSIZES: usize = 8;
    pub(super) const CAP_OFFSET: usize = 16;
    pub(super) const LEN: usize = 24;
}

/// The size of `struct vfio_info_cap_header`, and of the count behind it with its padding.
const CAP_HEADER: usize = 8;
const IOVA_RANGES: usize = CAP_HEADER + 8;
const CAP_VERSION: u16 = 1;

/// What a container can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type1Info {
    /// A bit for each size of pages, if the kernel says so.
    pub(super) page_sizes: Option<u64>,
    /// First and last IOVA of each range, since Linux 5.4.
    pub(super) iovas: Option<Vec<AddrRange>>,
    /// How many more mappings there can be, since Linux 5.10.
    pub(super) available: Option<u32>,
}

/// Why the bytes make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type1InfoError {
    /// The kernel wants to say so many bytes.
    Incomplete(u32),
    /// A capability leaves the bytes, is of an unknown version, or the chain has no end.
    Malformed,
}

impl Type1Info {
    /// Reads what the ioctl returned.
    ///
    /// A chain that cannot be followed to its end is an error: a hole that was overlooked would be
    /// mapped.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Type1InfoError> {
        let malformed = Type1InfoError::Malformed;
        let u32_at = |offset| ne32(bytes, offset).ok_or(malformed);
        let (argsz, flags) = (u32_at(fixed::ARGSZ)?, u32_at(fixed::FLAGS)?);
        if argsz as usize > bytes.len() {
            return Err(Type1InfoError::Incomplete(argsz));
        }
        let bytes = bytes.get(..argsz as usize).unwrap_or(bytes);
        let page_sizes = ne64(bytes, fixed::PGSIZES).ok_or(malformed)?;
        let mut info = Self {
            page_sizes: (flags & uapi::VFIO_IOMMU_INFO_PGSIZES != 0).then_some(page_sizes),
            iovas: None,
            available: None,
        };
        let mut at = match flags & uapi::VFIO_IOMMU_INFO_CAPS {
            0 => 0,
            _ => ne32(bytes, fixed::CAP_OFFSET).ok_or(malformed)? as usize,
        };
        // Each takes up a header: there cannot be more.
        for _ in 0..=bytes.len() / CAP_HEADER {
            if at == 0 {
                return Ok(info);
            }
            if at < fixed::LEN || at > bytes.len() {
                return Err(malformed);
            }
            at = info.capability(bytes, at)?;
        }
        Err(malformed)
    }

    /// Reads one capability, and returns where the next one is.
    fn capability(&mut self, bytes: &[u8], at: usize) -> Result<usize, Type1InfoError> {
        let malformed = Type1InfoError::Malformed;
        let (id, version) = (ne16(bytes, at), ne16(bytes, at + 2));
        let next = ne32(bytes, at + 4).ok_or(malformed)?;
        let body = || ne32(bytes, at + CAP_HEADER).ok_or(malformed);
        let matters = match id.map(u32::from) {
            Some(uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) => {
                let count = body()? as usize;
                let first = at + IOVA_RANGES;
                // No more than the bytes have, whatever the number is.
                let ranges = bytes
                    .get(first..)
                    .unwrap_or(&[])
                    .chunks_exact(16)
                    .take(count);
                if ranges.len() != count || self.iovas.is_some() {
                    return Err(malformed);
                }
                self.iovas = Some(ranges.filter_map(range).collect());
                true
            }
            Some(uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) => {
                self.available = Some(body()?);
                true
            }
            _ => false,
        };
        match matters && version != Some(CAP_VERSION) {
            true => Err(malformed),
            false => Ok(next as usize),
        }
    }
}

/// First and last IOVA.
fn range(bytes: &[u8]) -> Option<AddrRange> {
    AddrRange::from_bounds(ne64(bytes, 0)?, ne64(bytes, 8)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container with two ranges and 65535 mappings, as Linux says it.
    fn bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut words = |words: &[u64]| {
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        };
        let pair = crate::device::ioctl::pair;
        words(&[pair(88, 3), 0x4020_1000, pair(24, 0)]);
        words(&[pair(0x1_0001, 72), pair(2, 0)]);
        words(&[0, 0xfedf_ffff, 0xfef0_0000, u64::MAX]);
        words(&[pair(0x1_0003, 0), pair(65535, 0)]);
        bytes
    }

    #[test]
    fn page_sizes_ranges_and_the_number_of_mappings_are_read() {
        let info = Type1Info::parse(&bytes()).unwrap();
        let ranges = [(0, 0xfedf_ffff), (0xfef0_0000, u64::MAX)];
        let ranges = ranges.map(|(first, last)| AddrRange::from_bounds(first, last).unwrap());
        assert_eq!(info.page_sizes, Some(0x4020_1000));
        assert_eq!(info.iovas, Some(ranges.to_vec()));
        assert_eq!(info.available, Some(65535));
    }

    #[test]
    fn more_than_there_is_room_for_is_asked_for() {
        let bytes = &bytes()[..24];
        assert_eq!(Type1Info::parse(bytes), Err(Type1InfoError::Incomplete(88)));
    }

    #[test]
    fn a_chain_without_an_end_and_a_count_without_ranges_are_errors() {
        let malformed = Err(Type1InfoError::Malformed);
        for (at, value) in [(76, 24_u32), (76, 8), (28, 4096), (32, 900), (24, 0x2_0001)] {
            let mut bytes = bytes();
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            assert_eq!(Type1Info::parse(&bytes), malformed, "{value} at {at}");
        }
        assert_eq!(Type1Info::parse(&[]), malformed);
    }
}
