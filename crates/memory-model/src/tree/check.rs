// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Consistency check of the region tree.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use super::Tree;
use guest_ranges::AddrRange;

use crate::ids::RegionId;
use crate::logging::{DirtyClients, Unloggable};
use crate::region::Kind;
use crate::tree::node::Node;
use crate::validate::invalid::Invalid;

impl<H> Tree<H> {
    /// Checks every region and all references to it.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        self.check_entries()?;
        let mut attachments = 0;
        for (id, node) in self.nodes() {
            let wrong = |what| self.wrong(id, what);
            self.check_node(id, node).map_err(wrong)?;
            let ioeventfds = node.attachments.ioeventfds(AddrRange::ALL);
            let coalesced = node.attachments.coalesced(AddrRange::ALL);
            attachments += ioeventfds.count() + coalesced.count();
        }
        if attachments != self.attachments {
            return Err(Invalid::AttachmentCount {
                counted: attachments,
                recorded: self.attachments,
            });
        }
        self.check_cycles()
    }

    /// The error for a region.
    pub(crate) fn wrong(&self, id: RegionId, what: &'static str) -> Invalid {
        let name = self.name(id);
        Invalid::Region { id, name, what }
    }

    /// All regions.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (RegionId, &Node<H>)> {
        let entries = (0..).zip(&self.entries);
        entries.filter_map(|(index, entry)| {
            let (generation, node) = entry.node.as_ref()?;
            let generation = *generation;
            Some((RegionId { index, generation }, node))
        })
    }

    /// Checks that each entry has a region, is free, or has used all its generations.
    fn check_entries(&self) -> Result<(), Invalid> {
        let free: BTreeSet<u32> = self.free.iter().copied().collect();
        if free.len() != self.free.len() {
            return Err(Invalid::Entry {
                index: first_twice(&self.free),
                what: "it is free twice",
            });
        }
        let entries = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        if let Some(&index) = free.range(entries..).next() {
            let what = "it is free, and there is no such entry";
            return Err(Invalid::Entry { index, what });
        }
        for (index, entry) in (0..).zip(&self.entries) {
            let (is_free, next) = (free.contains(&index), entry.next_generation);
            let has_run_out = next & RegionId::GENERATIONS == 0;
            // Generations of the last model wrap.
            let is_past = |generation: u32| {
                (1..=1 << RegionId::GENERATION_BITS).contains(&next.wrapping_sub(generation))
            };
            let what = match &entry.node {
                Some(_) if is_free => "it is free, and a region has it",
                Some((generation, _)) if !is_past(*generation) => {
                    "its region's generation is still to come"
                }
                None if is_free && has_run_out => "it is free, and its generations have run out",
                None if !is_free && !has_run_out => "no region has it, and it is not free",
                Some(_) | None => continue,
            };
            return Err(Invalid::Entry { index, what });
        }
        Ok(())
    }

    fn check_node(&self, id: RegionId, node: &Node<H>) -> Result<(), &'static str> {
        if AddrRange::new(0, node.region.size()) != Some(node.offsets) {
            return Err("its offsets are not those of its size");
        }
        if node.logging != DirtyClients::NONE && Unloggable::of(node.region.kind()).is_some() {
            return Err("writes to it are logged, and cannot be");
        }
        self.check_place(id, node)?;
        self.check_children(id, node)?;
        self.check_aliases(id, node)?;
        check_attachments(node)
    }

    fn check_place(&self, id: RegionId, node: &Node<H>) -> Result<(), &'static str> {
        let Some(place) = node.place else {
            return Ok(());
        };
        if node.placing == 0 || node.placing > self.placings {
            return Err("the number of its placing is still to come");
        }
        let parent = self.node(place.parent);
        let parent = parent.map_err(|_| "it lies in a region that there is not")?;
        let Some(child) = node.as_child(id) else {
            return Ok(());
        };
        // Look it up as rendering does, by one of its addresses.
        let last = child.range.last();
        let there = AddrRange::from_bounds(last, last).unwrap_or(child.range);
        let found = parent.children.reaching_into(there);
        match found.iter().filter(|found| found.id == id).count() {
            0 => Err("the region that it lies in does not find it"),
            1 => Ok(()),
            _ => Err("the region that it lies in has it twice"),
        }
    }

    fn check_children(&self, id: RegionId, node: &Node<H>) -> Result<(), &'static str> {
        let children = node.children.all();
        for child in &children {
            let lies = self.node(child.id).map(|c| (c.place, c.as_child(child.id)));
            let Ok((place, as_child)) = lies else {
                return Err("a child of it is no region");
            };
            if place.map(|place| place.parent) != Some(id) {
                return Err("a child of it lies elsewhere");
            }
            if as_child.as_ref() != Some(child) {
                return Err("it has a child at another place than the child has");
            }
        }
        let placings: BTreeSet<u64> = children.iter().map(|child| child.placing).collect();
        match placings.len() == children.len() && node.children.is_empty() == children.is_empty() {
            true => Ok(()),
            false => Err("two of its children have one placing"),
        }
    }

    fn check_aliases(&self, id: RegionId, node: &Node<H>) -> Result<(), &'static str> {
        if let Kind::Alias { target, .. } = *node.region.kind() {
            let target = self.node(target).map_err(|_| "it shows no region")?;
            if !target.aliases.contains(&id) {
                return Err("the region that it shows does not know it");
            }
        }
        let shows = |alias: &RegionId| {
            let kind = self.node(*alias).map(|alias| alias.region.kind());
            matches!(kind, Ok(Kind::Alias { target, .. }) if *target == id)
        };
        match node.aliases.iter().all(shows) {
            true => Ok(()),
            false => Err("an alias that it knows does not show it"),
        }
    }

    /// Checks that no region contains itself, directly or through aliases.
    fn check_cycles(&self) -> Result<(), Invalid> {
        enum Step {
            Enter(RegionId),
            Leave(RegionId),
        }
        // Whether all below a region was seen.
        let mut seen: BTreeMap<RegionId, bool> = BTreeMap::new();
        for (root, _) in self.nodes() {
            let mut steps = vec![Step::Enter(root)];
            while let Some(step) = steps.pop() {
                let id = match step {
                    Step::Enter(id) => id,
                    Step::Leave(id) => {
                        seen.insert(id, true);
                        continue;
                    }
                };
                match seen.get(&id) {
                    Some(true) => continue,
                    Some(false) => return Err(self.wrong(id, "it contains itself")),
                    None => drop(seen.insert(id, false)),
                }
                steps.push(Step::Leave(id));
                let Ok(node) = self.node(id) else { continue };
                let below = node.children.all().into_iter().map(|child| child.id);
                steps.extend(below.map(Step::Enter));
                if let Kind::Alias { target, .. } = *node.region.kind() {
                    steps.push(Step::Enter(target));
                }
            }
        }
        Ok(())
    }
}

