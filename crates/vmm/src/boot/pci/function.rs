// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A function whose BARs, MSI and MSI-X are emulated on top of a device.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use memory_model::AddrRange;
use vfio_private::ReachEvent;
use vfio_private::emulate::{ConfigEffect, EmulateError, GuestConfig, MsiState, MsixControl};

use crate::boot::pci::Function;
use crate::boot::pci::bars::{BarError, GuestBars};

/// The expansion ROM's BAR.
const ROM: RangeInclusive<u64> = 0x30..=0x33;
/// The interrupt line and pin.
const INTERRUPT: RangeInclusive<u64> = 0x3c..=0x3d;

/// The device below an [`EmulatedFunction`].
///
/// All methods except [`config_read`](Self::config_read) are called with the function
/// locked, so they must not call the function. They may lock the memory model.
pub trait FunctionDevice: Debug + Send + Sync {
    /// Reads the device's own bytes of configuration space. What is not filled in
    /// reads as ones.
    fn config_read(&self, offset: u64, data: &mut [u8]);

    /// Writes bytes that are the device's.
    fn config_write(&self, offset: u64, data: &[u8]);

    /// All of configuration space, read after the device's memory may have become
    /// accessible or inaccessible. `None` if the device does nothing unexpected.
    fn config_space(&self) -> Option<Vec<u8>> {
        None
    }

    /// The memory BARs, which show at these addresses, are about to become
    /// inaccessible. Accepted private pages must be revoked now.
    fn revoke(&self, _memory: &[AddrRange]) {}

    /// The interrupt line is disabled from now on, or no longer.
    fn intx_disabled(&self, _disabled: bool) {}

    /// The guest's new setup of MSI; `None` if it is off.
    fn msi(&self, _state: Option<MsiState>) {}

    /// The guest's new setup of MSI-X.
    fn msix(&self, _control: MsixControl) {}
}

/// Why a write to configuration space did not take full effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The device's memory could not be hidden. The write is dropped, unless only the
    /// device's configuration space after it showed that the memory is inaccessible.
    #[error("the memory of a PCI function cannot be hidden: {0}")]
    Hide(#[source] BarError),
    /// The BARs could not follow. They show where they were, until a later write
    /// changes that.
    #[error("the BARs of a PCI function cannot move: {0}")]
    Show(#[source] BarError),
    /// The device's configuration space is no longer valid.
    #[error("the configuration space of a PCI function is invalid now: {0}")]
    Config(#[from] EmulateError),
}

/// A function: a device, and what the guest sees of it. Functions have no interrupt
/// line and no expansion ROM here, so their registers read as zeros.
///
/// The lock of the function is held during a write. The lock of the model comes after
/// it, in this order only.
#[derive(Debug)]
pub struct EmulatedFunction<D> {
    state: Mutex<State>,
    device: D,
}

#[derive(Debug)]
struct State {
    guest: GuestConfig,
    bars: GuestBars,
    /// The first error that no one has taken.
    error: Option<WriteError>,
}

impl<D: FunctionDevice> EmulatedFunction<D> {
    /// A function of `device`. `bars` has the regions of the BARs of `guest`.
    pub fn new(device: D, guest: GuestConfig, bars: GuestBars) -> Self {
        let state = State {
            guest,
            bars,
            error: None,
        };
        Self {
            state: Mutex::new(state),
            device,
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Carries out the guest's write to configuration space, and keeps the BARs where
    /// the guest sees them.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), WriteError> {
        self.state().write(&self.device, offset, data)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The next write puts the BARs where they belong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: FunctionDevice> Function for EmulatedFunction<D> {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.device.config_read(offset, data);
        self.state().guest.read(offset, data);
        for (place, byte) in (offset..).zip(data) {
            if ROM.contains(&place) || INTERRUPT.contains(&place) {
                *byte = 0;
            }
        }
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        if let Err(error) = state.write(&self.device, offset, data) {
            state.error.get_or_insert(error);
        }
    }

    fn take_error(&self) -> Option<WriteError> {
        match self.state.try_lock() {
            Ok(mut state) => state.error.take(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().error.take(),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl State {
    fn write(
        &mut self,
        device: &impl FunctionDevice,
        offset: u64,
        data: &[u8],
    ) -> Result<(), WriteError> {
        let before = self.guest.clone();
        let effects = self.guest.write(offset, data);
        let is_reach = |effect: &ConfigEffect| matches!(effect, ConfigEffect::Reach(_));
        let observes = effects.iter().any(is_reach);
        if let Err(error) = self.carry_out(device, effects) {
            // Hiding comes first, so the device has not seen the write.
            self.guest = before;
            return Err(error);
        }
        let observed = match observes {
            true => self.observe(device),
            false => Ok(()),
        };
        let shown = self.bars.show(&self.guest).map_err(WriteError::Show);
        observed.and(shown)
    }

    /// Corrects what was expected of a write: a device need not have D3hot, and a reset
    /// restores registers.
    fn observe(&mut self, device: &impl FunctionDevice) -> Result<(), WriteError> {
        let Some(config) = device.config_space() else {
            return Ok(());
        };
        let effects = self.guest.observe(&config)?;
        self.carry_out(device, effects)
    }

    /// Carries out all effects except BARs that show or move: that is one transaction,
    /// once the device has all of the write.
    fn carry_out(
        &self,
        device: &impl FunctionDevice,
        effects: Vec<ConfigEffect>,
    ) -> Result<(), WriteError> {
        for effect in effects {
            match effect {
                ConfigEffect::Reach(ReachEvent::Revoked(_)) => {
                    device.revoke(&self.bars.shown_memory());
                    self.bars.hide_memory().map_err(WriteError::Hide)?;
                }
                ConfigEffect::Forward { offset, data } => device.config_write(offset, &data),
                ConfigEffect::IntxDisabled(disabled) => device.intx_disabled(disabled),
                ConfigEffect::Msi(state) => device.msi(state),
                ConfigEffect::Msix(control) => device.msix(control),
                ConfigEffect::Reach(ReachEvent::Restored)
                | ConfigEffect::IoDecode(_)
                | ConfigEffect::BarMoved { .. } => {}
            }
        }
        Ok(())
    }
}
