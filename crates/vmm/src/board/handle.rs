// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The handle that the VMM attaches to each region of the model.

use std::io;
use std::sync::Arc;

use kvm_slots::Unsupported;
use vfio_private::BarIndex;

use crate::board::host_mapping::HostMapping;
use crate::devices::assigned::{AssignedDevice, BarWindow};

/// The VMM's own data of a region. Lookups return it.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    /// The number of the device that answers trapped accesses.
    pub device: Option<usize>,
    /// The memory, where the VMM may touch it.
    pub host: Option<Host>,
    /// The device whose BAR the region is.
    pub assigned: Option<Arc<AssignedDevice>>,
    /// The private bytes of a TEE device interface that the region is.
    pub tdi: Option<TdiBytes>,
    /// Why this kernel does not support the region. A reservation is in its place.
    pub refused: Option<Unsupported>,
    /// A note for the map: why a piece of a BAR is what it is.
    pub note: String,
}

/// Where private bytes are in the BARs of a TEE device interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdiBytes {
    /// The number of the interface.
    pub tdi: usize,
    /// The BAR.
    pub bar: BarIndex,
    /// Where they start in it.
    pub offset: u64,
}

/// How the VMM accesses the bytes of a region.
#[derive(Clone, Debug)]
pub enum Host {
    /// Through its own mapping.
    Memory(Arc<HostMapping>),
    /// With system calls, even though there is a mapping: the device may stop
    /// answering at any time.
    Bar(BarWindow),
}

impl Host {
    /// Copies the bytes from `offset` on.
    ///
    /// # Errors
    /// If they are not all there, or the device does not answer.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(mapping) => mapping.read(offset, data),
            Self::Bar(window) => window.read(offset, data),
        }
    }

    /// Overwrites the bytes from `offset` on.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(mapping) => mapping.write(offset, data),
            Self::Bar(window) => window.write(offset, data),
        }
    }
}
