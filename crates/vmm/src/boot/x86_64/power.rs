// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Power-off and reset.
//!
//! The ACPI tables name the registers here, and Linux uses these first. It resets
//! through the keyboard controller if the kernel has no ACPI or its parameters select
//! that (`acpi=off`, `reboot=k`). Without [`KeyboardReset`], such a kernel would jump to
//! a BIOS, which this machine does not have. Port 0xcf9 is only tried after that, and is
//! left out.

use std::fmt;
use std::sync::Arc;

use super::acpi::{RESET_VALUE, SLEEP_TYPE_OFF};
use super::layout::WARM_RESET;
use crate::boot::bus::TrapDevice;
use crate::boot::outcome::{End, Outcome};

/// The command port of the keyboard controller.
pub const KEYBOARD_COMMAND: u16 = 0x64;

/// The offsets of the sleep control and the reset register. Sleep status is between.
const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = 2;

const SLEEP_ENABLE: u8 = 1 << 5;
/// Pulses the reset line of the processor.
const PULSE_RESET: u8 = 0xfe;

/// Reads the BIOS's flag for a warm reset, or `None` if the VMM cannot read the guest's
/// memory.
pub type ResetFlag = Box<dyn Fn() -> Option<u16> + Send + Sync>;

/// The registers of [`super::layout::POWER_PORTS`].
pub struct Power {
    end: End,
    reset_flag: ResetFlag,
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").finish_non_exhaustive()
    }
}

impl Power {
    /// Registers that report to `end`.
    pub fn new(end: End, reset_flag: ResetFlag) -> Self {
        Self { end, reset_flag }
    }

    /// Ends the guest, which has reset the machine, with or without a register: a triple
    /// fault is a reset too.
    ///
    /// A warm reset means that the kernel panicked: Linux does cold resets otherwise, and
    /// the parameters `panic=-1 reboot=panic_warm` ask for a warm one at a panic.
    pub fn reset(&self) {
        self.end.report(match (self.reset_flag)() {
            Some(WARM_RESET) => Outcome::Panic,
            _ => Outcome::Reset,
        });
    }

    fn store(&self, register: u64, value: u8) {
        match register {
            SLEEP_CONTROL if value & SLEEP_ENABLE != 0 => {
                let sleep_type = value >> 2 & 7;
                if sleep_type == SLEEP_TYPE_OFF {
                    self.end.report(Outcome::PowerOff);
                }
            }
            RESET if value == RESET_VALUE => self.reset(),
            _ => {}
        }
    }
}

impl TrapDevice for Power {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        // In sleep status, that the machine has not just woken up.
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (register, value) in (offset..=RESET).zip(data) {
            self.store(register, *value);
        }
    }
}

/// A keyboard controller that can only reset the machine, at [`KEYBOARD_COMMAND`]. Its
/// status reads as ones, so that drivers find no keyboard.
#[derive(Debug)]
pub struct KeyboardReset(pub Arc<Power>);

impl TrapDevice for KeyboardReset {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 && data.first() == Some(&PULSE_RESET) {
            self.0.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEP_STATUS: u64 = 1;

    /// What the guest ends with, if it ends, after stores to a device.
    fn outcome(flag: Option<u16>, stores: impl FnOnce(Arc<Power>)) -> Option<Outcome> {
        let end = End::default();
        stores(Arc::new(Power::new(end.clone(), Box::new(move || flag))));
        end.is_over().then(|| end.wait())
    }

    #[test]
    fn only_entering_s5_switches_off() {
        let store = |value| outcome(None, |power| power.write(SLEEP_CONTROL, &[value]));
        for value in 0..=u8::MAX {
            let off = value & 0b0011_1100 == 0b0011_0100;
            assert_eq!(store(value), off.then_some(Outcome::PowerOff), "{value:#x}");
        }
    }

    #[test]
    fn a_warm_reset_is_a_panic() {
        let reset = |flag| outcome(flag, |power| power.write(RESET, &[RESET_VALUE]));
        assert_eq!(reset(Some(WARM_RESET)), Some(Outcome::Panic));
        assert_eq!(reset(Some(0)), Some(Outcome::Reset));
        assert_eq!(reset(None), Some(Outcome::Reset));
    }

    #[test]
    fn the_keyboard_controller_resets_too() {
        let store = |value| {
            let flag = Some(WARM_RESET);
            outcome(flag, |power| KeyboardReset(power).write(0, &[value]))
        };
        assert_eq!(store(PULSE_RESET), Some(Outcome::Panic));
        assert_eq!(store(0xaa), None);
    }

    #[test]
    fn other_accesses_do_nothing() {
        let end = outcome(Some(WARM_RESET), |power| {
            power.write(RESET, &[0]);
            power.write(SLEEP_STATUS, &[0x80]);
            power.write(u64::MAX, &[RESET_VALUE; 8]);
            let mut status = [0xff];
            power.read(SLEEP_STATUS, &mut status);
            assert_eq!(status, [0]);
        });
        assert_eq!(end, None);
    }
}
