// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kernel whose first instructions write to the serial port and switch the
//! machine off.

use vmm::boot::x86_64::acpi::SLEEP_OFF;
use vmm::boot::x86_64::layout::{COM1, KERNEL, POWER_PORTS};

/// Where the part starts that is loaded: after the boot sector and one more.
pub const SETUP: usize = 1024;
/// The distance of the 64-bit entry point from there.
pub const ENTRY: usize = 0x200;

/// A bzImage of this many bytes, by the kernel's
/// Documentation/arch/x86/boot.rst.
pub fn image(size: usize) -> Vec<u8> {
    // All of it is read and copied, so none of it is a hole.
    let mut image = vec![0x5a; size];
    image[..SETUP].fill(0);
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let words = u32::try_from((size - SETUP) / 16).unwrap_or_default();
    put(0x1f1, &[1]); // setup_sects
    put(0x1f4, &words.to_le_bytes()); // syssize
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]); // jump: the header ends at 0x268
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes()); // version
    put(0x211, &[1]); // loadflags: loaded high
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(0x234, &[1]); // relocatable_kernel
    put(0x236, &1_u16.to_le_bytes()); // xloadflags: 64-bit entry point
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(0x258, &KERNEL.to_le_bytes()); // pref_address
    put(0x260, &(words * 16).to_le_bytes()); // init_size
    let [com1, power] = [COM1, POWER_PORTS.0].map(u16::to_le_bytes);
    // mov dx, PORT; mov al, VALUE; out dx, al
    let out = |port: [u8; 2], value| [0x66, 0xba, port[0], port[1], 0xb0, value, 0xee];
    let code = [out(com1, b'\n'), out(power, SLEEP_OFF)];
    put(SETUP + ENTRY, code.as_flattened());
    image
}
