// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans the regions of the model and their children.
//!
//! Most regions are copied from the dump one to one. But an alias can show
//! another part of a region that contains the alias, as on Arm's SSE boards.
//! QEMU renders such an alias, because the shown part does not include the
//! alias again. The model rejects any region that contains itself. The plan
//! therefore gives such an alias a target of its own, which holds only the
//! children inside the alias's window. Children on a cycle are copied, and all
//! others are shown by an alias.

use super::cycles::components;
use super::facts::Facts;
use crate::error::Fault;
use crate::parse::line::cut;
use crate::rules;

/// The most regions that are visited to make copies. Real machines need some
/// hundreds.
const MAX_COPYING: usize = 1 << 19;

/// A planned region of the model.
#[derive(Debug)]
pub(super) struct PlannedRegion {
    /// The region of the dump that it represents.
    pub(super) drawn: usize,
    pub(super) kind: PlannedKind,
    /// Its children and their addresses, the winner first.
    pub(super) children: Vec<(usize, u64)>,
}

/// What the model gets for a planned region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlannedKind {
    /// Nothing: another planned region represents it, or no region needs it.
    Skipped,
    /// A region that is not an alias, or a copy of one.
    Region,
    /// An alias of part of `target`.
    Alias { target: usize, offset: u64 },
    /// An alias of all of `target`.
    WholeAlias { target: usize },
}

/// A pending copy of the part of a region that a window shows.
struct Copy {
    /// The planned region that becomes the copy.
    index: usize,
    drawn: usize,
    first: u128,
    /// Exclusive, so that it can be 2^64.
    end: u128,
}

/// Plans all regions. The first ones have the indices of the dump; copies
/// follow.
pub(super) fn plan(facts: &Facts<'_>) -> Result<Vec<PlannedRegion>, Fault> {
    let regions = &facts.dump.regions;
    let component = components(regions.len(), |index| {
        let children = regions[index].children.iter().copied();
        children.chain(facts.targets[index]).collect()
    });
    let mut planner = Planner {
        facts,
        component,
        planned: Vec::new(),
        copying: 0,
    };
    for (index, region) in regions.iter().enumerate() {
        planner.planned.push(PlannedRegion {
            drawn: index,
            kind: match facts.identity.is_canonical(index) {
                true => PlannedKind::Region,
                false => PlannedKind::Skipped,
            },
            children: match facts.identity.is_canonical(index) && region.alias.is_none() {
                true => planner.children(index),
                false => Vec::new(),
            },
        });
    }
    for index in (0..regions.len()).filter(|&index| facts.identity.is_canonical(index)) {
        planner.aim(index)?;
    }
    Ok(planner.planned)
}

struct Planner<'a> {
    facts: &'a Facts<'a>,
    component: Vec<usize>,
    planned: Vec<PlannedRegion>,
    /// The number of regions that were visited to make copies.
    copying: usize,
}

impl Planner<'_> {
    /// Returns the children of a region, the winner first. The sort is stable,
    /// because QEMU prints the winner first among children with the same start
    /// address.
    fn children(&self, index: usize) -> Vec<(usize, u64)> {
        let regions = &self.facts.dump.regions;
        let mut children = regions[index].children.clone();
        children.sort_by_key(|&child| {
            rules::winner_first(regions[child].priority, regions[child].address)
        });
        let at = |child: usize| (child, regions[child].address);
        children.into_iter().map(at).collect()
    }

    /// Sets the target of an alias. Copies the target if it contains the alias.
    fn aim(&mut self, index: usize) -> Result<(), Fault> {
        let region = &self.facts.dump.regions[index];
        let (Some(alias), Some(target)) = (&region.alias, self.facts.targets[index]) else {
            return Ok(());
        };
        let offset = alias.offset;
        self.planned[index].kind = PlannedKind::Alias { target, offset };
        if self.component[index] != self.component[target] {
            return Ok(());
        }
        let target = self.add(target, PlannedKind::Region);
        self.planned[index].kind = PlannedKind::Alias { target, offset };
        let mut todo = vec![Copy {
            index: target,
            drawn: self.planned[target].drawn,
            first: offset.into(),
            end: u128::from(offset) + region.size,
        }];
        while let Some(copy) = todo.pop() {
            self.copying += 1 + self.facts.dump.regions[copy.drawn].children.len();
            if self.copying > MAX_COPYING {
                let what = format!("alias '{}' shows itself again and again", cut(&region.name));
                return Err(Fault::new(region.line, what));
            }
            self.copy(&copy, &mut todo);
        }
        Ok(())
    }

    /// Makes one copy. `copy.drawn` is part of a cycle of regions.
    fn copy(&mut self, copy: &Copy, todo: &mut Vec<Copy>) {
        let regions = &self.facts.dump.regions;
        let region = &regions[copy.drawn];
        if let (Some(alias), Some(target)) = (&region.alias, self.facts.targets[copy.drawn]) {
            let index = self.add(target, PlannedKind::Region);
            self.planned[copy.index].kind = PlannedKind::Alias {
                target: index,
                offset: alias.offset,
            };
            todo.push(Copy {
                index,
                drawn: target,
                first: u128::from(alias.offset) + copy.first,
                end: u128::from(alias.offset) + copy.end,
            });
            return;
        }
        for (child, address) in self.children(copy.drawn) {
            let first = copy.first.max(address.into());
            let end = copy.end.min(u128::from(address) + self.facts.size(child));
            if regions[child].disabled || first >= end {
                continue;
            }
            let index = if self.component[child] != self.component[copy.drawn] {
                self.add(child, PlannedKind::WholeAlias { target: child })
            } else {
                let index = self.add(child, PlannedKind::Region);
                todo.push(Copy {
                    index,
                    drawn: child,
                    first: first - u128::from(address),
                    end: end - u128::from(address),
                });
                index
            };
            self.planned[copy.index].children.push((index, address));
        }
    }

    fn add(&mut self, drawn: usize, kind: PlannedKind) -> usize {
        self.planned.push(PlannedRegion {
            drawn,
            kind,
            children: Vec::new(),
        });
        self.planned.len() - 1
    }
}
