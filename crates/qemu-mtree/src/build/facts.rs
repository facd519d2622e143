// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Collects what identities, targets and rules determine about the regions of a
//! dump.

use std::collections::HashSet;

use crate::error::Fault;
use crate::identify::identity::Identity;
use crate::identify::targets::targets;
use crate::parse::dump::{Drawn, Dump};
use crate::rules::{self, Shape};

/// The facts about each region, by index. Only canonical regions have
/// meaningful facts.
pub(super) struct Facts<'a> {
    pub(super) dump: &'a Dump,
    pub(super) identity: Identity,
    pub(super) targets: Vec<Option<usize>>,
    /// Whether the region answers accesses.
    pub(super) answers: Vec<bool>,
}

impl<'a> Facts<'a> {
    /// Derives all facts of a dump.
    pub(super) fn of(dump: &'a Dump) -> Result<Self, Fault> {
        let identity = Identity::of(dump);
        let targets = targets(dump, &identity)?;
        let regions = dump.regions.iter();
        let parents = regions.filter(|r| r.parent.is_some() && !r.children.is_empty());
        let parents: HashSet<String> = parents.map(|region| rules::kind(&region.name)).collect();
        let regions = dump.regions.iter();
        let answers = regions.map(|region| answers(dump, &parents, region));
        Ok(Self {
            answers: answers.collect(),
            dump,
            identity,
            targets,
        })
    }

    /// The number of bytes, which may be 0.
    pub(super) fn size(&self, index: usize) -> u128 {
        let region = &self.dump.regions[index];
        let empty = rules::is_empty(region.size, region.kind, region.alias.is_some());
        if empty { 0 } else { region.size }
    }
}

/// Returns whether a region answers accesses itself.
fn answers(dump: &Dump, parents: &HashSet<String>, region: &Drawn) -> bool {
    let children = || region.children.iter().map(|&child| &dump.regions[child]);
    let shape = Shape {
        name: &region.name,
        size: region.size,
        priority: region.priority,
        placed: region.parent.is_some(),
        first_child: children().map(|child| child.address).min(),
        namesake: children().any(|child| child.name == region.name),
        resembles_parent: parents.contains(&rules::kind(&region.name)),
    };
    region.alias.is_none() && (region.kind.is_memory() || rules::answers(shape))
}
