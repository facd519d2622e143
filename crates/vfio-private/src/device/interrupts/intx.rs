// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The interrupt line.

use core::ops::Deref;

use super::ioctl::{Action, set_irqs};
use super::{EventFd, InterruptError, InterruptKind};
use crate::device::Device;

const KIND: InterruptKind = InterruptKind::Intx;

/// A device's interrupt line, enabled until this is dropped.
///
/// The line is level-triggered. The kernel masks it when it signals the eventfd, because it does not
/// know how to make the device deassert the line. [Unmask](Self::unmask) it after serving the device.
/// If the device still asserts the line then, the eventfd is signalled again.
#[derive(Debug)]
pub struct Intx<D: Deref<Target = Device>> {
    device: D,
}

impl<D: Deref<Target = Device>> Intx<D> {
    /// Enables the line: `trigger` is signalled when the device asserts it.
    ///
    /// # Errors
    ///
    /// [`InterruptError::None`], [`InterruptError::Enabled`], [`InterruptError::Kernel`].
    pub fn enable(device: D, trigger: &EventFd) -> Result<Self, InterruptError> {
        device.claim(KIND)?;
        // From here on it is disabled however this ends.
        let line = Self { device };
        line.set_trigger(trigger)?;
        Ok(line)
    }

    /// Has another eventfd signalled from now on.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn set_trigger(&self, trigger: &EventFd) -> Result<(), InterruptError> {
        self.set(Action::Trigger(&[Some(trigger)]))
    }

    /// Masks the line.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn mask(&self) -> Result<(), InterruptError> {
        self.set(Action::Mask)
    }

    /// Unmasks the line.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn unmask(&self) -> Result<(), InterruptError> {
        self.set(Action::Unmask)
    }

    /// Makes the kernel unmask the line whenever `served` is signalled, or no longer (`None`). KVM
    /// signals an irqfd's resample fd when the guest ends the interrupt.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`]: EBUSY where there is such an eventfd already.
    pub fn unmask_by(&self, served: Option<&EventFd>) -> Result<(), InterruptError> {
        self.set(Action::UnmaskBy(served))
    }

    /// Signals the eventfd as if the device had asserted the line.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Kernel`].
    pub fn fire(&self) -> Result<(), InterruptError> {
        self.set(Action::Fire)
    }

    fn set(&self, action: Action<'_>) -> Result<(), InterruptError> {
        let result = set_irqs(&self.device, KIND, 0, action);
        result.map(drop).map_err(|errno| InterruptError::Kernel {
            address: self.device.address(),
            kind: KIND,
            call: action.name(),
            vector: 0,
            count: action.count(),
            errno,
        })
    }
}

impl<D: Deref<Target = Device>> Drop for Intx<D> {
    fn drop(&mut self) {
        // What was never enabled cannot be disabled; nothing is lost by that.
        let _ = set_irqs(&self.device, KIND, 0, Action::Disable);
        self.device.interrupts.release();
    }
}
