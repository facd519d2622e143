// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tracks whether a device answers at its memory BARs, and how writes to configuration space change
//! that.
//!
//! Linux revokes mappings and dma-bufs of a device while memory decoding is off or the device sleeps
//! in D3hot, and during a reset (`drivers/vfio/pci/vfio_pci_core.c`, `vfio_pci_config.c`). The guest
//! must lose the memory *before* that: first the device's TDISP interface is unbound, and accepted
//! private MMIO is revoked. So a write is examined before it is made.

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

/// Why a device does not answer at its memory BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Memory decoding is off.
    DecodeOff,
    /// The device sleeps, in D3hot.
    Asleep,
    /// It is being reset. The reset is over when the write or the ioctl returns.
    Reset,
}

/// A change for users of the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a VMM has to take the memory from the guest, or give it back.
pub enum ReachEvent {
    /// The memory is about to become inaccessible. Revoke, hide and unbind before going on.
    Revoked(Cause),
    /// The memory is accessible again once the write is made. What the guest had accepted stays
    /// revoked.
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

/// The effects of a write or a reset, in the order in which the VMM carries them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the VMM acts before and after the write"]
#[non_exhaustive]
pub struct ReachChange {
    /// To do before the write or the reset is made.
    pub before: Option<ReachEvent>,
    /// To do after the write or the reset was made.
    pub after: Option<ReachEvent>,
    /// The state afterwards.
    pub next: Reach,
}

impl Reach {
    /// The state by a device's configuration space.
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

    /// The state after `data` is written to configuration space at `offset`.
    ///
    /// A device may ignore the write, for example if it does not have D3hot. Its memory then stays
    /// accessible, and the guest lost it for nothing. [`of`](Self::of) determines the state again.
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

    /// The event of a change from this state to `next`, if any.
    pub fn event(self, next: Self) -> Option<ReachEvent> {
        match (self.missing(), next.missing()) {
            (None, Some(cause)) => Some(ReachEvent::Revoked(cause)),
            (Some(_), None) => Some(ReachEvent::Restored),
            _ => None,
        }
    }

    /// Whether a write starts a function level reset. Linux carries the reset out within the write. It
    /// wakes the device and restores configuration space.
    pub fn is_reset(self, offset: u64, data: &[u8]) -> bool {
        let starts = |(at, bit): &(usize, u8)| {
            written(*at as u64, offset, data).is_some_and(|byte| byte & bit != 0)
        };
        self.resets.iter().flatten().any(starts)
    }

    /// All effects of a write: what to do before it is made, and what after.
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

    /// All effects of a reset by the VMM (`VFIO_DEVICE_RESET`). Linux carries it out like one by the
    /// guest: it wakes the device and restores configuration space.
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