/// Checks that attachments lie inside the region, that its kind allows them, and that
/// no write matches two of them.
fn check_attachments<H>(node: &Node<H>) -> Result<(), &'static str> {
    if node.attachments.is_empty() {
        return Ok(());
    }
    if !node.region.kind().takes_attachments() {
        return Err("something is attached to it, and it does not trap");
    }
    let inside = |range: AddrRange| node.offsets.covers(range);
    let mut latest = None;
    for range in node.attachments.coalesced(AddrRange::ALL) {
        if !inside(range) {
            return Err("a coalesced range is not inside it");
        }
        if latest.replace(range.last()) >= Some(range.start()) {
            return Err("two of its coalesced ranges overlap");
        }
    }
    let events: Vec<_> = node.attachments.ioeventfds(AddrRange::ALL).collect();
    for (n, event) in events.iter().enumerate() {
        if !event.range().is_some_and(inside) {
            return Err("an ioeventfd is not inside it");
        }
        let before = events[..n].iter().rev().take_while(|e| e.at == event.at);
        if before.into_iter().any(|e| e.trigger.meets(event.trigger)) {
            return Err("one write is two of its ioeventfds");
        }
    }
    Ok(())
}

/// The first entry that is in a list twice.
fn first_twice(free: &[u32]) -> u32 {
    let mut seen = BTreeSet::new();
    let twice = free.iter().find(|&&index| !seen.insert(index));
    twice.copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
