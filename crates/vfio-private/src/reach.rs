// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a device answers at its memory BARs, and what a write to its configuration space does to
//! that.
//!
//! Linux takes mappings and dma-bufs of a device away while memory decoding is off or the device
//! sleeps in D3hot, and during a reset (`drivers/vfio/pci/vfio_pci_core.c`, `vfio_pci_config.c`).
//! What a guest was given must be taken back *before* that: a device's TDISP interface must be
//! unbound first, and accepted private MMIO be revoked. So the question is asked of a write that was
//! not made yet.

use crate::bytes::{le16, patched, written};
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

/// The capability of PCI Express, where in it the device says whether it knows function level
/// resets, with the bit, and the byte and bit that start one (7.5.3).
const EXPRESS: u8 = 0x10;
const EXPRESS_CAPABILITIES: usize = 4;
const EXPRESS_HAS_RESET: (usize, u8) = (3, 1 << 4);
const EXPRESS_RESET: (usize, u8) = (9, 1 << 7);

/// The same in the capability of advanced features, which devices without PCI Express have. Linux
/// wants the bit for pending transactions beside the one for resets.
const ADVANCED: u8 = 0x13;
const ADVANCED_HAS_RESET: (usize, u8) = (3, 1 << 1 | 1);
const ADVANCED_RESET: (usize, u8) = (4, 1);

/// Why a device does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Memory decoding is off.
    DecodeOff,
    /// The device sleeps, in D3hot.
    Asleep,
    /// It is being reset. This is over when the write or the ioctl that does it is.
    Reset,
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
    /// The bytes and bits that start a function level reset.
    resets: [Option<(usize, u8)>; 2],
}

/// What a write or a reset does, in the order in which it has to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReachChange {
    /// What comes first.
    pub before: Option<ReachEvent>,
    /// What comes once the write or the reset is made.
    pub after: Option<ReachEvent>,
    /// How it is then.
    pub next: Reach,
}

impl Reach {
    /// As configuration space says it is.
    ///
    /// # Errors
    ///
    /// Those of [`ConfigSpace::new`] and [`ConfigSpace::capabilities`].
    pub fn of(config: &[u8]) -> Result<Self, ConfigError> {
        let chain = ConfigSpace::new(config)?.capabilities()?;
        let find = |id| {
            let found = chain.iter().find(|capability| capability.id == id);
            found.map(|capability| usize::from(capability.offset))
        };
        let power = find(POWER).map(|at| at + POWER_CONTROL);
        let reset = |id, within: usize, has: (usize, u8), starts: (usize, u8)| {
            let at = find(id)?;
            let able = config.get(at + within + has.0)? & has.1 == has.1;
            able.then_some((at + starts.0, starts.1))
        };
        let register = |offset| le16(config, offset).unwrap_or_default();
        Ok(Self {
            command: register(COMMAND),
            power: power.map(|offset| (offset, register(offset))),
            resets: [
                reset(
                    EXPRESS,
                    EXPRESS_CAPABILITIES,
                    EXPRESS_HAS_RESET,
                    EXPRESS_RESET,
                ),
                reset(ADVANCED, 0, ADVANCED_HAS_RESET, ADVANCED_RESET),
            ],
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
            u16::from_le_bytes(patched(value.to_le_bytes(), register, offset, data))
        };
        Self {
            command: written(COMMAND, self.command),
            power: self
                .power
                .map(|(register, value)| (register, written(register, value))),
            resets: self.resets,
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

    /// Whether a write starts a function level reset. Linux carries it out within the write: it wakes
    /// the device, and restores configuration space.
    pub fn is_reset(self, offset: u64, data: &[u8]) -> bool {
        let starts = |(at, bit): &(usize, u8)| {
            written(*at as u64, offset, data).is_some_and(|byte| byte & bit != 0)
        };
        self.resets.iter().flatten().any(starts)
    }

    /// All that a write comes to: what to do before it is made, and what after.
    pub fn on_write(self, offset: u64, data: &[u8]) -> ReachChange {
        let next = self.after_write(offset, data);
        match self.is_reset(offset, data) {
            true => self.through_reset(next),
            false => match self.event(next) {
                Some(ReachEvent::Restored) => ReachChange {
                    before: None,
                    after: Some(ReachEvent::Restored),
                    next,
                },
                before => ReachChange {
                    before,
                    after: None,
                    next,
                },
            },
        }
    }

    /// What a reset by the VMM comes to (`VFIO_DEVICE_RESET`), which Linux carries out like one by
    /// the guest: it wakes the device, and restores configuration space.
    pub fn on_reset(self) -> ReachChange {
        self.through_reset(self)
    }

    fn through_reset(self, next: Self) -> ReachChange {
        let awake = |(register, control): (usize, u16)| (register, control & !POWER_STATE);
        let next = Self {
            power: next.power.map(awake),
            ..next
        };
        let when = |has: Option<Cause>, event| has.is_none().then_some(event);
        ReachChange {
            before: when(self.missing(), ReachEvent::Revoked(Cause::Reset)),
            after: when(next.missing(), ReachEvent::Restored),
            next,
        }
    }
}
