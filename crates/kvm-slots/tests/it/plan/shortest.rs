// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! In small worlds, every plan between any two states is as short as any sequence of
//! ioctls that KVM accepts. A breadth-first search finds the shortest sequence.

use crate::common;

use std::collections::{HashMap, VecDeque};

use common::{ABI, HOST, PAGE, able, device, guest_memfd, logged, ram, readonly, table};
use kvm_slots::plan::plan;
use kvm_slots::{Op, Slot, SlotAccess, SlotRange};

/// A possible slot: its memory, by a letter, and its properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct What {
    memory: char,
    pages: u64,
    readonly: bool,
    log: bool,
}

const fn one(memory: char, pages: u64) -> What {
    What {
        memory,
        pages,
        readonly: false,
        log: false,
    }
}

impl What {
    /// Capitals are memory of the host; the others are files.
    fn is_file(self) -> bool {
        self.memory.is_lowercase()
    }

    fn range(self, page: u64) -> SlotRange {
        let (gpa, size) = (page * PAGE, self.pages * PAGE);
        let mut range = match self.memory {
            'g' => guest_memfd(gpa, size, 7, 0),
            'd' => device(gpa, size, 8, 0),
            host => ram(gpa, size, HOST + u64::from(u32::from(host)) * 0x10_0000),
        };
        if self.readonly {
            range = readonly(range);
        }
        if self.log {
            range = logged(range);
        }
        range
    }
}

/// The slots by page. Their numbers make no difference.
type State = Vec<(u64, What)>;

/// All states of a few pages, and the ioctls between them.
struct World {
    states: Vec<State>,
    numbers: HashMap<State, usize>,
    steps: Vec<Vec<usize>>,
}

impl World {
    fn new(pages: u64, whats: &[What]) -> Self {
        let mut states = Vec::new();
        fill(0, pages, whats, &mut Vec::new(), &mut states);
        let numbered = states.iter().cloned().enumerate();
        let numbers: HashMap<State, usize> = numbered.map(|(n, state)| (state, n)).collect();
        let steps = states.iter().map(|state| {
            let next = steps(state, pages, whats);
            next.iter().map(|state| numbers[state]).collect()
        });
        let steps = steps.collect();
        Self {
            states,
            numbers,
            steps,
        }
    }

    /// How many ioctls lead to each state, at least.
    fn distances(&self, from: usize) -> Vec<usize> {
        let mut distances = vec![usize::MAX; self.states.len()];
        distances[from] = 0;
        let mut open = VecDeque::from([from]);
        while let Some(at) = open.pop_front() {
            for &next in &self.steps[at] {
                if distances[next] == usize::MAX {
                    distances[next] = distances[at] + 1;
                    open.push_back(next);
                }
            }
        }
        distances
    }

    /// Plans from every state to every other one; returns how many plans.
    fn check(&self) -> usize {
        let ranges: Vec<Vec<SlotRange>> = self.states.iter().map(ranges).collect();
        for (from, old) in self.states.iter().enumerate() {
            let table = table(&[&ranges[from]]);
            for (to, distance) in self.distances(from).into_iter().enumerate() {
                let new = &self.states[to];
                let plan = plan(&table, &ranges[to], &able(), ABI).unwrap();
                assert_eq!(plan.ops().len(), distance, "{old:?} to {new:?}: {plan:#?}");
                let mut at = from;
                for op in plan.ops() {
                    let next = self.numbers[&after(&self.states[at], op)];
                    assert!(self.steps[at].contains(&next), "{op}");
                    at = next;
                }
                assert_eq!(at, to);
            }
        }
        self.states.len() * self.states.len()
    }
}

fn ranges(state: &State) -> Vec<SlotRange> {
    state.iter().map(|(page, what)| what.range(*page)).collect()
}

/// All ways to fill the pages from `page` on.
fn fill(page: u64, end: u64, whats: &[What], state: &mut State, states: &mut Vec<State>) {
    if page == end {
        return states.push(state.clone());
    }
    fill(page + 1, end, whats, state, states);
    for &what in whats {
        if page + what.pages <= end && !is_bound(state, what) {
            state.push((page, what));
            fill(page + what.pages, end, whats, state, states);
            state.pop();
        }
    }
}

