// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest on x86-64.

use vmm::guest::stub::{Stub, compile};
use vmm::guest::x86_64::Code;
use vmm::machine::{Access, AccessKind};

use super::{Processor, read, word};

struct LongMode;

impl Processor for LongMode {
    type Code = Code;

    fn code(&self) -> Code {
        Code
    }

    fn translate(&self, stub: &Stub, address: u64) -> Option<u64> {
        let mut table = stub.page_tables;
        for level in [39, 30] {
            let entry = word(stub, table + (address >> level) % 512 * 8);
            table = (entry & 1 != 0).then_some(entry & !0xfff)?;
        }
        let entry = word(stub, table + (address >> 21) % 512 * 8);
        (entry & 0x81 == 0x81).then_some((entry & !0x1f_ffff) + address % 0x20_0000)
    }

    fn address_of(&self, code: &[u8]) -> u64 {
        assert_eq!(code[..2], [0x48, 0xbf]);
        u64::from_le_bytes(code[2..10].try_into().unwrap())
    }
}

#[test]
fn every_access_is_at_its_guest_physical_address() {
    super::every_access_is_at_its_guest_physical_address(&LongMode);
}

#[test]
fn a_stub_fits_in_the_size_that_was_asked_for() {
    super::a_stub_fits_in_the_size_that_was_asked_for(&LongMode);
}

#[test]
fn a_poke_fits_and_reaches_its_windows() {
    super::a_poke_fits_and_reaches_its_windows(&LongMode);
}

#[test]
fn an_access_is_three_instructions() {
    let store = Access {
        kind: AccessKind::Write(0x1122_3344_5566_7788),
        ..read(0x1000, 2)
    };
    let stub = compile(&Code, &[store, read(0x2008, 8)], 0x20_0000);
    let expected = [
        &[0x48, 0xbf, 0, 0x10, 0, 0, 0, 0, 0, 0][..], // mov rdi, 0x1000
        &[0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11], // mov rax, …
        &[0x66, 0x89, 0x07],                          // mov [rdi], ax
        &[0xe6, 0x50],                                // out 0x50, al
        &[0x48, 0xbf, 8, 0x20, 0, 0, 0, 0, 0, 0],     // mov rdi, 0x2008
        &[0x31, 0xc0],                                // xor eax, eax
        &[0x48, 0x8b, 0x07],                          // mov rax, [rdi]
        &[0xe6, 0x50],                                // out 0x50, al
        &[0xf4],                                      // hlt
    ]
    .concat();
    // Behind three page tables.
    assert_eq!(stub.image[3 * 4096..], expected);
    assert_eq!(stub.exceptions, None);
}
