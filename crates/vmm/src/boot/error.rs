// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a guest cannot be booted.

use std::io;

use kvm_slots::Errno;
use kvm_slots::convert::ConvertError;
use kvm_slots::vcpu_gate::GateError;
use memory_model::{AddListenerError, AddSpaceError, CommitError, TreeError};
use vfio_dma::DmaRefusal;
use vfio_private::device::{DeviceError, PciAddress};

use super::config::AssignedTwice;
use super::interrupts::InterruptError;
use super::layout::LayoutError;
use super::native::{CpuError, LoadedRamError};
use super::pci::assigned::AssignError;
use super::pci::bus::BusFull;
use super::pci::memory::MemoryFunctionError;
use crate::backend::kvm::KvmError;

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// RAM has no place.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// There is no RAM with a kernel in it.
    #[error(transparent)]
    Ram(#[from] LoadedRamError),
    /// It is unknown where the state of pages is.
    #[error("KVM does not tell where private pages have their state")]
    PageState(#[source] Errno),
    /// RAM cannot be made private.
    #[error("RAM cannot be made private")]
    Private(#[from] ConvertError),
    /// The vCPUs cannot be set up.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// KVM refused a vCPU.
    #[error("KVM refuses vCPU {number}: {errno}")]
    Vcpu {
        /// Its number.
        number: u8,
        /// The error.
        errno: Errno,
    },
    /// The vCPUs cannot be held.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// An interrupt has no route.
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
    /// The region tree does not allow it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The regions cannot be rendered.
    #[error(transparent)]
    Space(#[from] AddSpaceError),
    /// KVM or the IOMMU refused the memory.
    #[error(transparent)]
    Listener(#[from] AddListenerError),
    /// KVM or the IOMMU refused a change of memory.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A device is listed twice.
    #[error(transparent)]
    Twice(#[from] AssignedTwice),
    /// VFIO refused a device.
    #[error("{address} cannot be assigned")]
    Open {
        /// The device.
        address: PciAddress,
        /// Why not.
        source: DeviceError,
    },
    /// A device cannot be assigned.
    #[error("{address} cannot be assigned")]
    Assign {
        /// The device.
        address: PciAddress,
        /// Why not.
        source: AssignError,
    },
    /// The device's memory is out of reach for DMA.
    #[error("devices cannot be given DMA")]
    Dma(#[source] DmaRefusal),
    /// A memory function cannot be made.
    #[error("PCI device {number}")]
    MemoryFunction {
        /// Its number on the bus.
        number: usize,
        /// Why not.
        source: MemoryFunctionError,
    },
    /// The bus has no room.
    #[error(transparent)]
    Bus(#[from] BusFull),
    /// A thread cannot be started.
    #[error("a vCPU's thread cannot be started")]
    Thread(#[source] io::Error),
}
