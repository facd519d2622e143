// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The mappings of a TDI, each with the next step that it needs.

use alloc::vec::Vec;

use guest_ranges::AddrRange;

use crate::tdi::attested::Generation;
use crate::tdi::mapping::{HeldMapping, Mapping, MappingState};
use crate::tdi::state::Outcome;
use crate::tdi::step::Step;

/// Where a mapping is on its way to the guest and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing is done. Next: offer.
    Wanted,
    /// The host's half is done. Next: map.
    Offered,
    /// Both halves are done.
    Mapped,
    /// The guest must lose it. Next: unmap.
    Unmapping,
    /// The platform's half is undone. Next: revoke.
    Revoking,
    /// It could not be taken from the guest.
    Quarantined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    mapping: Mapping,
    generation: Generation,
    phase: Phase,
    /// Whether the request under way has added it.
    is_new: bool,
}

impl Entry {
    fn held(self) -> HeldMapping {
        HeldMapping {
            mapping: self.mapping,
            state: match self.phase {
                Phase::Wanted | Phase::Offered => MappingState::Attempted,
                Phase::Mapped => MappingState::Confirmed,
                Phase::Unmapping | Phase::Revoking => MappingState::Releasing,
                Phase::Quarantined => MappingState::Quarantined,
            },
            generation: self.generation,
        }
    }
}

/// The mappings, by guest-physical address. No two conflict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MappingTable {
    entries: Vec<Entry>,
}

impl MappingTable {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = HeldMapping> + '_ {
        self.entries.iter().map(|entry| entry.held())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a mapping that conflicts with no other.
    pub(super) fn add(&mut self, mapping: Mapping, generation: Generation) {
        self.insert(Entry {
            mapping,
            generation,
            phase: Phase::Wanted,
            is_new: true,
        });
    }

    fn insert(&mut self, entry: Entry) {
        let start = entry.mapping.gpa().start();
        let at = self
            .entries
            .partition_point(|other| other.mapping.gpa().start() < start);
        self.entries.insert(at, entry);
    }

    /// The next step on the way to the guest, in the order of addresses.
    pub(super) fn next_forward(&self) -> Option<Step> {
        self.entries.iter().find_map(|entry| match entry.phase {
            Phase::Wanted => Some(Step::Offer(entry.mapping)),
            Phase::Offered => Some(Step::Map(entry.mapping)),
            _ => None,
        })
    }

    /// The next step on the way back, in the reverse order.
    pub(super) fn next_back(&self) -> Option<Step> {
        self.entries
            .iter()
            .rev()
            .find_map(|entry| match entry.phase {
                Phase::Unmapping => Some(Step::Unmap(entry.mapping)),
                Phase::Revoking => Some(Step::Revoke(entry.mapping)),
                _ => None,
            })
    }

    /// Sends all mappings back, but for one whose step is under way: it waits for the answer.
    pub(super) fn send_back(&mut self, under_way: Option<Mapping>) {
        self.send_back_if(|entry| Some(entry.mapping) != under_way);
    }

    /// Sends those mappings back that the request under way has added.
    pub(super) fn send_new_back(&mut self) {
        self.send_back_if(|entry| entry.is_new);
    }

    fn send_back_if(&mut self, is_meant: impl Fn(&Entry) -> bool) {
        self.entries.retain_mut(|entry| {
            if !is_meant(entry) {
                return true;
            }
            entry.phase = match entry.phase {
                Phase::Wanted => return false,
                Phase::Offered => Phase::Revoking,
                Phase::Mapped => Phase::Unmapping,
                phase => phase,
            };
            true
        });
    }

    /// Sends confirmed mappings back, as far as they are in `gpa`.
    pub(super) fn send_part_back(&mut self, gpa: AddrRange) {
        let is_cut =
            |entry: &Entry| entry.phase == Phase::Mapped && entry.mapping.gpa().overlaps(gpa);
        let cut: Vec<Entry> = self.entries.iter().copied().filter(is_cut).collect();
        self.entries.retain(|entry| !is_cut(entry));
        for entry in cut {
            for mapping in entry.mapping.outside(gpa) {
                self.insert(Entry { mapping, ..entry });
            }
            if let Some(mapping) = entry.mapping.clipped(gpa) {
                let phase = Phase::Unmapping;
                self.insert(Entry {
                    mapping,
                    phase,
                    ..entry
                });
            }
        }
    }

