// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a device answers at its memory BARs, and what a write to its configuration space does to
//! that.
//!
//! Linux takes mappings and dma-bufs of a device away while memory decoding is off or the device
//! sleeps in D3hot, and during a reset (`drivers/vfio/pci/vfio_pci_core.c`, `vfio_pci_config.c`).
//! What a guest was given must be taken back *before* that: a device's TDISP interface must be
//! unbound first, and accepted private MMIO be revoked. So the question is asked of a write that was
//! not made yet.

use crate::bytes::le16;
use crate::config::{ConfigError, ConfigSpace};

/// The command register, and its bit for memory (PCI Express Base Specification, 7.5.1.1.3).
const COMMAND: usize = 0x04;
const MEMORY_SPACE: u16 = 1 << 1;

/// The capability of power management, where in it the control register is, and the bits of that for
/// the power state, of which 3 is D3hot (7.5.2).
const POWER: u8 = 0x01;
const POWER_CONTROL: usize = 4;
const POWER_STATE: u16 = 3;
const D3_HOT: u16 = 3;

/// Why a device does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Memory decoding is off.
    DecodeOff,
    /// The device sleeps, in D3hot.
    Asleep,
}

/// What changes for those who have something of the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReachEvent {
    /// It is about to be out of reach: revoke, hide, unbind, and only then go on.
    Revoked(Cause),
    /// It is within reach again once the write is made. What was accepted does not come back by
    /// itself.
    Restored,
}

/// Whether a device answers at its memory BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reach {
    command: u16,
    /// Where the power control register is, and what it holds.
    power: Option<(usize, u16)>,
}

impl Reach {
    /// As configuration space says it is.
    ///
    /// # Errors
    ///
    /// Those of [`ConfigSpace::new`] and [`ConfigSpace::capabilities`].
    pub fn of(config: &[u8]) -> Result<Self, ConfigError> {
        let chain = ConfigSpace::new(config)?.capabilities()?;
        let found = chain.into_iter().find(|capability| capability.id == POWER);
        let power = found.map(|found| usize::from(found.offset) + POWER_CONTROL);
        let register = |offset| le16(config, offset).unwrap_or_default();
        Ok(Self {
            command: register(COMMAND),
            power: power.map(|offset| (offset, register(offset))),
        })
    }

    /// Why the device does not answer; `None` if it does.
    pub fn missing(self) -> Option<Cause> {
        match self.power {
            Some((_, control)) if control & POWER_STATE == D3_HOT => Some(Cause::Asleep),
            _ if self.command & MEMORY_SPACE == 0 => Some(Cause::DecodeOff),
            _ => None,
        }
    }

    /// How it will be when `data` has been written to configuration space at `offset`.
    ///
    /// A device may refuse: it need not have D3hot, for one. Then it stays within reach, and was
    /// taken from the guest for nothing; [`of`](Self::of) tells.
    #[must_use]
    pub fn after_write(self, offset: u64, data: &[u8]) -> Self {
        let written = |register: usize, value: u16| {
            let mut bytes = value.to_le_bytes();
            for (at, byte) in (register as u64..).zip(&mut bytes) {
                let within = at.checked_sub(offset).and_then(|n| usize::try_from(n).ok());
                if let Some(new) = within.and_then(|n| data.get(n)) {
                    *byte = *new;
                }
            }
            u16::from_le_bytes(bytes)
        };
        Self {
            command: written(COMMAND, self.command),
            power: self
                .power
                .map(|(register, value)| (register, written(register, value))),
        }
    }

    /// What it means to go from here to `next`, if anything.
    pub fn event(self, next: Self) -> Option<ReachEvent> {
        match (self.missing(), next.missing()) {
            (None, Some(cause)) => Some(ReachEvent::Revoked(cause)),
            (Some(_), None) => Some(ReachEvent::Restored),
            _ => None,
        }
    }
}
