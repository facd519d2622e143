// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's instructions. RAX counts, and RDI is the address of the memory.

use vmm::guest::x86_64::DONE_PORT;

/// Stores numbers up to the next multiple of 256. A number's place is the number
/// modulo `mask + 1`.
pub(super) fn code(mask: u32) -> Vec<u8> {
    let [a, b, c, d] = mask.to_le_bytes();
    [
        &[0x89, 0xc1][..],         // again: mov ecx, eax
        &[0x81, 0xe1, a, b, c, d], // and ecx, mask
        &[0x48, 0x89, 0x04, 0xcf], // mov [rdi + rcx * 8], rax
        &[0x48, 0xff, 0xc0],       // inc rax
        &[0x84, 0xc0],             // test al, al
        &[0x75, 0xed],             // jnz again
        &[0xe6, DONE_PORT],        // out DONE_PORT, al
        &[0xf4],                   // hlt
    ]
    .concat()
}
