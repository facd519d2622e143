// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program of each vCPU. It loads, stores and fetches instructions all over
//! memory, and checks each answer itself.

use crate::vcpu::{Op, Reg};

/// The number of pages of the changing memory, a power of two.
pub(super) const PAGES: u64 = 16;

/// The number of possible answers at a page, from [`NOTHING`] on.
pub(super) const MOST_THINGS: u64 = 61;
/// The answer where there is no region.
pub(super) const NOTHING: u64 = 0;
/// Instructions can be fetched from the page.
pub(super) const FETCH: u64 = 1 << FETCH_BIT;
const FETCH_BIT: u8 = 61;
/// A store to the page may have no effect.
pub(super) const NO_STORE: u64 = 1 << NO_STORE_BIT;
const NO_STORE_BIT: u8 = 63;

/// The offset in a page of the words that vCPUs store to, one for each.
pub(super) const WORDS: u16 = 0x40;
/// The offset in a page of a function that returns the page's identity.
pub(super) const FUNCTION: u16 = 0x100;

/// The words of a vCPU's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The number of accesses that the vCPU has begun.
    Begun,
    Loads,
    Stores,
    Fetches,
    /// The number of loads and fetches during which more than one commit began
    /// or ended.
    Unchecked,
    Number,
    /// The first wrong answer: the page, the answer, the allowed answers, and
    /// the commit's number before and after the access.
    WrongPage,
    WrongThing,
    WrongMay,
    WrongBefore,
    WrongAfter,
}

impl Word {
    /// The offset in the line.
    pub(super) const fn offset(self) -> u16 {
        8 * self as u16
    }
}

/// The vCPU's line.
pub(super) const LINE: Reg = Reg::R0;
/// The address of the number of commits begun and ended, which the allowed answers
/// of each page follow, one bit each.
pub(super) const CONTROL: Reg = Reg::R1;
/// The address of the memory.
pub(super) const MEMORY: Reg = Reg::R2;
/// A random number, which starts with the vCPU's number.
pub(super) const RANDOM: Reg = Reg::R3;
/// The linear congruential generator's constants.
const FACTOR: Reg = Reg::R4;
const INCREMENT: Reg = Reg::R5;
/// The number and the address of the page.
const PAGE: Reg = Reg::R6;
const ADDRESS: Reg = Reg::R7;
const KIND: Reg = Reg::R8;
/// The number of commits before the access.
const NUMBER: Reg = Reg::R9;
/// The allowed answers.
const MAY: Reg = Reg::R10;
const ANSWER: Reg = Reg::R11;
/// The address at which the access counts, or the word loaded after a store.
const OTHER: Reg = Reg::R12;
const SCRATCH: Reg = Reg::R13;

/// The program, for pages of a size that is a power of two. It stores to `wrong`
/// when it has found a wrong answer.
///
/// The allowed answers are read before and after the access. They grow before a
/// commit begins, and shrink after it has returned.
pub(super) fn program(page_size: u64, wrong: u64) -> Vec<Op> {
    let page_shift = u8::try_from(page_size.trailing_zeros()).expect("below 64");
    [
        // Knuth's MMIX.
        &[
            Op::Constant(FACTOR, 6_364_136_223_846_793_005),
            Op::Constant(INCREMENT, 1_442_695_040_888_963_407),
        ][..],
        &choose(page_shift),
        &load(),
        &store(),
        &fetch(),
        &report(wrong),
    ]
    .concat()
}

/// The function that returns `thing`.
pub(super) fn function(thing: u64) -> [Op; 2] {
    [Op::Constant(ANSWER, thing), Op::Return]
}

/// Counts at an address in a register.
fn count_at(address: Reg, offset: u16) -> [Op; 3] {
    [
        Op::Load(SCRATCH, address, offset),
        Op::Increase(SCRATCH, 1),
        Op::Store(SCRATCH, address, offset),
    ]
}

/// Loads the allowed answers at the page.
fn load_may(to: Reg) -> [Op; 4] {
    [
        Op::Copy(SCRATCH, PAGE),
        Op::ShiftLeft(SCRATCH, 3),
        Op::Add(SCRATCH, CONTROL),
        Op::Load(to, SCRATCH, 8),
    ]
}

