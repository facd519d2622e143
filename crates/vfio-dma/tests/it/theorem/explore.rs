// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Explores all reachable states of a world: every operation from each of them, without
//! faults and with every fault at every call.
//!
//! A world cannot be copied. So there is one world, which walks to the nearest state with
//! something left to explore, by operations whose outcome is known. Each walk also checks
//! that the same operation in the same state has the same outcome.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::state::State;
use super::tape::{Call, Faults, extended};
use super::world::{Op, Setup, World};

/// What is explored.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// How many operations with faults a path can have.
    pub(crate) faulty_operations: usize,
    /// How many faults an operation can have.
    pub(crate) faults: usize,
}

/// What was explored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) states: usize,
    /// Operations with their faults, each from one state.
    pub(crate) transitions: usize,
    /// Those with a fault.
    pub(crate) with_faults: usize,
    /// Operations that were carried out, also on the way to another state.
    pub(crate) steps: usize,
    /// Calls of platforms and listeners: after each one the theorem was checked.
    pub(crate) calls: usize,
}

type Transition = (Op, Faults);

/// A reached state.
#[derive(Debug, Default)]
struct Node {
    /// How many operations with faults led here.
    level: usize,
    /// The state that it was first reached from, and how.
    parent: Option<(usize, Transition)>,
    to_do: Vec<Transition>,
    /// How to get from here to other states.
    edges: BTreeMap<usize, Transition>,
}

struct Explorer<'a> {
    setup: &'a Setup,
    ops: &'a [Op],
    bounds: &'a Bounds,
    world: World,
    here: usize,
    numbers: HashMap<State, usize>,
    nodes: Vec<Node>,
    left: usize,
    tally: Tally,
    /// When each state was last seen by a search, and from where.
    seen: Vec<(usize, usize)>,
    searches: usize,
}

/// Explores a world. `Err` is the way to a state in which the theorem does not hold.
pub(crate) fn explore(setup: &Setup, ops: &[Op], bounds: &Bounds) -> Result<Tally, String> {
    let mut explorer = Explorer {
        setup,
        ops,
        bounds,
        world: World::new(setup),
        here: 0,
        numbers: HashMap::new(),
        nodes: Vec::new(),
        left: 0,
        tally: Tally::default(),
        seen: Vec::new(),
        searches: 0,
    };
    explorer.here = explorer.number(0, None);
    // All states without another faulty operation come first: so each state is found on
    // a way with as few of them as possible.
    for level in 0..=bounds.faulty_operations {
        if level > 0 {
            explorer.add_faults(level - 1);
        }
        while explorer.left > 0 {
            explorer.step(level)?;
        }
    }
    explorer.tally.states = explorer.nodes.len();
    Ok(explorer.tally)
}

impl Explorer<'_> {
    /// The number of the world's state. A new state gets all operations to do.
    fn number(&mut self, level: usize, parent: Option<(usize, Transition)>) -> usize {
        let state = State::of(&self.world);
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let number = self.nodes.len();
        self.numbers.insert(state, number);
        let possible = self.ops.iter().filter(|op| self.world.is_possible(**op));
        let to_do: Vec<Transition> = possible.map(|op| (*op, Faults::new())).collect();
        self.left += to_do.len();
        self.nodes.push(Node {
            level,
            to_do,
            parent,
            edges: BTreeMap::new(),
        });
        self.seen.push((0, 0));
        number
    }

    /// Has all operations with one fault explored from the states of a level.
    fn add_faults(&mut self, level: usize) {
        for number in 0..self.nodes.len() {
            if self.nodes[number].level != level {
                continue;
            }
            // The faults are known when the calls are.
            let ops: Vec<Op> = self.ops.to_vec();
            for op in ops {
                self.nodes[number].to_do.push((op, Faults::new()));
                self.left += 1;
            }
        }
    }

    /// Explores one transition.
    fn step(&mut self, level: usize) -> Result<(), String> {
        if self.nodes[self.here].to_do.is_empty() {
            let Some(path) = self.nearest() else {
                // This state has no way back: start again.
                self.world = World::new(self.setup);
                self.here = self.number(0, None);
                return Ok(());
            };
            for next in path {
                self.walk(next)?;
            }
        }
        let from = self.here;
        let Some((op, faults)) = self.nodes[from].to_do.pop() else {
            return Ok(());
        };
        self.left -= 1;
        if !self.world.is_possible(op) {
            return Ok(());
        }
        let (calls, to) = self.run(op, &faults)?;
        // Without faults it was explored before, and only its calls are of interest.
        let again = level > self.nodes[from].level && faults.is_empty();
        self.tally.transitions += usize::from(!again);
        self.tally.with_faults += usize::from(!faults.is_empty());
        let node = &mut self.nodes[from];
        if level > node.level && faults.len() < self.bounds.faults {
            let further = extended(&faults, &calls);
            self.left += further.len();
            node.to_do
                .extend(further.into_iter().map(|faults| (op, faults)));
        }
        let transition = (op, faults);
        let known = node.edges.entry(to).or_insert_with(|| transition.clone());
        if transition.1.len() < known.1.len() {
            *known = transition;
        }
        self.here = to;
        Ok(())
    }

    /// Carries out an operation. Returns its calls and the state behind it.
    fn run(&mut self, op: Op, faults: &Faults) -> Result<(Vec<Call>, usize), String> {
        let level = self.nodes[self.here].level + usize::from(!faults.is_empty());
        let (_, calls) = self.world.run(op, faults).map_err(|broken| {
            let (from, path) = (self.state(), self.path());
            format!("{broken}\n  by {op:?} with {faults:?}\n  from {from:?}\n  after {path:?}")
        })?;
        self.tally.steps += 1;
        self.tally.calls += calls.len();
        let parent = (self.here, (op, faults.clone()));
        Ok((calls, self.number(level, Some(parent))))
    }

    /// The state before the latest operation.
    fn state(&self) -> Option<&State> {
        let mut states = self.numbers.iter();
        states.find_map(|(state, number)| (*number == self.here).then_some(state))
    }

    /// The operations that first led here.
    fn path(&self) -> Vec<&Transition> {
        let mut path = Vec::new();
        let mut at = self.here;
        while let Some((from, transition)) = &self.nodes[at].parent {
            path.push(transition);
            at = *from;
        }
        path.reverse();
        path
    }

    /// Goes to a state by a known transition.
    fn walk(&mut self, to: usize) -> Result<(), String> {
        let (op, faults) = self.nodes[self.here].edges[&to].clone();
        let (_, there) = self.run(op, &faults)?;
        self.here = there;
        match there == to {
            true => Ok(()),
            false => Err(format!("{op:?} with {faults:?} has two outcomes")),
        }
    }

    /// The way to the nearest state with something to do.
    fn nearest(&mut self) -> Option<Vec<usize>> {
        self.searches += 1;
        let search = self.searches;
        self.seen[self.here] = (search, self.here);
        let mut queue = VecDeque::from([self.here]);
        while let Some(at) = queue.pop_front() {
            if !self.nodes[at].to_do.is_empty() {
                let mut path = vec![at];
                let mut back = self.seen[at].1;
                while back != self.here {
                    path.push(back);
                    back = self.seen[back].1;
                }
                path.reverse();
                return Some(path);
            }
            for next in self.nodes[at].edges.keys() {
                if self.seen[*next].0 != search {
                    self.seen[*next] = (search, at);
                    queue.push_back(*next);
                }
            }
        }
        None
    }
}
