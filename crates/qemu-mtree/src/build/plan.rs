// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which regions the model gets, and which lie in which.
//!
//! Mostly those of the dump. But an alias may show another part of a region
//! that it lies in itself, as on Arm's SSE boards; QEMU renders that, because
//! the alias does not show the alias again. The model refuses whatever contains
//! itself. So such an alias gets a target of its own: what lies inside its
//! window, each by an alias of the region itself.

use super::cycles::components;
use super::facts::Facts;
use crate::error::Fault;
use crate::parse::line::cut;
use crate::rules;

/// How many regions are looked at to make copies; real machines need some
/// hundreds.
const MAX_COPYING: usize = 1 << 19;

/// A region of the model in the making.
#[derive(Debug)]
pub(super) struct Part {
    /// The region of the dump that it is, or that it stands in for.
    pub(super) drawn: usize,
    pub(super) what: What,
    /// What lies in it and where, the winner first.
    pub(super) children: Vec<(usize, u64)>,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Drawn elsewhere already, or not needed.
    Nothing,
    /// The region, or one just like it.
    Plain,
    /// The alias, of this target.
    Window { target: usize, offset: u64 },
    /// Shows the whole of another part, as it is.
    Whole { target: usize },
}

/// A copy to be made: of a region, as far as it is seen through a window.
struct Copy {
    /// The part that becomes the copy.
    part: usize,
    drawn: usize,
    first: u128,
    /// Excluded, so that it can be 2^64.
    end: u128,
}

/// Plans all regions: those with the numbers of drawn ones, then others.
pub(super) fn plan(facts: &Facts<'_>) -> Result<Vec<Part>, Fault> {
    let regions = &facts.dump.regions;
    let component = components(regions.len(), |index| {
        let children = regions[index].children.iter().copied();
        children.chain(facts.targets[index]).collect()
    });
    let mut planner = Planner {
        facts,
        component,
        parts: Vec::new(),
        copying: 0,
    };
    for (index, region) in regions.iter().enumerate() {
        planner.parts.push(Part {
            drawn: index,
            what: match facts.identity.stands(index) {
                true => What::Plain,
                false => What::Nothing,
            },
            children: match facts.identity.stands(index) && region.alias.is_none() {
                true => planner.children(index),
                false => Vec::new(),
            },
        });
    }
    for index in (0..regions.len()).filter(|&index| facts.identity.stands(index)) {
        planner.aim(index)?;
    }
    Ok(planner.parts)
}

struct Planner<'a> {
    facts: &'a Facts<'a>,
    component: Vec<usize>,
    parts: Vec<Part>,
    /// How many regions were looked at to make copies.
    copying: usize,
}

impl Planner<'_> {
    /// What lies in a region, the winner first. The sort is stable, since QEMU
    /// prints the winner first among those that start at the same address.
    fn children(&self, index: usize) -> Vec<(usize, u64)> {
        let regions = &self.facts.dump.regions;
        let mut children = regions[index].children.clone();
        children.sort_by_key(|&child| {
            rules::winner_first(regions[child].priority, regions[child].address)
        });
        let at = |child: usize| (child, regions[child].address);
        children.into_iter().map(at).collect()
    }

    /// Gives an alias its target.
    fn aim(&mut self, index: usize) -> Result<(), Fault> {
        let region = &self.facts.dump.regions[index];
        let (Some(alias), Some(target)) = (&region.alias, self.facts.targets[index]) else {
            return Ok(());
        };
        let offset = alias.offset;
        self.parts[index].what = What::Window { target, offset };
        if self.component[index] != self.component[target] {
            return Ok(());
        }
        let target = self.add(target, What::Plain);
        self.parts[index].what = What::Window { target, offset };
        let mut todo = vec![Copy {
            part: target,
            drawn: self.parts[target].drawn,
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

    /// Makes a copy, of a region from which `copy.drawn` is reached again.
    fn copy(&mut self, copy: &Copy, todo: &mut Vec<Copy>) {
        let regions = &self.facts.dump.regions;
        let region = &regions[copy.drawn];
        if let (Some(alias), Some(target)) = (&region.alias, self.facts.targets[copy.drawn]) {
            let part = self.add(target, What::Plain);
            self.parts[copy.part].what = What::Window {
                target: part,
                offset: alias.offset,
            };
            todo.push(Copy {
                part,
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
            let part = if self.component[child] != self.component[copy.drawn] {
                self.add(child, What::Whole { target: child })
            } else {
                let part = self.add(child, What::Plain);
                todo.push(Copy {
                    part,
                    drawn: child,
                    first: first - u128::from(address),
                    end: end - u128::from(address),
                });
                part
            };
            self.parts[copy.part].children.push((part, address));
        }
    }

    fn add(&mut self, drawn: usize, what: What) -> usize {
        self.parts.push(Part {
            drawn,
            what,
            children: Vec::new(),
        });
        self.parts.len() - 1
    }
}
