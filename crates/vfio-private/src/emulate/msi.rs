// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's MSI capability (PCI Express Base Specification, 7.7.1).

use super::registers::Registers;
use crate::bytes::le16;
use crate::config::ConfigError;

/// Bits of the control register: on, how many vectors there are and are used (as a power of two),
/// an upper half of the address, a mask for each vector.
const ENABLE: u16 = 1;
const CAPABLE_SHIFT: u32 = 1;
const USED_SHIFT: u32 = 4;
const USED: u16 = 0x70;
const IS_64BIT: u16 = 1 << 7;
const HAS_MASK: u16 = 1 << 8;

/// The end of the space that capabilities are in.
const END: usize = 0x100;

/// A message that is an interrupt, as a KVM route takes it (`struct kvm_irq_routing_msi`), or
/// `KVM_SIGNAL_MSI`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Message {
    /// The guest-physical address that it is written to.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// A guest's setup of MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MsiState {
    /// How many vectors it uses: 1, 2, 4, 8, 16 or 32.
    pub vectors: u8,
    /// Which vectors it has masked, the first in the lowest bit.
    pub mask: u32,
    /// The message of the first vector.
    message: Message,
}

impl MsiState {
    /// The message of a vector. Messages of several vectors differ in the lowest bits of their data.
    /// `None` for a vector that is not used.
    pub fn message(self, vector: u8) -> Option<Message> {
        (vector < self.vectors).then(|| Message {
            data: self.message.data & !(u32::from(self.vectors) - 1) | u32::from(vector),
            ..self.message
        })
    }

    /// Whether a vector is masked.
    pub fn is_masked(self, vector: u8) -> bool {
        self.mask.checked_shr(vector.into()).unwrap_or(0) & 1 != 0
    }
}

/// Where the registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Msi {
    control: usize,
    fixed: u16,
}

impl Msi {
    /// Emulates the capability at `offset`, switched off.
    pub(super) fn emulate(
        config: &[u8],
        offset: usize,
        registers: &mut Registers,
    ) -> Result<Self, ConfigError> {
        let fixed = le16(config, offset + 2).unwrap_or_default() & !(ENABLE | USED);
        let msi = Self {
            control: offset + 2,
            fixed,
        };
        let end = msi.mask().map_or(msi.data() + 2, |mask| mask + 8);
        if end > END {
            return Err(ConfigError::Truncated { offset, len: END });
        }
        let writable = (ENABLE | USED).to_le_bytes();
        registers.emulate(msi.control, &fixed.to_le_bytes(), &writable);
        let message = msi.control + 2;
        // Messages are aligned to four bytes.
        registers.emulate(message, &[0; 4], &[0xfc, 0xff, 0xff, 0xff]);
        registers.emulate(message + 4, &[0; 6][..msi.data() - message - 2], &[0xff; 6]);
        if let Some(mask) = msi.mask() {
            let vectors = 1_u32 << msi.capable();
            let bits = u32::MAX >> (32 - vectors);
            // Behind `data` are two reserved bytes, behind the mask what is pending.
            registers.emulate(mask - 2, &[0; 2], &[0; 2]);
            registers.emulate(mask, &[0; 4], &bits.to_le_bytes());
            registers.emulate(mask + 4, &[0; 4], &[0; 4]);
        }
        Ok(msi)
    }

    /// What the guest has made of it; `None` if it is off.
    pub(super) fn state(self, registers: &Registers) -> Option<MsiState> {
        let control = u16::from_le_bytes(registers.get(self.control));
        let used = u32::from((control & USED) >> USED_SHIFT).min(self.capable());
        let message = self.control + 2;
        let address = match self.fixed & IS_64BIT {
            0 => u32::from_le_bytes(registers.get(message)).into(),
            _ => u64::from_le_bytes(registers.get(message)),
        };
        let mask = self
            .mask()
            .map(|mask| u32::from_le_bytes(registers.get(mask)));
        (control & ENABLE != 0).then(|| MsiState {
            vectors: 1 << used,
            mask: mask.unwrap_or(0),
            message: Message {
                address,
                data: u16::from_le_bytes(registers.get(self.data())).into(),
            },
        })
    }

    /// How many vectors there are, as a power of two; two values are reserved.
    fn capable(self) -> u32 {
        u32::from(self.fixed >> CAPABLE_SHIFT & 7).min(5)
    }

    fn data(self) -> usize {
        match self.fixed & IS_64BIT {
            0 => self.control + 6,
            _ => self.control + 10,
        }
    }

    fn mask(self) -> Option<usize> {
        (self.fixed & HAS_MASK != 0).then(|| self.data() + 4)
    }
}
