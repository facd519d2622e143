// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An interrupt that is the only one of its kind.

use core::ops::Deref;

use super::ioctl::{Action, set_irqs};
use super::{EventFd, InterruptError, InterruptKind};
use crate::device::Device;

/// The interrupt of a kind that has one, enabled until this is dropped.
#[derive(Debug)]
pub(super) struct Single<D: Deref<Target = Device>> {
    device: D,
    kind: InterruptKind,
}

impl<D: Deref<Target = Device>> Single<D> {
    /// Enables the interrupt with this eventfd.
    pub(super) fn enable(
        device: D,
        kind: InterruptKind,
        trigger: &EventFd,
    ) -> Result<Self, InterruptError> {
        device.claim(kind)?;
        // From here on it is disabled however this ends.
        let single = Self { device, kind };
        single.set(Action::Trigger(&[Some(trigger)]))?;
        Ok(single)
    }

    pub(super) fn set(&self, action: Action<'_>) -> Result<(), InterruptError> {
        let result = set_irqs(&self.device, self.kind, 0, action);
        result.map(drop).map_err(|errno| InterruptError::Kernel {
            address: self.device.address(),
            kind: self.kind,
            call: action.name(),
            vector: 0,
            count: action.count(),
            errno,
        })
    }
}

impl<D: Deref<Target = Device>> Drop for Single<D> {
    fn drop(&mut self) {
        // What was never enabled cannot be disabled; nothing is lost by that.
        let _ = set_irqs(&self.device, self.kind, 0, Action::Disable);
        self.device.interrupts.release(self.kind);
    }
}
