// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The interrupt line.

use core::ops::Deref;

use super::ioctl::Action;
use super::single::Single;
use super::{EventFd, InterruptError, InterruptKind};
use crate::device::Device;

/// A device's interrupt line, enabled until this is dropped.
///
/// The line is level-triggered. The kernel masks it when it signals the eventfd, because it does not
/// know how to make the device deassert the line. [Unmask](Self::unmask) it after serving the device.
/// If the device still asserts the line then, the eventfd is signalled again.
#[derive(Debug)]
pub struct Intx<D: Deref<Target = Device>>(Single<D>);

impl<D: Deref<Target = Device>> Intx<D> {
    /// Enables the line: `trigger` is signalled when the device asserts it.
    ///
    /// # Errors
    ///
    /// [`InterruptError::None`], [`InterruptError::Enabled`], [`InterruptError::Kernel`].
    pub fn enable(device: D, trigger: &EventFd) -> Result<Self, InterruptError> {
        Single::enable(device, InterruptKind::Intx, trigger).map(Self)
    }

    /// Has another eventfd signalled from now on.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn set_trigger(&self, trigger: &EventFd) -> Result<(), InterruptError> {
        self.0.set(Action::Trigger(&[Some(trigger)]))
    }

    /// Masks the line.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn mask(&self) -> Result<(), InterruptError> {
        self.0.set(Action::Mask)
    }

    /// Unmasks the line.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn unmask(&self) -> Result<(), InterruptError> {
        self.0.set(Action::Unmask)
    }

    /// Makes the kernel unmask the line whenever `served` is signalled, or no longer (`None`). KVM
    /// signals an irqfd's resample fd when the guest ends the interrupt.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`]: EBUSY where there is such an eventfd already.
    pub fn unmask_by(&self, served: Option<&EventFd>) -> Result<(), InterruptError> {
        self.0.set(Action::UnmaskBy(served))
    }

    /// Signals the eventfd as if the device had asserted the line.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn fire(&self) -> Result<(), InterruptError> {
        self.0.set(Action::Fire)
    }
}
