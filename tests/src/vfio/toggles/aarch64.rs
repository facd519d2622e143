// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's instructions. The register of the value counts.

use vmm::guest::aarch64::asm::{self, X};
use vmm::guest::aarch64::{ADDRESS, DONE, VALUE};

/// Stores numbers up to the next multiple of 256. A number's place is the number
/// modulo `mask + 1`.
pub(super) fn code(mask: u32) -> Vec<u8> {
    let (place, rest, places) = (X(3), X(4), X(5));
    let start = asm::load_immediate(places, mask.into());
    let again = [
        asm::and(place, VALUE, places),
        asm::lsl_immediate(place, place, 3),
        asm::add(place, ADDRESS, place),
        asm::str(8, VALUE, place, 0),
        asm::add_immediate(VALUE, VALUE, 1),
        asm::lsl_immediate(rest, VALUE, 56),
        asm::cbnz(rest, -6),
        asm::brk(DONE),
    ];
    asm::bytes(start.into_iter().chain(again))
}