/// Begins an access to a random page.
fn choose(page_shift: u8) -> Vec<Op> {
    [
        &[Op::Label("next")][..],
        &count_at(LINE, Word::Begun.offset()),
        &[
            // A commit that removes a page waits for this count: who has counted
            // must see that it forbids fetches from the page.
            Op::Fence,
            Op::Multiply(RANDOM, FACTOR),
            Op::Add(RANDOM, INCREMENT),
            Op::Copy(PAGE, RANDOM),
            Op::ShiftRight(PAGE, 40),
            Op::Constant(SCRATCH, PAGES - 1),
            Op::And(PAGE, SCRATCH),
            Op::Copy(ADDRESS, PAGE),
            Op::ShiftLeft(ADDRESS, page_shift),
            Op::Add(ADDRESS, MEMORY),
            Op::Copy(KIND, RANDOM),
            Op::ShiftRight(KIND, 60),
            Op::Load(NUMBER, CONTROL, 0),
            Op::FenceLoads,
        ],
        &load_may(MAY),
        &[
            Op::FenceLoads,
            Op::JumpIfBit(MAY, FETCH_BIT, "access"),
            // An exit takes as long as very many other accesses.
            Op::Copy(SCRATCH, RANDOM),
            Op::ShiftRight(SCRATCH, 50),
            Op::Constant(ANSWER, 255),
            Op::And(SCRATCH, ANSWER),
            Op::Constant(ANSWER, 0),
            Op::JumpUnlessEqual(SCRATCH, ANSWER, "next"),
            Op::Label("access"),
            Op::Constant(SCRATCH, 12),
            Op::JumpUnlessBelow(KIND, SCRATCH, "fetch"),
            Op::Constant(SCRATCH, 7),
            Op::JumpUnlessBelow(KIND, SCRATCH, "store"),
        ],
    ]
    .concat()
}

/// Loads, and checks what was loaded or returned.
fn load() -> Vec<Op> {
    [
        &[
            Op::Label("load"),
            Op::Load(ANSWER, ADDRESS, 0),
            Op::Copy(OTHER, LINE),
            Op::Increase(OTHER, Word::Loads.offset()),
            Op::Label("check"),
            Op::FenceLoads,
        ][..],
        &load_may(SCRATCH),
        &[
            Op::Or(MAY, SCRATCH),
            Op::FenceLoads,
            Op::Load(SCRATCH, CONTROL, 0),
            Op::Subtract(SCRATCH, NUMBER),
            Op::Constant(KIND, 2),
            Op::JumpUnlessBelow(SCRATCH, KIND, "unchecked"),
            Op::Constant(SCRATCH, MOST_THINGS),
            Op::JumpUnlessBelow(ANSWER, SCRATCH, "wrong"),
            Op::JumpUnlessBitAt(MAY, ANSWER, "wrong"),
        ],
        &count_at(OTHER, 0),
        &[Op::Jump("next"), Op::Label("unchecked")],
        &count_at(LINE, Word::Unchecked.offset()),
        &[Op::Jump("next")],
    ]
    .concat()
}

/// Stores a token that no one else stores, and loads it again.
fn store() -> Vec<Op> {
    [
        &[
            Op::Label("store"),
            Op::Load(KIND, LINE, Word::Number.offset()),
            Op::Copy(ANSWER, NUMBER),
            Op::ShiftLeft(ANSWER, 16),
            Op::Copy(SCRATCH, PAGE),
            Op::ShiftLeft(SCRATCH, 8),
            Op::Or(ANSWER, SCRATCH),
            Op::Or(ANSWER, KIND),
            Op::ShiftLeft(KIND, 3),
            Op::Add(ADDRESS, KIND),
            Op::Store(ANSWER, ADDRESS, WORDS),
            Op::Load(OTHER, ADDRESS, WORDS),
        ][..],
        &count_at(LINE, Word::Stores.offset()),
        &[
            // A commit was under way.
            Op::JumpIfBit(NUMBER, 0, "next"),
            Op::JumpIfBit(MAY, NO_STORE_BIT, "next"),
            Op::FenceLoads,
            Op::Load(SCRATCH, CONTROL, 0),
            Op::JumpUnlessEqual(SCRATCH, NUMBER, "next"),
            Op::JumpIfEqual(OTHER, ANSWER, "next"),
            Op::Copy(ANSWER, OTHER),
            Op::Jump("wrong"),
        ],
    ]
    .concat()
}

/// Calls the page's function, if there is one.
fn fetch() -> Vec<Op> {
    [
        Op::Label("fetch"),
        Op::JumpUnlessBit(MAY, FETCH_BIT, "load"),
        Op::FenceFetch,
        Op::Increase(ADDRESS, FUNCTION),
        Op::Call(ADDRESS),
        Op::FenceFetch,
        Op::Copy(OTHER, LINE),
        Op::Increase(OTHER, Word::Fetches.offset()),
        Op::Jump("check"),
    ]
    .to_vec()
}

/// Reports a wrong answer.
fn report(wrong: u64) -> Vec<Op> {
    [
        Op::Label("wrong"),
        Op::Store(PAGE, LINE, Word::WrongPage.offset()),
        Op::Store(ANSWER, LINE, Word::WrongThing.offset()),
        Op::Store(MAY, LINE, Word::WrongMay.offset()),
        Op::Store(NUMBER, LINE, Word::WrongBefore.offset()),
        Op::Load(SCRATCH, CONTROL, 0),
        Op::Store(SCRATCH, LINE, Word::WrongAfter.offset()),
        Op::Constant(SCRATCH, wrong),
        Op::Store(SCRATCH, SCRATCH, 0),
        Op::Jump("wrong"),
    ]
    .to_vec()
}
