// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts of an open device, as eventfds.
//!
//! A device has up to three kinds of interrupts, one of which is enabled at a time: a level-triggered
//! line ([`Intx`]), or messages ([`Vectors`]). Each is a value that switches its kind off when it is
//! dropped. It holds the device as a reference or as an [`Arc`](std::sync::Arc).
//!
//! ```no_run
//! use vfio_private::device::interrupts::{EventFd, InterruptKind, MessageKind, Vectors};
//! use vfio_private::device::{Device, Iommu, VfioInterface};
//!
//! let device = Device::open(&Iommu::new(VfioInterface::LegacyGroup)?, "0000:01:00.0".parse()?)?;
//! let info = device.interrupt_info(InterruptKind::Msix)?;
//! println!("{} vectors", info.vectors);
//! let (admin, queue) = (EventFd::new(0)?, EventFd::new(0)?);
//! let vectors = Vectors::enable(&device, MessageKind::Msix, &[Some(&admin), Some(&queue)])?;
//! vectors.fire(1)?; // As if the device had.
//! assert_eq!(queue.read()?, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An eventfd reaches a guest as an irqfd of KVM, on a route to the guest's own message.
//! [`MsixTable`](crate::emulate::MsixTable) and [`GuestConfig`](crate::emulate::GuestConfig) report
//! that message, and when it changes.
//!
//! **Messages need bus mastering**: a device whose command register has bit 2 clear sends none.

mod error;
mod intx;
mod ioctl;
mod vectors;

use std::sync::{Mutex, PoisonError};

use vfio_bindings::bindings::vfio as uapi;
pub use vmm_sys_util::eventfd::EventFd;

pub use error::InterruptError;
pub use intx::Intx;
pub use vectors::{MessageKind, Vectors};

use super::Device;

/// How a device interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InterruptKind {
    /// A line, usually shared with other devices.
    Intx,
    /// Messages whose numbers follow each other, up to 32.
    Msi,
    /// Messages of a table, up to 2048.
    Msix,
}

impl InterruptKind {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Intx, Self::Msi, Self::Msix];

    /// VFIO's number for it.
    const fn index(self) -> u32 {
        match self {
            Self::Intx => uapi::VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => uapi::VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => uapi::VFIO_PCI_MSIX_IRQ_INDEX,
        }
    }
}

/// For example `MSI-X`.
impl core::fmt::Display for InterruptKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::Msix => "MSI-X",
        })
    }
}

/// What the kernel reports about one kind of a device's interrupts (`VFIO_DEVICE_GET_IRQ_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InterruptInfo {
    /// How many vectors there are; 0 if there is no interrupt of this kind.
    pub vectors: u16,
    /// An interrupt can be masked and unmasked.
    pub maskable: bool,
    /// An interrupt masks itself, and has to be unmasked before the next one.
    pub automasked: bool,
    /// Vectors can be added while others are enabled. Linux 6.5 and newer can for MSI-X, on some
    /// hosts.
    pub resizable: bool,
}

impl Device {
    /// Queries the kernel for one kind of interrupts.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn interrupt_info(&self, kind: InterruptKind) -> Result<InterruptInfo, InterruptError> {
        let info = ioctl::irq_info(self, kind.index()).map_err(|errno| InterruptError::Kernel {
            address: self.address(),
            kind,
            call: "VFIO_DEVICE_GET_IRQ_INFO",
            vector: 0,
            count: 0,
            errno,
        })?;
        let is = |flag| info.flags & flag != 0;
        let vectors = match is(uapi::VFIO_IRQ_INFO_EVENTFD) {
            true => u16::try_from(info.count).unwrap_or(u16::MAX),
            false => 0,
        };
        Ok(InterruptInfo {
            vectors,
            maskable: is(uapi::VFIO_IRQ_INFO_MASKABLE),
            automasked: is(uapi::VFIO_IRQ_INFO_AUTOMASKED),
            resizable: !is(uapi::VFIO_IRQ_INFO_NORESIZE),
        })
    }

    /// The same, for a kind that is about to be enabled and will be by no one else.
    fn claim(&self, kind: InterruptKind) -> Result<InterruptInfo, InterruptError> {
        let address = self.address();
        let info = self.interrupt_info(kind)?;
        if info.vectors == 0 {
            return Err(InterruptError::None { address, kind });
        }
        self.interrupts
            .claim(kind)
            .map_err(|enabled| InterruptError::Enabled {
                address,
                kind,
                enabled,
            })?;
        Ok(info)
    }
}

/// The kind that is enabled on a device.
#[derive(Debug, Default)]
pub(super) struct EnabledKind(Mutex<Option<InterruptKind>>);

impl EnabledKind {
    /// Enters a kind, unless there is one.
    fn claim(&self, kind: InterruptKind) -> Result<(), InterruptKind> {
        let mut enabled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *enabled {
            Some(other) => Err(other),
            None => {
                *enabled = Some(kind);
                Ok(())
            }
        }
    }

    fn release(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_is_enabled_at_a_time() {
        let enabled = EnabledKind::default();
        for &kind in InterruptKind::ALL {
            assert_eq!(enabled.claim(kind), Ok(()));
            for &other in InterruptKind::ALL {
                assert_eq!(enabled.claim(other), Err(kind));
            }
            enabled.release();
        }
    }
}
