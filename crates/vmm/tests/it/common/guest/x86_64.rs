// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! bzImages, and 64-bit code for their entry point.

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

/// The start of RAM, and of the code.
pub const RAM: u32 = 0;
pub const ENTRY: u32 = 0x10_0200;
/// Configuration space in memory.
pub const ECAM: u32 = 0xe000_0000;
/// Two places in PCI's window.
pub const PLACES: [u32; 2] = [0xc000_0000, 0xc800_0000];
/// The regions whose exits end a guest by [`Code::power_off`].
pub const POWER: &[&str] = &["power"];

/// The ports of PCI configuration space.
const CONFIG: (u16, u16) = (0xcf8, 0xcfc);

/// A valid header: the kernel needs RAM up to 24 MiB, and takes 2047 bytes of
/// parameters.
pub fn header() -> setup_header {
    setup_header {
        setup_sects: 1,
        jump: 0x66eb,
        header: 0x5372_6448,
        version: 0x20f,
        loadflags: LOADED_HIGH,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: 2047,
        pref_address: 16 << 20,
        init_size: 8 << 20,
        ..Default::default()
    }
}

/// A bzImage with code at its entry point.
pub fn image(mut header: setup_header, code: &[u8]) -> Vec<u8> {
    let mut kernel = vec![0; 0x200];
    kernel.extend(code);
    kernel.resize(kernel.len().next_multiple_of(16), 0);
    header.syssize = u32::try_from(kernel.len() / 16).unwrap();
    let mut bytes = vec![0; 1024];
    bytes[0x1f1..][..size_of::<setup_header>()].copy_from_slice(header.as_slice());
    bytes.extend(kernel);
    bytes
}

/// 64-bit code. Each method appends an action, and may use EAX and EDX.
#[derive(Clone, Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// The instructions so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first four bytes at the entry point.
    pub fn first_word(&self) -> u32 {
        u32::from_le_bytes(*self.0.first_chunk().unwrap())
    }

    /// Instructions as bytes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn number(self, opcode: u8, number: u32) -> Self {
        self.raw(&[opcode]).raw(&number.to_le_bytes())
    }

    /// Stores a byte to a port: `mov edx, port; mov eax, value; out dx, al`.
    pub fn out8(self, port: u16, value: u8) -> Self {
        let set = self.number(0xba, port.into()).number(0xb8, value.into());
        set.raw(&[0xee])
    }

    /// Stores four bytes to a port: the same with `out dx, eax`.
    pub fn out32(self, port: u16, value: u32) -> Self {
        let set = self.number(0xba, port.into()).number(0xb8, value);
        set.raw(&[0xef])
    }

    /// Loads four bytes from a port into EAX: `mov edx, port; in eax, dx`.
    pub fn in32(self, port: u16) -> Self {
        self.number(0xba, port.into()).raw(&[0xed])
    }

    /// Stores four bytes to memory: `mov edx, at; mov eax, value; mov [rdx], eax`.
    pub fn store32(self, at: u32, value: u32) -> Self {
        let set = self.number(0xba, at).number(0xb8, value);
        set.raw(&[0x89, 0x02])
    }

    /// Loads four bytes of memory into EAX: `mov edx, at; mov eax, [rdx]`.
    pub fn load32(self, at: u32) -> Self {
        self.number(0xba, at).raw(&[0x8b, 0x02])
    }

    /// Prints the four bytes of EAX, the lowest first: `mov edx, 0x3f8`, and four
    /// times `out dx, al; shr eax, 8`.
    pub fn print(self) -> Self {
        let each = [0xee, 0xc1, 0xe8, 8];
        self.number(0xba, 0x3f8).raw(&each.repeat(4))
    }

    /// Prints a text.
    pub fn say(self, text: &str) -> Self {
        let bytes = text.bytes();
        bytes.fold(self, |code, byte| code.out8(0x3f8, byte))
    }

    /// Enters S5.
    pub fn power_off(self) -> Self {
        self.out8(0x600, 0x34)
    }

    /// Sets the BIOS's flag for a warm reset: `mov word [0x472], 0x1234`.
    pub fn mark_panic(self) -> Self {
        self.raw(&[0x66, 0xc7, 0x04, 0x25, 0x72, 0x04, 0, 0, 0x34, 0x12])
    }

    /// Stops for ever: `cli; hlt; jmp $-1`.
    pub fn halt(self) -> Self {
        self.raw(&[0xfa, 0xf4, 0xeb, 0xfd])
    }

    /// Selects a register of PCI device 1.
    fn select(self, register: u32) -> Self {
        self.out32(CONFIG.0, 1 << 31 | 1 << 11 | register)
    }

    /// Stores to a register of PCI device 1, through ports.
    pub fn config_set(self, register: u32, value: u32) -> Self {
        self.select(register).out32(CONFIG.1, value)
    }

    /// Prints a register of PCI device 1, through ports.
    pub fn config_print(self, register: u32) -> Self {
        self.select(register).in32(CONFIG.1).print()
    }
}
