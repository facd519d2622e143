// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every sequence of requests, events and faults, on a simulated TSM.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use vfio_private::tdi::{Event, MappingState, Progress, Step, TdiError, TdiState};

use crate::tdi::invariants::{check, recovers};
use crate::tdi::world::{FAULTS, Fault, Meanwhile, Request, World};

const EVENTS: [Event; 3] = [Event::Error, Event::Removed, Event::Reset];

const ONE_PAGE: &[Request] = &[
    Request::Lock,
    Request::FetchReport,
    Request::Start(&[]),
    Request::Start(&[0]),
    Request::Accept(&[0]),
    Request::Release(&[0]),
    Request::Stop,
    Request::Reset,
];

const TWO_PAGES: &[Request] = &[
    Request::Lock,
    Request::Start(&[0, 1]),
    Request::Accept(&[0]),
    Request::Accept(&[1]),
    Request::Release(&[1]),
    Request::Release(&[0, 1]),
    Request::Stop,
    Request::Reset,
];

/// What is explored.
struct Scope {
    requests: &'static [Request],
    /// How often the TDI is locked.
    locks: u64,
    /// The events that also come while a step is under way.
    meanwhile: &'static [Event],
}

/// The state of a world without the numbers that only count calls.
fn key(world: &World) -> u64 {
    let tdi = format!("{:?}", world.tdi);
    // What the first obstacle was does not influence what follows, nor does the number of tickets.
    let (before, after) = tdi.split_once(", obstacle: ").expect("a field");
    let mut hasher = DefaultHasher::new();
    (before, after.starts_with("None")).hash(&mut hasher);
    let (tsm, report) = (&world.tsm, &world.report);
    (tsm.state() as u8, tsm.locks(), tsm.dma(), tsm.late()).hash(&mut hasher);
    let mut all = tsm.offered().to_vec();
    all.sort_by_key(|mapping| mapping.gpa());
    all.hash(&mut hasher);
    let mut all = tsm.mapped().to_vec();
    all.sort_by_key(|(mapping, lock)| (mapping.gpa(), *lock));
    all.hash(&mut hasher);
    let report = report
        .as_ref()
        .map(|report| (report.0, report.1.generation()));
    report.hash(&mut hasher);
    hasher.finish()
}

/// How much was explored.
#[derive(Default)]
struct Explored {
    states: usize,
    transitions: usize,
    quarantined: usize,
    unknown: usize,
    stale: usize,
}

struct Explorer {
    seen: HashSet<u64>,
    queue: VecDeque<World>,
    explored: Explored,
}

impl Explorer {
    fn visit(&mut self, before: &World, after: World, how: &dyn std::fmt::Debug) {
        self.explored.transitions += 1;
        // The same state was checked before.
        if !self.seen.insert(key(&after)) {
            return;
        }
        let fail = |what: String| -> ! { panic!("after {how:?} in\n{before:?}\n{what}") };
        check(&after).unwrap_or_else(|what| fail(what));
        recovers(&after).unwrap_or_else(|what| fail(what));
        self.explored.states += 1;
        self.explored.quarantined += usize::from(after.tdi.quarantined().next().is_some());
        self.explored.unknown += usize::from(after.tdi.state() == TdiState::Unknown);
        self.queue.push_back(after);
    }
}

/// Whether everything that was quarantined still is.
fn keeps_quarantine(before: &World, after: &World) -> bool {
    before.tdi.quarantined().all(|held| {
        let now = after.tdi.occupant(held.mapping.gpa());
        now.is_some_and(|now| now.state == MappingState::Quarantined)
    })
}

fn explore(first: World, scope: &Scope) -> Explored {
    let mut explorer = Explorer {
        seen: HashSet::from([key(&first)]),
        queue: VecDeque::from([first]),
        explored: Explored::default(),
    };
    while let Some(world) = explorer.queue.pop_front() {
        for &request in scope.requests {
            // Another lock would only repeat what there is.
            if request == Request::Lock && world.locks >= scope.locks {
                continue;
            }
            let mut next = world.clone();
            match next.ask(request) {
                Ok(()) => explorer.visit(&world, next, &request),
                Err(TdiError::Stale(_)) => explorer.explored.stale += 1,
                Err(_) => {}
            }
        }
        for event in EVENTS {
            let mut next = world.clone();
            let _ = next.event(event);
            assert!(event == Event::Reset || keeps_quarantine(&world, &next));
            explorer.visit(&world, next, &event);
        }
        if world.tsm.state() == TdiState::Removed {
            let mut next = world.clone();
            next.tsm.insert();
            explorer.visit(&world, next, &"a device is inserted");
        }
        if world.tdi.next_step().is_none() {
            continue;
        }
        let nothing = [Meanwhile::Nothing].into_iter();
        let before = scope.meanwhile.iter().copied().map(Meanwhile::Before);
        let after = scope.meanwhile.iter().copied().map(Meanwhile::After);
        for meanwhile in nothing.chain(before).chain(after) {
            for fault in FAULTS {
                let mut next = world.clone();
                let (step, progress) = next.step(fault, meanwhile).unwrap();
                let how = (step, fault, meanwhile, progress);
                let is_reset = step == Step::Reset || meanwhile.event() == Some(Event::Reset);
                assert!(
                    is_reset || keeps_quarantine(&world, &next),
                    "{how:?} in {world:?}"
                );
                // A request whose step did not succeed is not done.
                let failed = fault != Fault::None && meanwhile == Meanwhile::Nothing;
                assert!(
                    !failed || progress != Progress::Done,
                    "{how:?} in {world:?}"
                );
                explorer.visit(&world, next, &how);
            }
        }
    }
    explorer.explored
}

/// Explores until there is no new state, and prints how much that was.
#[track_caller]
fn at_least(least: usize, first: World, scope: &Scope) {
    let all = explore(first, scope);
    let (states, transitions) = (all.states, all.transitions);
    let (quarantined, unknown, stale) = (all.quarantined, all.unknown, all.stale);
    println!(
        "{states} states ({quarantined} with a quarantined mapping, {unknown} unknown), \
         {transitions} transitions, {stale} stale reports refused"
    );
    assert!(states > least, "{states} states");
}

#[test]
fn one_page_and_two_locks_with_events_during_steps_break_no_invariant() {
    let scope = Scope {
        requests: ONE_PAGE,
        locks: 2,
        meanwhile: &[Event::Error],
    };
    at_least(15_000, World::keeping_mappings(), &scope);
}

#[test]
fn nor_do_they_if_the_tsm_refuses_to_stop_what_is_mapped() {
    let scope = Scope {
        requests: ONE_PAGE,
        locks: 1,
        meanwhile: &EVENTS,
    };
    at_least(4_500, World::new(), &scope);
}

#[test]
fn two_pages_and_one_lock_break_no_invariant() {
    let scope = Scope {
        requests: TWO_PAGES,
        locks: 1,
        meanwhile: &[],
    };
    at_least(28_000, World::keeping_mappings(), &scope);
}
