// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking on the real KVM, with a guest that writes to its memory.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
mod guest;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};

use kvm_slots::dirty::DirtyMode;

use crate::needs::Need;
use crate::subject::host_page_size;
use guest::{HIGH, LOW, PAGES, Tracked, copy_pages, expect};

pub use refusals::refusals_are_the_same;

/// The modes of dirty tracking by name, with what each needs.
pub const MODES: [(&str, DirtyMode, &[Need]); 3] = [
    ("dirty_log", DirtyMode::Log, &[Need::Kvm]),
    (
        "manual_dirty_log",
        DirtyMode::ManualProtect {
            initially_set: false,
        },
        &[Need::Kvm, Need::ManualProtect],
    ),
    (
        "dirty_ring",
        // More entries than a processor logs at once, and fewer than `PAGES`.
        DirtyMode::Ring { bytes: 16384 },
        &[Need::Kvm, Need::DirtyRing],
    ),
];

type Test = fn(DirtyMode) -> Result<(), String>;

/// The tests that run in each mode.
pub const TESTS: [(&str, Test); 8] = [
    ("has_each_written_page_once", reports_once),
    ("has_all_of_many_pages", reports_many),
    ("is_kept_when_its_slot_is_deleted", survives_delete),
    ("follows_a_slot_that_moves", follows_a_move),
    ("is_kept_when_logging_stops", survives_logging_off),
    ("starts_empty_when_logging_starts", starts_empty),
    ("is_merged_with_what_the_vmm_wrote", is_merged),
    (
        "is_complete_while_the_guest_runs",
        is_complete_while_running,
    ),
];

/// Pages at both ends, and on both sides of the borders of the log's words.
const SOME: [u64; 6] = [0, 3, 63, 64, 127, PAGES - 1];

fn reports_once(mode: DirtyMode) -> Result<(), String> {
    let stores: Vec<u64> = SOME.iter().chain(&[3, 3, 130]).map(|n| page(*n)).collect();
    let mut vm = Tracked::new(mode, &stores)?;
    vm.has(LOW, true)?;
    vm.store(SOME.len() + 1)?;
    expect("written", vm.collected()?, SOME.map(page))?;
    expect("not written again", vm.collected()?, [])?;
    vm.store(2)?;
    expect("written again", vm.collected()?, [page(3), page(130)])
}

fn reports_many(mode: DirtyMode) -> Result<(), String> {
    // Twice, so that a ring wraps; backwards the second time.
    let twice: Vec<u64> = (0..PAGES).chain((0..PAGES).rev()).map(page).collect();
    let mut vm = Tracked::new(mode, &twice)?;
    vm.has(LOW, true)?;
    for _ in 0..2 {
        vm.store(twice.len() / 2)?;
        expect("written", vm.collected()?, (0..PAGES).map(page))?;
    }
    let full = matches!(mode, DirtyMode::Ring { .. });
    match (full, vm.ring_was_full()) {
        (true, 0) => Err("the ring was never full".into()),
        (false, 1..) => Err("an exit for a full ring, and no ring".into()),
        _ => Ok(()),
    }
}

fn survives_delete(mode: DirtyMode) -> Result<(), String> {
    let mut vm = Tracked::new(mode, &SOME.map(page))?;
    vm.has(LOW, true)?;
    vm.store(SOME.len())?;
    vm.has_none()?;
    let pages = vm.all_taken()?;
    expect("written before the slot went", pages, SOME)
}

/// Pages that were written before the move are reported at the new address, as
/// are those written after it.
fn follows_a_move(mode: DirtyMode) -> Result<(), String> {
    let stores = [
        page(3),
        page(64),
        HIGH + host_page_size(),
        HIGH + 3 * host_page_size(),
    ];
    let mut vm = Tracked::new(mode, &stores)?;
    vm.has(LOW, true)?;
    vm.store(2)?;
    let moved = vm.has(HIGH, true)?;
    if !moved.starts_with("MOVE") {
        return Err(format!("not a move: {moved}"));
    }
    vm.store(2)?;
    let pages = [1, 3, 64].map(|n| HIGH + n * host_page_size());
    expect("written before and after the move", vm.collected()?, pages)?;
    expect("not written again", vm.collected()?, [])
}

fn survives_logging_off(mode: DirtyMode) -> Result<(), String> {
    let stores = [page(3), page(64), page(65)];
    let mut vm = Tracked::new(mode, &stores)?;
    vm.has(LOW, true)?;
    vm.store(2)?;
    let stopped = vm.has(LOW, false)?;
    if !stopped.starts_with("FLAGS") {
        return Err(format!("not a change of flags: {stopped}"));
    }
    vm.store(1)?;
    expect("written while logged", vm.collected()?, [page(3), page(64)])
}

fn starts_empty(mode: DirtyMode) -> Result<(), String> {
    let mut vm = Tracked::new(mode, &[page(3), page(3), page(64)])?;
    vm.has(LOW, false)?;
    vm.store(1)?;
    vm.has(LOW, true)?;
    expect("not written since", vm.collected()?, [])?;
    vm.store(2)?;
    expect("written since", vm.collected()?, [page(3), page(64)])
}

fn is_merged(mode: DirtyMode) -> Result<(), String> {
    let mut vm = Tracked::new(mode, &[page(3), page(64)])?;
    vm.has(LOW, true)?;
    vm.store(2)?;
    vm.mark(page(64) + 8, 1)?;
    // From the last byte of a page to the first byte two pages later.
    vm.mark(page(101) - 1, host_page_size() + 2)?;
    let both = [3, 64, 100, 101, 102].map(page);
    expect("written by either", vm.collected()?, both)?;
    expect("not written again", vm.collected()?, [])
}

/// A copy that is made while the guest writes and its writes are collected ends
/// up equal.
fn is_complete_while_running(mode: DirtyMode) -> Result<(), String> {
    // Few pages, so that each is written many times, out of order. In an
    // emulated machine a store can take milliseconds.
    const STORES: u64 = 5000;
    let numbers = (0..STORES).map(|n: u64| n * n % 97 * 5);
    let stores: Vec<u64> = numbers.clone().map(page).collect();
    let mut vm = Tracked::new(mode, &stores)?;
    vm.has(LOW, true)?;
    let (mut copy, mut rounds) = (BTreeMap::new(), 0);
    let ran = vm.while_running(|client, memory| {
        rounds += 1;
        copy_pages(client, memory, host_page_size(), &mut copy)
    })?;
    let early = copy.len();
    vm.copy_last(&mut copy)?;
    for number in BTreeSet::from_iter(numbers) {
        let (is, copied) = (vm.read(number)?, copy.get(&number).copied());
        if copied != Some(is) {
            return Err(format!("page {number} has {is:#x}, the copy {copied:x?}"));
        }
    }
    match (ran, rounds, early) {
        (ran, 2.., 1..) if ran as u64 == STORES => Ok(()),
        _ => Err(format!(
            "{ran} stores, {rounds} rounds, {early} pages early: nothing was shown"
        )),
    }
}

/// The guest-physical address of a page while the memory is at [`LOW`].
fn page(number: u64) -> u64 {
    LOW + number * host_page_size()
}
