// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts of an open device, as eventfds.
//!
//! A device has up to three kinds of interrupts, one of which is enabled at a time: a level-triggered
//! line ([`Intx`]), or messages ([`Vectors`]). Beside them, the kernel notifies the VMM of errors of the
//! device, and of the host's request to have it back ([`Notification`]). Each is a value that switches
//! its kind off when it is dropped. It holds the device as a reference or as an [`Arc`](std::sync::Arc).
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
mod notification;
mod single;
mod vectors;

use std::sync::{Mutex, MutexGuard, PoisonError};

use vfio_bindings::bindings::vfio as uapi;
pub use vmm_sys_util::eventfd::EventFd;

pub use error::InterruptError;
pub use intx::Intx;
pub use notification::{Notification, NotificationKind};
pub use vectors::{MessageKind, Vectors};

use super::Device;

/// How a device interrupts, and what the kernel notifies of by the same system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InterruptKind {
    /// A line, usually shared with other devices.
    Intx,
    /// Messages whose numbers follow each other, up to 32.
    Msi,
    /// Messages of a table, up to 2048.
    Msix,
    /// Errors of the device, VFIO's ERR: see [`NotificationKind::Error`].
    Error,
    /// Requests to have the device back, VFIO's REQ: see [`NotificationKind::Request`].
    Request,
}

impl InterruptKind {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Intx,
        Self::Msi,
        Self::Msix,
        Self::Error,
        Self::Request,
    ];

    /// VFIO's number for it.
    const fn index(self) -> u32 {
        match self {
            Self::Intx => uapi::VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => uapi::VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => uapi::VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => uapi::VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => uapi::VFIO_PCI_REQ_IRQ_INDEX,
        }
    }

    /// Its place in [`EnabledKinds`]. Kinds in the same place exclude each other.
    const fn place(self) -> usize {
        match self {
            Self::Intx | Self::Msi | Self::Msix => 0,
            Self::Error => 1,
            Self::Request => 2,
        }
    }

    /// Whether the kernel refuses the kind with EINVAL if there is none. It knows INTx, MSI and MSI-X
    /// for every device, and counts 0 of those that the device lacks. Most kernels know ERR only for
    /// devices of PCI Express (`vfio_pci_ioctl_get_irq_info` in drivers/vfio/pci/vfio_pci_core.c).
    const fn may_be_unknown(self) -> bool {
        matches!(self, Self::Error | Self::Request)
    }
}

/// For example `MSI-X`.
impl core::fmt::Display for InterruptKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::Msix => "MSI-X",
            Self::Error => "ERR",
            Self::Request => "REQ",
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

impl InterruptInfo {
    /// No interrupts.
    const NONE: Self = Self {
        vectors: 0,
        maskable: false,
        automasked: false,
        resizable: false,
    };

    fn new(info: &uapi::vfio_irq_info) -> Self {
        let is = |flag| info.flags & flag != 0;
        Self {
            vectors: match is(uapi::VFIO_IRQ_INFO_EVENTFD) {
                true => u16::try_from(info.count).unwrap_or(u16::MAX),
                false => 0,
            },
            maskable: is(uapi::VFIO_IRQ_INFO_MASKABLE),
            automasked: is(uapi::VFIO_IRQ_INFO_AUTOMASKED),
            resizable: !is(uapi::VFIO_IRQ_INFO_NORESIZE),
        }
    }
}

impl Device {
    /// Queries the kernel for one kind of interrupts. A device or a kernel without notifications of a
    /// kind has no vectors of it.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn interrupt_info(&self, kind: InterruptKind) -> Result<InterruptInfo, InterruptError> {
        match ioctl::irq_info(self, kind.index()) {
            Ok(info) => Ok(InterruptInfo::new(&info)),
            Err(libc::EINVAL) if kind.may_be_unknown() => Ok(InterruptInfo::NONE),
            Err(errno) => Err(InterruptError::Kernel {
                address: self.address(),
                kind,
                call: "VFIO_DEVICE_GET_IRQ_INFO",
                vector: 0,
                count: 0,
                errno,
            }),
        }
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

/// The kinds that are enabled on a device: one of INTx, MSI and MSI-X, and the notifications.
#[derive(Debug, Default)]
pub(super) struct EnabledKinds(Mutex<[Option<InterruptKind>; 3]>);

impl EnabledKinds {
    /// Enters a kind, unless one that excludes it is enabled. Returns that one then.
    fn claim(&self, kind: InterruptKind) -> Result<(), InterruptKind> {
        let enabled = &mut self.lock()[kind.place()];
        match *enabled {
            Some(other) => Err(other),
            None => {
                *enabled = Some(kind);
                Ok(())
            }
        }
    }

    fn release(&self, kind: InterruptKind) {
        self.lock()[kind.place()] = None;
    }

    fn lock(&self) -> MutexGuard<'_, [Option<InterruptKind>; 3]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS: [InterruptKind; 3] =
        [InterruptKind::Intx, InterruptKind::Msi, InterruptKind::Msix];

    #[test]
    fn one_kind_of_interrupts_is_enabled_at_a_time() {
        let enabled = EnabledKinds::default();
        for kind in INTERRUPTS {
            assert_eq!(enabled.claim(kind), Ok(()));
            for other in INTERRUPTS {
                assert_eq!(enabled.claim(other), Err(kind));
            }
            enabled.release(kind);
        }
    }

    #[test]
    fn notifications_are_enabled_beside_interrupts_and_each_other() {
        let enabled = EnabledKinds::default();
        let kinds = [NotificationKind::Error, NotificationKind::Request].map(InterruptKind::from);
        assert_eq!(enabled.claim(InterruptKind::Msi), Ok(()));
        for kind in kinds {
            assert_eq!(enabled.claim(kind), Ok(()));
            assert_eq!(enabled.claim(kind), Err(kind));
        }
        enabled.release(kinds[0]);
        assert_eq!(enabled.claim(kinds[0]), Ok(()));
        for kind in [kinds[1], InterruptKind::Msi] {
            assert_eq!(enabled.claim(kind), Err(kind));
        }
    }

    #[test]
    fn only_what_the_kernel_reports_with_eventfds_has_vectors() {
        let info = |flags, count| {
            InterruptInfo::new(&uapi::vfio_irq_info {
                flags,
                count,
                ..Default::default()
            })
        };
        let fixed = uapi::VFIO_IRQ_INFO_EVENTFD | uapi::VFIO_IRQ_INFO_NORESIZE;
        let notification = info(fixed, 1);
        assert_eq!((notification.vectors, notification.resizable), (1, false));
        assert_eq!(info(fixed, 0), InterruptInfo::NONE);
        assert_eq!(info(uapi::VFIO_IRQ_INFO_NORESIZE, 1), InterruptInfo::NONE);
    }
}
