// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a BAR of the machine to regions of the model, a region for each piece
//! that `vfio-private` cuts it into.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memory_model::{PrivateMmio, Region};
use vfio_private::{Access, Piece};

use crate::assigned::BarWindow;
use crate::backend::Platform;
use crate::device::Device;
use crate::handle::{Handle, Host};
use crate::host_mapping::HostMapping;
use crate::machine::{self, DeviceKind};
use crate::parts::{Made, Maker, PartError, bytes, file_slice, host_handle, host_memory};

/// What is behind a BAR.
enum Behind {
    /// A file that stands for the device.
    File(Arc<OwnedFd>),
    /// The device itself, and its dma-buf if some piece is private.
    Device(BarWindow, Option<Arc<OwnedFd>>),
}

impl<P: Platform> Maker<'_, P> {
    /// A container with the pieces in it.
    pub(crate) fn bar(
        mut self,
        region: &machine::Region,
        bar: &machine::Bar,
    ) -> Result<Made, PartError> {
        let (pieces, behind) = self.cut(region, bar)?;
        let assigned = match &behind {
            Behind::Device(window, _) => Some(window.assigned().clone()),
            Behind::File(_) => None,
        };
        let mut made = Made {
            region: Region::container(&region.name, region.size).with_handle(Handle {
                assigned,
                ..Handle::default()
            }),
            pieces: Vec::new(),
        };
        for piece in pieces {
            let part = self.piece(region, piece, &behind)?;
            made.pieces.push((piece.offset(), part));
        }
        Ok(made)
    }

    /// The pieces, and what they are pieces of. Where there are no real devices
    /// a file stands for this one, too.
    fn cut(
        &self,
        region: &machine::Region,
        bar: &machine::Bar,
    ) -> Result<(Vec<Piece>, Behind), PartError> {
        let window = match bar.assigned {
            Some(name) => self.platform.assigned(name)?,
            None => None,
        };
        let found = window.as_ref().map(BarWindow::found);
        let pieces = machine::pieces(bar, region.size, found.as_ref()).map_err(PartError::Bar)?;
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
        piece: Piece,
        behind: &Behind,
    ) -> Result<Region<Handle>, PartError> {
        let (offset, size) = (piece.offset(), piece.size());
        let name = format!("{}.{}@{offset:#x}", region.name, piece.access());
        let note = piece.reasons().to_string();
        Ok(match (piece.access(), behind) {
            (Access::Private, Behind::File(file) | Behind::Device(_, Some(file))) => {
                let slice = file_slice(file.clone(), offset, size)?;
                self.private_region(&name, region.readonly, PrivateMmio::new(slice), note)
            }
            (Access::Shared, Behind::File(file)) => {
                // Only this piece is mapped: the host has no pointer to
                // the private ones beside it.
                let mapping = Arc::new(HostMapping::of_file(file, offset, size)?);
                let memory = host_memory(&mapping, size)?;
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
