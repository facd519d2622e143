// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel notifies a VMM of about a device.

use core::ops::Deref;

use super::ioctl::Action;
use super::single::Single;
use super::{EventFd, InterruptError, InterruptKind};
use crate::device::Device;

/// The kinds of notifications. VFIO has them as further kinds of interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotificationKind {
    /// The device has reported an uncorrectable error (Advanced Error Reporting), and may not work until
    /// it is reset. Most kernels have this only for devices of PCI Express.
    Error,
    /// The host asks for the device back, for example because it is unbound or unplugged there. The host
    /// waits until the device is closed, and repeats the notification meanwhile. Unplug the device from
    /// the guest, then drop its mappings, its interrupts and the [`Device`].
    Request,
}

impl From<NotificationKind> for InterruptKind {
    fn from(kind: NotificationKind) -> Self {
        match kind {
            NotificationKind::Error => Self::Error,
            NotificationKind::Request => Self::Request,
        }
    }
}

/// Notifications about a device, enabled until this is dropped.
///
/// Both kinds can be enabled beside the device's interrupts. They are for the VMM, not for the guest.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use vfio_private::device::Device;
/// use vfio_private::device::interrupts::{EventFd, Notification, NotificationKind};
///
/// # fn watch(device: Arc<Device>) -> Result<(), Box<dyn std::error::Error>> {
/// let requested = EventFd::new(0)?;
/// let request = Notification::enable(device, NotificationKind::Request, &requested)?;
/// requested.read()?;
/// // Ask the guest to give the device up, then close it.
/// drop(request);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Notification<D: Deref<Target = Device>>(Single<D>);

impl<D: Deref<Target = Device>> Notification<D> {
    /// Has `trigger` signalled at each notification of a kind.
    ///
    /// # Errors
    ///
    /// [`InterruptError::None`] if the device or the kernel has no such notifications.
    /// [`InterruptError::Enabled`] if they are enabled already. [`InterruptError::Kernel`].
    pub fn enable(
        device: D,
        kind: NotificationKind,
        trigger: &EventFd,
    ) -> Result<Self, InterruptError> {
        Single::enable(device, kind.into(), trigger).map(Self)
    }

    /// Has another eventfd signalled from now on.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn set_trigger(&self, trigger: &EventFd) -> Result<(), InterruptError> {
        self.0.set(Action::Trigger(&[Some(trigger)]))
    }

    /// Signals the eventfd as if the kernel had something to notify of.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn fire(&self) -> Result<(), InterruptError> {
        self.0.set(Action::Fire)
    }
}
