// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model and its simple twin, which get the same steps and are compared
//! after each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memory_model::{
    AddrRange, CommitError, FlatRange, Kind, MemoryModel, PAGE_SIZE, SpaceId, StateError, Switches,
};

use super::attached::Attached;
use super::both::{add, apply};
use super::check::check_view;
use super::follower::Follower;
use super::ops::{End, New, Op, Step, WINDOW};
use super::painted::{Asking, Painted, What};

/// The model and its simple twin.
#[derive(Debug)]
pub struct Twins {
    /// All regions and ranges are multiples of this many bytes.
    unit: u64,
    pub(super) model: MemoryModel<usize>,
    pub(super) painted: Painted,
    pub(super) spaces: [SpaceId; 2],
    /// The addresses of accepted pages.
    pub(super) accepted: [BTreeSet<u64>; 2],
    pub(super) followers: Vec<(SpaceId, Arc<Follower>)>,
    pub(super) refuses: Arc<AtomicBool>,
}

impl Twins {
    /// Two spaces and their listeners. All addresses are multiples of `unit` bytes.
    pub fn new(unit: u64) -> Self {
        let mut model = MemoryModel::new();
        let mut painted = Painted::default();
        let mut t = model.transaction();
        for size in [1 << 64, u128::from(WINDOW * unit)] {
            let (kind, switches) = (0, Switches::default());
            let (target, offset) = (0, 0);
            let container = New {
                kind,
                size,
                switches,
                target,
                offset,
            };
            add(&mut t, &mut painted, container);
        }
        t.commit().unwrap();
        painted.roots = vec![0, 1];
        let spaces = [0, 1].map(|i| model.add_space("s", painted.nodes[i].id).unwrap());
        let mut twins = Self {
            unit,
            model,
            painted,
            spaces,
            accepted: Default::default(),
            followers: Vec::new(),
            refuses: Arc::default(),
        };
        for (space, priority) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            twins.join(space, priority, false);
        }
        twins
    }

    /// Makes a step in both models, and compares them.
    pub fn step(&mut self, step: Step) {
        match step {
            Step::Change(ops, end) => self.change(ops, end),
            Step::AcceptRun(s, pick, skip, count) => {
                let view = self.model.view(self.spaces[s]);
                let is_private =
                    |run: &&FlatRange<usize>| matches!(run.region().kind(), Kind::PrivateMmio(_));
                let runs: Vec<_> = view.ranges().filter(is_private).collect();
                if !runs.is_empty() {
                    let run = runs[usize::from(pick) % runs.len()].range();
                    let start = run.start().checked_add(skip);
                    let start = start.filter(|&a| run.contains(a)).unwrap_or(run.start());
                    let last = start.saturating_add(count).min(run.last());
                    self.accept(s, AddrRange::from_bounds(start, last).unwrap());
                }
            }
            Step::Accept(s, range) => self.accept(s, range),
            Step::GiveBack(s, range) => {
                let result = self.model.give_back(self.spaces[s], range);
                assert_eq!(result.is_ok(), self.unit == PAGE_SIZE);
                self.accepted[s].retain(|&a| !range.contains(a));
            }
            Step::Turn(turn) => self.turn(turn),
            Step::Revoke(s, range) => {
                let lost = self.model.revoke(self.spaces[s], range);
                let held = self.accepted[s].iter().filter(|&&a| range.contains(a));
                assert!(lost.iter().flat_map(pages).eq(held.copied()));
                self.accepted[s].retain(|&a| !range.contains(a));
            }
        }
        self.check();
    }

    fn accept(&mut self, s: usize, range: AddrRange) {
        let asking = Asking::of(&self.painted);
        if self.unit != PAGE_SIZE {
            let result = self.model.accept(self.spaces[s], range);
            return assert_eq!(result, Err(StateError::Unaligned { range }));
        }
        let bad = pages(range).find(|&a| {
            let who = asking.who(s, a);
            who.map(|who| self.painted.nodes[who.node].what) != Some(What::PrivateMmio)
        });
        let result = self.model.accept(self.spaces[s], range);
        match (result, bad) {
            (Ok(()), None) => self.accepted[s].extend(pages(range)),
            (Err(StateError::WrongKind { at, .. }), Some(bad)) => assert_eq!(at, bad),
            other => panic!("{other:?}"),
        }
    }

    fn change(&mut self, ops: Vec<Op>, end: End) {
        let before = self.painted.clone();
        let views = self.spaces.map(|s| self.model.view(s));
        let mut t = self.model.transaction();
        for op in ops {
            apply(&mut t, &mut self.painted, op);
        }
        let (was, is) = (Asking::of(&before), Asking::of(&self.painted));
        let differs = |s: usize, a: u64| was.who(s, a) != is.who(s, a);
        // Accepted pages fix the whole run that contains them, and the
        // addresses on both sides, which could merge with the run.
        let touched = |s: usize, a: u64| {
            let run = views[s].find(a).expect("accepted").range();
            let beside = [run.start().saturating_sub(1), run.last().saturating_add(1)];
            // Do not check too many addresses.
            run.size() > 4096 * u128::from(PAGE_SIZE)
                || beside.into_iter().chain(pages(run)).any(|a| differs(s, a))
        };
        self.refuses
            .store(matches!(end, End::Refuse), Ordering::Relaxed);
        let result = match end {
            End::Drop => {
                drop(t);
                None
            }
            End::Commit | End::Refuse => Some(t.commit()),
        };
        self.refuses.store(false, Ordering::Relaxed);

        let same = |s: usize| Arc::ptr_eq(&self.model.view(self.spaces[s]), &views[s]);
        match (&result, end) {
            (Some(Ok(())), _) => {
                for (s, accepted) in self.accepted.iter().enumerate() {
                    let now = self.model.view(self.spaces[s]);
                    for &a in accepted {
                        assert_eq!(views[s].find(a), now.find(a), "accepted: {a:#x}");
                    }
                }
                let refuses = |s: usize| matches!(end, End::Refuse) && self.refuses_in(s);
                assert!([0, 1].into_iter().all(|s| same(s) || !refuses(s)));
                return;
            }
            (Some(Err(CommitError::Accepted { range, .. })), _) => {
                let mut accepted = self.accepted.iter().enumerate();
                let is_why = |(s, set): (usize, &BTreeSet<u64>)| {
                    let whole = pages(*range).all(|a| set.contains(&a));
                    whole && touched(s, range.start())
                };
                assert!(accepted.any(is_why), "nothing accepted is touched");
            }
            (Some(Err(CommitError::Refused { .. })), End::Refuse) => {}
            (None, _) => {}
            other => panic!("{other:?}"),
        }
        assert!(same(0) && same(1), "nothing happened");
        self.painted.roll_back_to(before);
    }

    fn check(&self) {
        assert_eq!(self.model.validate(), Ok(()));
        let asking = Asking::of(&self.painted);
        for (s, &space) in self.spaces.iter().enumerate() {
            let view = self.model.view(space);
            check_view(&view, |a| asking.who(s, a), &self.painted, self.unit);
            let accepted = self.model.accepted(space).iter().flat_map(pages);
            assert!(accepted.eq(self.accepted[s].iter().copied()));
        }
        for (space, follower) in &self.followers {
            let runs = follower.runs.lock().unwrap();
            let view = self.model.view(*space);
            assert!(runs.iter().eq(view.ranges()));
            let active = Attached::active(&self.painted, &view);
            assert_eq!(*follower.attached.lock().unwrap(), active);
            assert_eq!(self.model.ioeventfds(*space), active.events);
            assert_eq!(self.model.coalesced(*space), active.ranges);
            assert_eq!(*follower.logging.lock().unwrap(), self.painted.logging);
        }
        self.check_tree();
    }

    fn check_tree(&self) {
        let (tree, nodes) = (self.model.tree(), &self.painted.nodes);
        for (node, children) in nodes.iter().zip(self.painted.children()) {
            if node.removed {
                assert!(tree.region(node.id).is_err());
                continue;
            }
            let children: Vec<_> = children.into_iter().map(|c| nodes[c].id).collect();
            assert_eq!(tree.children(node.id).unwrap(), children);
            assert_eq!(tree.switches(node.id).unwrap(), node.switches);
            assert_eq!(tree.dirty_logging(node.id).unwrap(), node.logging);
            let place = tree.place(node.id).unwrap();
            let place = place.map(|p| (p.parent, p.address, p.priority));
            let spot = node
                .spot
                .map(|s| (nodes[s.parent].id, s.address, s.priority));
            assert_eq!(place, spot);
        }
        assert_eq!(self.model.global_dirty_logging(), self.painted.logging);
        for &id in &self.painted.undone {
            assert!(tree.region(id).is_err(), "{id:?} was never committed");
        }
    }
}

/// The addresses of the pages of `range`.
fn pages(range: AddrRange) -> impl Iterator<Item = u64> {
    let size = usize::try_from(PAGE_SIZE).unwrap();
    (range.start()..=range.last()).step_by(size)
}
