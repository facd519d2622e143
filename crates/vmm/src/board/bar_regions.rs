// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds the model's regions for a BAR: one for each piece that `vfio-private`
//! cuts it into.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memory_model::{PrivateMmio, Region};
use vfio_private::{Access, Piece};

use crate::backend::Platform;
use crate::board::handle::{Handle, Host, TdiBytes};
use crate::board::host_mapping::HostMapping;
use crate::board::region_builder::{
    BuiltRegion, RegionBuilder, RegionError, bytes, file_slice, host_handle,
};
use crate::devices::assigned::BarWindow;
use crate::devices::emulated::Device;
use crate::machine::{self, DeviceKind};

/// What backs a BAR.
enum Behind {
    /// A file in place of a device.
    File(Arc<OwnedFd>),
    /// The device itself, and its dma-buf if some piece is private.
    Device(BarWindow, Option<Arc<OwnedFd>>),
}

impl<P: Platform> RegionBuilder<'_, P> {
    /// A container with the pieces in it.
    pub(crate) fn bar(
        mut self,
        region: &machine::Region,
        bar: &machine::Bar,
    ) -> Result<BuiltRegion, RegionError> {
        let (pieces, behind) = self.cut(region, bar)?;
        let assigned = match &behind {
            Behind::Device(window, _) => Some(window.assigned().clone()),
            Behind::File(_) => None,
        };
        let mut built = BuiltRegion {
            region: Region::container(&region.name, region.size).with_handle(Handle {
                assigned,
                ..Handle::default()
            }),
            pieces: Vec::new(),
        };
        for piece in pieces {
            let part = self.piece(region, bar, piece, &behind)?;
            built.pieces.push((piece.offset(), part));
        }
        Ok(built)
    }

    /// The pieces, and what backs them: a file, if the platform has no real devices.
    fn cut(
        &self,
        region: &machine::Region,
        bar: &machine::Bar,
    ) -> Result<(Vec<Piece>, Behind), RegionError> {
        let window = match bar.assigned {
            Some(name) => self.platform.assigned(name)?,
            None => None,
        };
        let found = window.as_ref().map(BarWindow::found);
        let pieces = machine::pieces(bar, region.size, found.as_ref()).map_err(RegionError::Bar)?;
        let behind = match window {
            None => {
                let file = self.device_file(bytes(region.size), &region.init)?;
                Behind::File(Arc::new(file))
            }
            Some(window) => {
                let is_private = |piece: &Piece| piece.access() == Access::Private;
                let file = match pieces.iter().any(is_private) {
                    true => Some(Arc::new(window.dma_buf()?)),
                    false => None,
                };
                Behind::Device(window, file)
            }
        };
        Ok((pieces, behind))
    }

    fn piece(
        &mut self,
        region: &machine::Region,
        bar: &machine::Bar,
        piece: Piece,
        behind: &Behind,
    ) -> Result<Region<Handle>, RegionError> {
        let (offset, size) = (piece.offset(), piece.size());
        let name = format!("{}.{}@{offset:#x}", region.name, piece.access());
        let note = piece.reasons().to_string();
        Ok(match (piece.access(), behind) {
            (Access::Private, Behind::File(file) | Behind::Device(_, Some(file))) => {
                let slice = file_slice(file.clone(), offset, size)?;
                let tdi = self.tdi.zip(bar.tdi.as_ref());
                let tdi = tdi.map(|(tdi, named)| TdiBytes {
                    tdi,
                    bar: named.bar,
                    offset,
                });
                let handle = Handle {
                    tdi,
                    note,
                    ..Handle::default()
                };
                self.private_region(&name, region.readonly, PrivateMmio::new(slice), handle)
            }
            (Access::Shared, Behind::File(file)) => {
                // Only this piece is mapped, so that the host has no pointer to
                // the private ones beside it.
                let mapping = Arc::new(HostMapping::of_file(file, offset, size)?);
                let memory = mapping.host_memory();
                let handle = Handle {
                    note,
                    ..host_handle(mapping)
                };
                Region::device_ram(&name, memory).with_handle(handle)
            }
            (Access::Shared, Behind::Device(window, _)) => {
                let mapping = window.map(piece.range())?;
                Region::device_ram(&name, mapping.host_memory()).with_handle(Handle {
                    host: Some(Host::Bar(window.from(offset))),
                    note,
                    ..Handle::default()
                })
            }
            (Access::Trap, Behind::File(_)) => {
                self.mmio(&name, size.into(), DeviceKind::Registers, note)
            }
            (Access::Trap, Behind::Device(window, _)) => {
                let device = Device::Assigned(window.from(offset), BTreeMap::new());
                self.trapped(&name, size.into(), device, note)
            }
            // Without a dma-buf no piece is private.
            (Access::Blocked, _) | (Access::Private, Behind::Device(_, None)) => {
                Region::reservation(&name, size.into()).with_handle(Handle {
                    note,
                    ..Handle::default()
                })
            }
        })
    }
}