    /// Keeps what was to be unmapped, and has not been.
    pub(super) fn keep_mapped(&mut self) {
        for entry in &mut self.entries {
            if entry.phase == Phase::Unmapping {
                entry.phase = Phase::Mapped;
            }
        }
    }

    /// The platform holds nothing any more: what remains is the host's half. A mapping that is being
    /// offered waits for the answer.
    pub(super) fn platform_dropped_all(&mut self, offering: Option<Mapping>) {
        self.entries.retain_mut(|entry| {
            if Some(entry.mapping) != offering {
                if entry.phase == Phase::Wanted {
                    return false;
                }
                entry.phase = Phase::Revoking;
            }
            true
        });
    }

    /// Ends a request: joins mappings that continue each other.
    pub(super) fn settle(&mut self) {
        let mut settled: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for mut entry in self.entries.drain(..) {
            entry.is_new = false;
            let is_same = |last: &&mut Entry| {
                (last.phase, last.generation) == (entry.phase, entry.generation)
            };
            if let Some(last) = settled.last_mut().filter(is_same) {
                if let Some(joined) = last.mapping.joined(entry.mapping) {
                    last.mapping = joined;
                    continue;
                }
            }
            settled.push(entry);
        }
        self.entries = settled;
    }

    /// Records the outcome of a step on the way to the guest. `is_wanted` is whether the guest is still
    /// to have the mapping.
    pub(super) fn forward_answered(&mut self, step: Step, outcome: Outcome, is_wanted: bool) {
        let next = match (step, outcome) {
            (Step::Offer(_), Outcome::Failed) => None,
            (Step::Offer(_), Outcome::Succeeded) if is_wanted => Some(Phase::Offered),
            (Step::Map(_), Outcome::Succeeded) if is_wanted => Some(Phase::Mapped),
            // The platform's half may be done.
            (Step::Map(_), Outcome::Succeeded | Outcome::Unknown) => Some(Phase::Unmapping),
            // Only the host's half is done, or may be.
            _ => Some(Phase::Revoking),
        };
        self.replace(step, next);
    }

    /// Records the outcome of a step on the way back. Returns whether the mapping is still confirmed:
    /// nothing has changed, and `may_keep` allows that.
    pub(super) fn back_answered(&mut self, step: Step, outcome: Outcome, may_keep: bool) -> bool {
        let keeps = matches!(step, Step::Unmap(_)) && outcome == Outcome::Failed && may_keep;
        let next = match (step, outcome) {
            (Step::Unmap(_), Outcome::Succeeded) => Some(Phase::Revoking),
            (Step::Revoke(_), Outcome::Succeeded) => None,
            _ if keeps => Some(Phase::Mapped),
            _ => Some(Phase::Quarantined),
        };
        self.replace(step, next);
        keeps
    }

    /// Changes the mapping that waits for `step`, if an event has not changed it already.
    fn replace(&mut self, step: Step, next: Option<Phase>) {
        let waits = |entry: &Entry| {
            let due = match entry.phase {
                Phase::Wanted => Step::Offer(entry.mapping),
                Phase::Offered => Step::Map(entry.mapping),
                Phase::Unmapping => Step::Unmap(entry.mapping),
                Phase::Revoking => Step::Revoke(entry.mapping),
                Phase::Mapped | Phase::Quarantined => return false,
            };
            due == step
        };
        let Some(at) = self.entries.iter().position(waits) else {
            return;
        };
        match (next, self.entries.get_mut(at)) {
            (Some(phase), Some(entry)) => entry.phase = phase,
            _ => {
                self.entries.remove(at);
            }
        }
    }
}
