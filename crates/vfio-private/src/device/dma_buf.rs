// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Exports private pieces as dma-bufs, which KVM takes instead of a host address.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use guest_ranges::AddrRange;

use super::error::DeviceError;
use super::{Device, ioctl};
use crate::bar::Bar;
use crate::piece::{Access, Piece};

/// How pieces are grouped into dma-bufs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Grain {
    /// One dma-buf for each piece, for a KVM that maps a dma-buf only as a whole.
    Piece,
    /// One dma-buf for the BAR, of which each piece is a slice, for a KVM that takes an offset.
    Bar,
}

/// A private piece as a slice of a dma-buf.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exported {
    /// The piece.
    pub piece: Piece,
    /// The dma-buf. It cannot be mapped by a process. Its users lose access while memory decoding is
    /// off or the device is reset or powered down.
    pub file: Arc<OwnedFd>,
    /// Where in the file the piece starts, in bytes.
    pub offset: u64,
}

/// The ranges of each dma-buf, each with the pieces that lie in it.
fn plan(bar: Bar, pieces: &[Piece], grain: Grain) -> Vec<(AddrRange, Vec<Piece>)> {
    let private = pieces
        .iter()
        .copied()
        .filter(|piece| piece.access() == Access::Private);
    match grain {
        Grain::Piece => private.map(|piece| (piece.range(), vec![piece])).collect(),
        Grain::Bar => {
            let all: Vec<Piece> = private.collect();
            match all.is_empty() {
                true => Vec::new(),
                false => vec![(bar.extent(), all)],
            }
        }
    }
}

impl Device {
    /// Exports the private pieces of a BAR as dma-bufs (Linux 6.19 and newer).
    ///
    /// # Errors
    ///
    /// As for [`export_dma_buf`](Self::export_dma_buf).
    pub fn export_private(
        &self,
        bar: Bar,
        pieces: &[Piece],
        grain: Grain,
    ) -> Result<Vec<Exported>, DeviceError> {
        let mut exported = Vec::new();
        for (range, pieces) in plan(bar, pieces, grain) {
            let region = u32::from(bar.index().get());
            let file = Arc::new(self.export_dma_buf(region, &[range])?);
            exported.extend(pieces.into_iter().map(|piece| Exported {
                piece,
                file: Arc::clone(&file),
                offset: piece.offset() - range.start(),
            }));
        }
        Ok(exported)
    }

    /// Whether the kernel can export dma-bufs of this device.
    pub fn can_export(&self) -> bool {
        ioctl::has_dma_buf(&self.file)
    }

    /// Exports ranges of a region, concatenated, as one dma-buf
    /// (`VFIO_DEVICE_FEATURE_DMA_BUF`, Linux 6.19 and newer).
    ///
    /// # Errors
    ///
    /// [`DeviceError::Ioctl`]. ENOTTY: the kernel does not have the feature. EINVAL: a range that is
    /// not whole host pages or leaves the region, an empty list, or a region that other devices cannot
    /// access (I/O ports, or less than a page). ENODEV: a region that is not a BAR or does not exist.
    pub fn export_dma_buf(
        &self,
        region: u32,
        ranges: &[AddrRange],
    ) -> Result<OwnedFd, DeviceError> {
        let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        let open_flags = (libc::O_RDWR | libc::O_CLOEXEC).unsigned_abs();
        // `struct vfio_device_feature`, then `struct vfio_device_feature_dma_buf` with its ranges.
        let mut words = vec![0, ioctl::pair(region, open_flags), ioctl::pair(0, count)];
        words.extend(
            ranges
                .iter()
                .flat_map(|range| [range.start(), range.size_u64().unwrap_or(u64::MAX)]),
        );
        ioctl::dma_buf(&self.file, &mut words, &self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::{BarIndex, BarKind};
    use crate::bar_input::{BarInput, Region, ReportedRange, TeeKind};
    use crate::classify::classify;
    use crate::msix::MsixParts;
    use crate::policy::Policy;
    use guest_ranges::PageSize;

    #[test]
    fn there_is_a_file_for_each_private_piece_or_one_for_the_bar() {
        let index = BarIndex::new(0).unwrap();
        let bar = Bar::new(index, BarKind::Memory, 0x8000).unwrap();
        let tee = |offset| ReportedRange {
            range: AddrRange::new(offset, 0x2000).unwrap(),
            kind: TeeKind::Tee,
            msix: MsixParts::NONE,
        };
        let region = Region::mappable();
        let report = [tee(0x1000), tee(0x6000)];
        let input = BarInput::new(bar, &region).with_report(Some(&report));
        let pieces = classify(&input, PageSize::Size4K, Policy::new()).unwrap();
        let ranges: Vec<AddrRange> = plan(bar, &pieces, Grain::Piece)
            .iter()
            .map(|(range, pieces)| {
                assert_eq!(pieces.len(), 1);
                *range
            })
            .collect();
        assert_eq!(ranges, [tee(0x1000).range, tee(0x6000).range]);
        let whole = plan(bar, &pieces, Grain::Bar);
        assert_eq!(whole.len(), 1);
        assert_eq!((whole[0].0, whole[0].1.len()), (bar.extent(), 2));

        let shared = input.with_report(None);
        let pieces = classify(&shared, PageSize::Size4K, Policy::new()).unwrap();
        for grain in [Grain::Piece, Grain::Bar] {
            assert_eq!(plan(bar, &pieces, grain), []);
        }
    }
}
