// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Images, and code for their entry point, which starts at EL1 without translation.

use linux_loader::loader::pe::arm64_image_header;
use vm_memory::ByteValued;
use vmm::boot::native::layout;

/// The start of RAM, and of the code.
pub const RAM: u32 = 0x4000_0000;
pub const ENTRY: u32 = 0x4020_0000;
/// Configuration space in memory.
pub const ECAM: u32 = 0x3000_0000;
/// Two places in PCI's window.
pub const PLACES: [u32; 2] = [0x1000_0000, 0x1800_0000];
/// The regions whose exits end a guest by [`Code::power_off`]: KVM answers PSCI.
pub const POWER: &[&str] = &[];

/// Functions of PSCI (Arm DEN 0022, 5.1).
pub const SYSTEM_OFF: u32 = 0x8400_0008;
pub const SYSTEM_RESET: u32 = 0x8400_0009;
pub const SYSTEM_RESET2: u32 = 0x8400_0012;
pub const CPU_ON: u32 = 0xc400_0003;

/// A valid header: the kernel needs 8 MiB, and the first of its instructions skips the
/// header.
pub fn header() -> arm64_image_header {
    arm64_image_header {
        // b .+64
        code0: 0x1400_0010,
        image_size: 8 << 20,
        magic: 0x644d_5241,
        ..Default::default()
    }
}

/// An Image with code behind its header.
pub fn image(header: arm64_image_header, code: &[u8]) -> Vec<u8> {
    [header.as_slice(), code].concat()
}

/// Code. Each method appends an action, and may use registers below X8.
#[derive(Clone, Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// The instructions so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first four bytes at the entry point, which are the header's.
    pub fn first_word(&self) -> u32 {
        header().code0
    }

    /// Instructions.
    pub fn raw(mut self, instructions: &[u32]) -> Self {
        let bytes = instructions.iter().flat_map(|word| word.to_le_bytes());
        self.0.extend(bytes);
        self
    }

    /// The address of the next instruction.
    pub fn here(&self) -> u32 {
        ENTRY + 64 + u32::try_from(self.0.len()).unwrap()
    }

    /// `movz xN, #low; movk xN, #high, lsl #16`.
    pub fn set(self, register: u32, value: u32) -> Self {
        let (low, high) = (value & 0xffff, value >> 16);
        self.raw(&[
            0xd280_0000 | low << 5 | register,
            0xf2a0_0000 | high << 5 | register,
        ])
    }

    /// Stores four bytes to memory: `str w0, [x1]`.
    pub fn store32(self, at: u32, value: u32) -> Self {
        self.set(0, value).set(1, at).raw(&[0xb900_0020])
    }

    /// Loads four bytes of memory into W0: `ldr w0, [x1]`.
    pub fn load32(self, at: u32) -> Self {
        self.set(1, at).raw(&[0xb940_0020])
    }

    /// Prints the four bytes of W0, the lowest first: four times `strb w0, [x1];
    /// lsr w0, w0, #8`.
    pub fn print(self) -> Self {
        let each = [0x3900_0020, 0x5308_7c00];
        self.set(1, serial()).raw(&each.repeat(4))
    }

    /// Prints a text.
    pub fn say(self, text: &str) -> Self {
        let print = |code: Self, byte: u8| code.set(0, byte.into()).raw(&[0x3900_0020]);
        text.bytes().fold(self.set(1, serial()), print)
    }

    /// Calls a function of PSCI: `hvc #0`.
    pub fn call(self, function: u32, arguments: [u32; 3]) -> Self {
        let numbered = (1..).zip(arguments);
        let set = numbered.fold(self.set(0, function), |code, (register, value)| {
            code.set(register, value)
        });
        set.raw(&[0xd400_0002])
    }

    /// Switches the machine off.
    pub fn power_off(self) -> Self {
        self.call(SYSTEM_OFF, [0; 3])
    }

    /// Stops for ever: `wfi; b .-4`.
    pub fn halt(self) -> Self {
        self.raw(&[0xd503_207f, 0x17ff_ffff])
    }

    /// Stores to a register of PCI device 1.
    pub fn config_set(self, register: u32, value: u32) -> Self {
        self.store32(ECAM + (1 << 15) + register, value)
    }

    /// Prints a register of PCI device 1.
    pub fn config_print(self, register: u32) -> Self {
        self.load32(ECAM + (1 << 15) + register).print()
    }
}

fn serial() -> u32 {
    u32::try_from(layout::SERIAL.0).unwrap()
}
