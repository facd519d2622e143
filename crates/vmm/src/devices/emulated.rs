// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices with state, behind trapped regions. They do not access guest memory:
//! a write returns what it does beyond the device as an [`Effect`].

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
    /// A part of a real device, and the bytes of its MSI-X structures, which are
    /// emulated.
    Assigned(BarWindow, BTreeMap<u64, u8>),
}

/// The mode of a flash chip, which decides what the next access does.
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
/// The command that returns to the memory.
const READ_ARRAY: u8 = 0xff;
/// The identification: a maker and a type.
const FLASH_ID: u64 = 0x8918;

/// The value of `edu` at offset 0.
pub const EDU_ID: u32 = 0x0100_00ed;

/// What a write does outside the device.
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
    /// A device in its state after power on.
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
                    // A device that does not answer reads as ones, as on a bus.
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
                // A store to a device that does not answer is lost, as on a bus.
                false => drop(window.write(offset, data)),
            },
            Self::Registers(bytes) => store(bytes, offset, data),
            Self::Counter(reads) => *reads = u64::from_le_bytes(value),
            Self::Flash(mode) => return flash_command(mode, value[0]),
        }
        Effect::None
    }
}

/// Loads from registers; bytes that are missing are zero.
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
