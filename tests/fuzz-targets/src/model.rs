// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Transactions of a memory model, compared with the painted model of its
//! tests.

use memory_model::{AddrRange, DirtyClients, PAGE_SIZE, Switches, Trigger};

use crate::input::Input;
use support::model_oracle::ops::{AttachOp, End, New, Op, Pick, Step, WINDOW};
use support::model_oracle::turns::Turn;
use support::model_oracle::twins::Twins;

/// Every address is checked after each step, so long scripts are slow.
const MAX_STEPS: usize = 24;
const MAX_OPS: u64 = 10;
const MAX_DEPTH: u8 = 2;

/// A script of transactions, acceptances and revocations.
pub fn model(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    // Bytes, so that regions start and end anywhere; or pages, which have a
    // state.
    let unit = input.pick(&[1, PAGE_SIZE]);
    let mut twins = Twins::new(unit);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let mut step = step(&mut input);
        step.scale(unit);
        twins.step(step);
    }
    true
}

fn step(input: &mut Input<'_>) -> Step {
    match input.below(15) {
        0..8 => {
            let ops = ops(input, MAX_DEPTH);
            let ends = [
                End::Commit,
                End::Commit,
                End::Commit,
                End::Drop,
                End::Refuse,
            ];
            Step::Change(ops, input.pick(&ends))
        }
        8..10 => {
            let (space, run) = (input.index(2), pick(input));
            Step::AcceptRun(space, run, input.below(4), 1 + input.below(WINDOW - 1))
        }
        10 => Step::Accept(input.index(2), range(input, WINDOW / 4)),
        11 => Step::GiveBack(input.index(2), range(input, WINDOW / 4)),
        12 => Step::Revoke(input.index(2), AddrRange::ALL),
        13 => Step::Turn(turn(input)),
        _ => Step::Revoke(input.index(2), range(input, WINDOW / 4)),
    }
}

/// A listener or space that joins or leaves.
fn turn(input: &mut Input<'_>) -> Turn {
    match input.below(5) {
        0..2 => Turn::Join(input.index(2), priority(input), input.one_in(5)),
        2..4 => Turn::Leave(pick(input), input.one_in(5)),
        _ => Turn::Renew(input.index(2)),
    }
}

fn ops(input: &mut Input<'_>, depth: u8) -> Vec<Op> {
    let count = 1 + input.below(MAX_OPS - 1);
    (0..count).map(|_| op(input, depth)).collect()
}

fn op(input: &mut Input<'_>, depth: u8) -> Op {
    match input.below(32) {
        0 => Op::Add(new(input)),
        1..9 => {
            let (new, parent) = (new(input), parent(input));
            Op::AddIn(new, parent, address(input), priority(input))
        }
        9..11 => {
            let (pair, parent) = (pair(input), parent(input));
            let at = input.below(WINDOW);
            Op::AddTwo(pair, parent, at, [near(input), near(input)])
        }
        11..14 => {
            let (child, parent) = (pick(input), parent(input));
            Op::Place(child, parent, address(input), priority(input))
        }
        14..16 => Op::Move(pick(input), address(input)),
        16 => Op::Unplace(pick(input)),
        17 => Op::Enable(pick(input), !input.one_in(3)),
        18 => Op::Readonly(pick(input), input.flag()),
        19 => Op::DirectReads(pick(input), input.flag()),
        20 => Op::Remove(pick(input)),
        21..23 => Op::Log(pick(input), clients(input)),
        23 => Op::LogAll(clients(input)),
        24..30 => Op::Attach(pick(input), attach(input)),
        _ if depth > 0 => Op::Nested(ops(input, depth - 1), input.flag()),
        _ => Op::Unplace(pick(input)),
    }
}

fn new(input: &mut Input<'_>) -> New {
    New {
        kind: input.below(16).to_le_bytes()[0],
        size: size(input),
        switches: switches(input),
        target: pick(input),
        offset: address(input),
    }
}

/// Two small aliases of the same target, adjacent or nearly so.
fn pair(input: &mut Input<'_>) -> [New; 2] {
    const AN_ALIAS: u8 = 15;
    let mut first = new(input);
    first.kind = AN_ALIAS;
    first.size = first.size % 8 + 1;
    first.offset %= 8;
    let mut second = first.clone();
    if input.flag() {
        second.switches = switches(input);
    }
    [first, second]
}

fn size(input: &mut Input<'_>) -> u128 {
    let small = u128::from(1 + input.below(WINDOW - 1));
    match input.below(10) {
        0..8 => small,
        8 => (1 << 64) - (small - 1),
        _ => 1 << 64,
    }
}

fn switches(input: &mut Input<'_>) -> Switches {
    Switches {
        enabled: !input.one_in(8),
        readonly: input.one_in(8),
        nonvolatile: input.one_in(8),
        unmergeable: input.one_in(8),
        direct_reads: !input.one_in(3),
    }
}

fn attach(input: &mut Input<'_>) -> AttachOp {
    match input.below(11) {
        0..4 => {
            let fd = i32::from(input.flag());
            AttachOp::Event(attached_at(input), trigger(input), fd)
        }
        4..7 => AttachOp::Coalesced(range(input, 16)),
        7..9 => AttachOp::NoEvent(pick(input)),
        _ => AttachOp::NoCoalesced(pick(input)),
    }
}

fn trigger(input: &mut Input<'_>) -> Trigger {
    let value = input.pick(&[None, Some(0_u8), Some(1)]);
    match input.below(5) {
        0 => Trigger::AnyWrite,
        1 => Trigger::U8(value),
        2 => Trigger::U16(value.map(u16::from)),
        3 => Trigger::U32(value.map(u32::from)),
        _ => Trigger::U64(value.map(u64::from)),
    }
}

fn range(input: &mut Input<'_>, most: u64) -> AddrRange {
    let start = attached_at(input);
    let last = start.saturating_add(input.below(most));
    AddrRange::from_bounds(start, last).expect("it does not go down")
}

/// Mostly few different places, so that regions overlap.
fn attached_at(input: &mut Input<'_>) -> u64 {
    match input.one_in(6) {
        true => address(input),
        false => input.below(24),
    }
}

/// Mostly low, sometimes at the very end of the space.
fn address(input: &mut Input<'_>) -> u64 {
    let low = input.below(WINDOW);
    match input.one_in(4) {
        true => u64::MAX - low,
        false => low,
    }
}

fn near(input: &mut Input<'_>) -> u64 {
    input.pick(&[0, 0, 0, 1, 2])
}

fn priority(input: &mut Input<'_>) -> i32 {
    input.pick(&[0, 1, -1])
}

/// A region to place others in: often one of those that the spaces show.
fn parent(input: &mut Input<'_>) -> Pick {
    match input.below(7) {
        0..3 => 0,
        3 => 1,
        _ => pick(input),
    }
}

fn pick(input: &mut Input<'_>) -> Pick {
    input.byte().into()
}

fn clients(input: &mut Input<'_>) -> DirtyClients {
    input.pick(&[
        DirtyClients::NONE,
        DirtyClients::VGA,
        DirtyClients::MIGRATION,
    ])
}