/// KVM refuses two slots on the same bytes of a guest_memfd. It accepts them on a
/// device's file.
fn is_bound(state: &State, what: What) -> bool {
    what.memory == 'g' && state.iter().any(|(_, other)| other.memory == 'g')
}

/// Every state that one ioctl leads to.
fn steps(state: &State, pages: u64, whats: &[What]) -> Vec<State> {
    let mut next = Vec::new();
    let places = |what: What| 0..=pages - what.pages;
    for (index, &(_, what)) in state.iter().enumerate() {
        let mut without = state.clone();
        without.remove(index);
        // A slot on a file cannot change at all, one on memory cannot change
        // what memory it is, its size and whether it is read-only.
        for &other in whats.iter().filter(|_| !what.is_file()) {
            if (What {
                log: false,
                ..other
            }) == (What { log: false, ..what })
            {
                let changed = places(other).filter_map(|to| put(&without, to, other));
                next.extend(changed.filter(|changed| changed != state));
            }
        }
        next.push(without);
    }
    for &what in whats.iter().filter(|what| !is_bound(state, **what)) {
        next.extend(places(what).filter_map(|page| put(state, page, what)));
    }
    next
}

/// The state with one more slot; `None` where there is one already.
fn put(state: &State, page: u64, what: What) -> Option<State> {
    let apart = |&(at, other): &(u64, What)| at + other.pages <= page || page + what.pages <= at;
    if !state.iter().all(apart) {
        return None;
    }
    let mut state = state.clone();
    state.push((page, what));
    state.sort_unstable();
    Some(state)
}

/// The state after an operation.
fn after(state: &State, op: &Op) -> State {
    let mut after = state.clone();
    match op {
        Op::Delete(slot) => take(&mut after, slot),
        Op::Create(slot) => after.push(as_what(slot)),
        Op::Move { from, to } | Op::SetFlags { from, to } => {
            take(&mut after, from);
            after.push(as_what(to));
        }
        _ => panic!("{op}: only slots were to change"),
    }
    after.sort_unstable();
    after
}

fn take(state: &mut State, slot: &Slot) {
    let slot = as_what(slot);
    let at = state.iter().position(|other| *other == slot);
    state.remove(at.expect("a slot that is there"));
}

fn as_what(slot: &Slot) -> (u64, What) {
    let host = slot.backing().host().map(|host| host.address());
    let memory = match (host, slot.backing().file().map(|file| file.fd())) {
        (Some(address), _) => {
            let letter = u8::try_from((address - HOST) / 0x10_0000);
            char::from(letter.expect("a letter"))
        }
        (None, Some(7)) => 'g',
        (None, _) => 'd',
    };
    let what = What {
        memory,
        pages: slot.size() / PAGE,
        readonly: slot.access() == SlotAccess::ReadOnly,
        log: slot.log_dirty(),
    };
    (slot.gpa() / PAGE, what)
}

const A: What = one('A', 1);
const B: What = one('B', 1);
const C: What = one('C', 2);
const D: What = one('D', 2);
const E: What = one('E', 3);

#[test]
fn memory_of_two_sizes_in_four_pages_that_may_show_twice() {
    let plans = World::new(4, &[A, B, one('F', 1), C]).check();
    assert_eq!(plans, 93_025);
}

#[test]
fn memory_with_logs_and_without_writes_and_on_files_in_three_pages() {
    let log = |what| What { log: true, ..what };
    let rom = What {
        readonly: true,
        ..A
    };
    let all = [
        A,
        log(A),
        rom,
        log(rom),
        B,
        one('g', 1),
        one('d', 1),
        C,
        log(C),
    ];
    let plans = World::new(3, &all).check();
    assert_eq!(plans, 272_484);
}

#[test]
fn memory_of_three_sizes_in_five_pages() {
    let plans = World::new(5, &[A, C, E, one('g', 1)]).check();
    assert_eq!(plans, 51_529);
}

#[test]
fn memory_that_shows_everywhere_in_six_pages() {
    let plans = World::new(6, &[A, C, D]).check();
    assert_eq!(plans, 107_584);
}
