// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest on aarch64.

use vmm::guest::aarch64::Code;
use vmm::guest::aarch64::translation::Granule;
use vmm::guest::stub::{Stub, compile};
use vmm::machine::{Access, AccessKind};

use super::{Processor, read, word};

/// A processor at EL1 with TCR_EL1 as the guest's.
struct El1(Granule);

const BOTH: [El1; 2] = [El1(Granule::Kib4), El1(Granule::Kib16)];

impl Processor for El1 {
    type Code = Code;

    fn code(&self) -> Code {
        Code { granule: self.0 }
    }

    /// The walk of the Arm ARM, D8.2, without hierarchical attributes.
    fn translate(&self, stub: &Stub, address: u64) -> Option<u64> {
        let tcr = self.0.tcr(48);
        let page_bits = match tcr >> 14 & 3 {
            0b00 => 12,
            0b10 => 14,
            other => panic!("TG0 is {other:#b}"),
        };
        let input_bits = 64 - (tcr & 0x3f);
        if address >> input_bits != 0 {
            return None;
        }
        let index_bits = page_bits - 3;
        // The uppermost table is the highest whose index is not empty.
        let levels = (input_bits - page_bits).div_ceil(index_bits);
        let mut table = stub.page_tables;
        for level in (0..levels).rev() {
            let shift = page_bits + level * index_bits;
            let index = address >> shift & ((1 << index_bits) - 1);
            let entry = word(stub, table + index * 8);
            let output = entry & 0xffff_ffff_f000;
            match entry & 3 {
                0b11 if level > 0 => {
                    assert_eq!(output % (1 << page_bits), 0);
                    table = output;
                }
                // A block, or what would be one in the lowest table: a page.
                0b01 if level == 1 => {
                    assert_eq!(output % (1 << shift), 0);
                    // Accessed, inner shareable, attribute 0, EL1 may write.
                    assert_eq!(entry & 0xffc, 1 << 10 | 3 << 8);
                    return Some(output + address % (1 << shift));
                }
                0b00 | 0b10 => return None,
                other => panic!("{other:#b} in level {level}"),
            }
        }
        None
    }

    fn address_of(&self, code: &[u8]) -> u64 {
        let words = code.chunks_exact(4);
        let words = words.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
        let mut address = 0;
        for (half, word) in (0_u32..4).zip(words) {
            // mov x1 or movk x1, of this half-word.
            let wide = if half == 0 { 0xd280_0001 } else { 0xf280_0001 };
            assert_eq!(word & !0x1f_ffe0, wide | half << 21);
            address |= u64::from(word >> 5 & 0xffff) << (16 * half);
        }
        address
    }
}

#[test]
fn every_access_is_at_its_guest_physical_address() {
    for processor in BOTH {
        super::every_access_is_at_its_guest_physical_address(&processor);
    }
}

#[test]
fn a_stub_fits_in_the_size_that_was_asked_for() {
    for processor in BOTH {
        super::a_stub_fits_in_the_size_that_was_asked_for(&processor);
    }
}

#[test]
fn a_poke_fits_and_reaches_its_windows() {
    for processor in BOTH {
        super::a_poke_fits_and_reaches_its_windows(&processor);
    }
}

#[test]
fn an_access_is_two_constants_the_instruction_and_a_breakpoint() {
    let store = Access {
        kind: AccessKind::Write(0x1122_3344_5566_7788),
        ..read(0x1000, 2)
    };
    for El1(granule) in BOTH {
        let base = 0x400_0000;
        let stub = compile(&Code { granule }, &[store, read(0x2008, 8)], base);
        let shown = granule.block();
        let words: Vec<u32> = stub
            .image
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let tables = usize::try_from(2 * granule.bytes() / 4).unwrap();
        let (vectors, code) = words[tables..].split_at(0x800 / 4);
        // One `brk #1` in each of 16 vectors.
        for (number, &word) in vectors.iter().enumerate() {
            let expected = if number % 0x20 == 0 { 0xd420_0020 } else { 0 };
            assert_eq!(word, expected, "vector word {number}");
        }
        // As the GNU assembler encodes them.
        let expected = [
            0xd282_0001, // mov x1, #0x1000
            0xf2a0_0001, // movk x1, #0, lsl #16
            0xf2c0_0001, // movk x1, #0, lsl #32
            0xf2e0_0001, // movk x1, #0, lsl #48
            0xd28e_f100, // mov x0, #0x7788
            0xf2aa_acc0, // movk x0, #0x5566, lsl #16
            0xf2c6_6880, // movk x0, #0x3344, lsl #32
            0xf2e2_2440, // movk x0, #0x1122, lsl #48
            0x7900_0020, // strh w0, [x1]
            0xd420_0000, // brk #0
            0xd284_0101, // mov x1, #0x2008
            0xf2a0_0001,
            0xf2c0_0001,
            0xf2e0_0001,
            0xd280_0000, // mov x0, #0
            0xf2a0_0000,
            0xf2c0_0000,
            0xf2e0_0000,
            0xf940_0020, // ldr x0, [x1]
            0xd420_0000, // brk #0
            0xd420_0000, // brk #0
        ];
        assert_eq!(code, expected, "{granule:?}");
        assert_eq!(stub.exceptions, Some(shown + 2 * granule.bytes()));
        assert_eq!(stub.exceptions.unwrap() % 0x800, 0);
    }
}
