// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices with state, behind trapped regions. They know nothing of guest
//! memory: what a write does beyond the device is returned as an effect.

use std::collections::BTreeMap;

use crate::devices::assigned::BarWindow;
use crate::machine::DeviceKind;

/// A device.
#[derive(Debug)]
pub enum Device {
    /// Like QEMU's `edu`: identification at 0, an inverter at 4, a factorial
    /// at 8. Registers are 4 bytes wide.
    Edu {
        /// What was written to the inverter.
        inverted: u32,
        /// The latest factorial.
        factorial: u32,
    },
    /// Registers that hold what is written: those bytes that are not zero.
    Registers(BTreeMap<u64, u8>),
    /// Counts reads.
    Counter(u64),
    /// A flash chip's command state.
    Flash(FlashMode),
    /// A part of a real device, but for its MSI-X structures: the second are
    /// their bytes.
    Assigned(BarWindow, BTreeMap<u64, u8>),
}

/// What a flash chip does with the next access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashMode {
    /// Reads show the memory.
    Array,
    /// Reads show the chip's identification.
    Identify,
    /// The next write goes to the memory.
    Program,
}

/// The command that asks a flash chip for its identification.
const IDENTIFY: u8 = 0x90;
/// The command that announces a byte to program.
const PROGRAM: u8 = 0x40;
/// The command that goes back to the memory.
const READ_ARRAY: u8 = 0xff;
/// The identification: a maker and a type.
const FLASH_ID: u64 = 0x8918;

/// What `edu` answers at offset 0.
pub const EDU_ID: u32 = 0x0100_00ed;

/// What a write does beyond the device itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A flash chip's reads become direct, or trap from now on.
    DirectReads(bool),
    /// The written bytes go to the region's memory; then reads are direct.
    Program,
}

impl Device {
    /// A device as it is after power on.
    pub fn new(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Edu => Self::Edu {
                inverted: 0,
                factorial: 0,
            },
            DeviceKind::Registers => Self::Registers(BTreeMap::new()),
            DeviceKind::Counter => Self::Counter(0),
        }
    }

    /// A flash chip after power on.
    pub fn flash() -> Self {
        Self::Flash(FlashMode::Array)
    }

    /// The guest reads `data.len()` bytes (1 to 8) at `offset`.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match self {
            Self::Edu {
                inverted,
                factorial,
            } => match offset {
                0 => EDU_ID.into(),
                4 => u64::from(*inverted),
                8 => u64::from(*factorial),
                _ => 0,
            },
            Self::Assigned(window, bytes) => {
                if window.is_msix(offset, data.len()) {
                    load(bytes, offset, data);
                } else if window.read(offset, data).is_err() {
                    // What does not answer reads as ones, as on a bus.
                    data.fill(0xff);
                }
                return;
            }
            Self::Registers(bytes) => return load(bytes, offset, data),
            Self::Counter(reads) => {
                *reads = reads.wrapping_add(1);
                *reads
            }
            Self::Flash(_) => FLASH_ID,
        };
        let value = value.to_le_bytes();
        let len = data.len().min(value.len());
        data[..len].copy_from_slice(&value[..len]);
    }

    /// The guest writes `data` (1 to 8 bytes) at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let mut value = [0; 8];
        let len = data.len().min(value.len());
        value[..len].copy_from_slice(&data[..len]);
        let [low @ .., _, _, _, _] = value;
        let low = u32::from_le_bytes(low);
        match self {
            Self::Edu {
                inverted,
                factorial,
            } => match offset {
                4 => *inverted = !low,
                8 => *factorial = (1..=low.min(34)).fold(1, u32::wrapping_mul),
                _ => {}
            },
            Self::Assigned(window, bytes) => match window.is_msix(offset, data.len()) {
                true => store(bytes, offset, data),
                // A store that nobody answers is lost, as on a bus.
                false => drop(window.write(offset, data)),
            },
            Self::Registers(bytes) => store(bytes, offset, data),
            Self::Counter(reads) => *reads = u64::from_le_bytes(value),
            Self::Flash(mode) => return flash_command(mode, value[0]),
        }
        Effect::None
    }
}

/// Loads from registers, of which those that are not zero are kept.
fn load(bytes: &BTreeMap<u64, u8>, offset: u64, data: &mut [u8]) {
    for (n, byte) in (0..).zip(data) {
        let at = offset.wrapping_add(n);
        *byte = bytes.get(&at).copied().unwrap_or(0);
    }
}

fn store(bytes: &mut BTreeMap<u64, u8>, offset: u64, data: &[u8]) {
    for (n, &byte) in (0..).zip(data) {
        let at = offset.wrapping_add(n);
        match byte {
            0 => bytes.remove(&at),
            _ => bytes.insert(at, byte),
        };
    }
}

fn flash_command(mode: &mut FlashMode, command: u8) -> Effect {
    let (next, effect) = match (*mode, command) {
        (FlashMode::Program, _) => (FlashMode::Array, Effect::Program),
        (_, IDENTIFY) => (FlashMode::Identify, Effect::DirectReads(false)),
        (_, PROGRAM) => (FlashMode::Program, Effect::DirectReads(false)),
        (_, READ_ARRAY) => (FlashMode::Array, Effect::DirectReads(true)),
        (mode, _) => (mode, Effect::None),
    };
    *mode = next;
    effect
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(device: &mut Device, offset: u64) -> u32 {
        let mut data = [0; 4];
        device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn edu_identifies_itself_inverts_and_computes_factorials() {
        let mut edu = Device::new(DeviceKind::Edu);
        assert_eq!(read(&mut edu, 0), EDU_ID);
        edu.write(4, &0x1234_5678_u32.to_le_bytes());
        assert_eq!(read(&mut edu, 4), !0x1234_5678);
        edu.write(8, &5_u32.to_le_bytes());
        assert_eq!(read(&mut edu, 8), 120);
    }

    #[test]
    fn a_factorial_that_a_hostile_guest_asks_for_ends() {
        let mut edu = Device::new(DeviceKind::Edu);
        // From 34! on the low 32 bits are all zero.
        edu.write(8, &u32::MAX.to_le_bytes());
        assert_eq!(read(&mut edu, 8), 0);
    }

    #[test]
    fn registers_hold_what_is_written_byte_by_byte() {
        let mut registers = Device::new(DeviceKind::Registers);
        registers.write(2, &[1, 2, 3, 4]);
        assert_eq!(read(&mut registers, 0), 0x0201_0000);
        registers.write(2, &[0]);
        assert_eq!(read(&mut registers, 2), 0x0403_0200);
    }

    #[test]
    fn a_flash_chip_traps_reads_until_it_is_back_in_array_mode() {
        let mut flash = Device::flash();
        assert_eq!(flash.write(0, &[IDENTIFY]), Effect::DirectReads(false));
        assert_eq!(read(&mut flash, 0), 0x8918);
        assert_eq!(flash.write(0, &[READ_ARRAY]), Effect::DirectReads(true));
        assert_eq!(flash.write(0, &[PROGRAM]), Effect::DirectReads(false));
        assert_eq!(flash.write(0, &[READ_ARRAY]), Effect::Program);
        assert_eq!(flash.write(0, &[0]), Effect::None);
    }
}
