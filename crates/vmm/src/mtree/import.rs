// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From what was drawn to a [`MemoryModel`], and the views to be printed.

use std::collections::HashSet;
use std::sync::Arc;

use memory_model::{
    HostMemory, Memory, MemoryModel, Region, RegionId, SpaceId, Switches, Transaction, TreeError,
};

use super::error::Fault;
use super::identity::Identity;
use super::line::{Type, cut};
use super::parse::{Drawn, Dump};
use super::plan::{Part, What, plan};
use super::resolve;
use super::roots::view_root;
use super::rules::{self, Shape};
use super::work::{MAX_SEEN, too_much};

/// What a region carries through the model: what only the printer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The type as the dump has it.
    pub kind: Type,
    /// The priority, which the model keeps for placed regions only.
    pub priority: i32,
}

/// A machine's memory, put together again from a dump of it.
#[derive(Debug)]
pub struct Imported {
    /// All its regions, and one address space for each view that shows any.
    pub model: MemoryModel<Shown>,
    /// What `info mtree -f` lists, by the first address space of each.
    pub views: Vec<View>,
    /// Whether KVM runs the machine.
    pub kvm: bool,
}

/// The address spaces that share a flat view.
#[derive(Debug)]
pub struct View {
    /// The address spaces.
    pub shown_by: Vec<ShownBy>,
    /// The name of the region that the view is rendered from, and the model's
    /// address space that renders it; `None` if nothing can show.
    pub root: Option<(String, SpaceId)>,
}

/// One address space of a view.
#[derive(Debug)]
pub struct ShownBy {
    /// Its name.
    pub name: String,
    /// The name of its own root.
    pub root: String,
    /// If that root is an alias: the name of what it shows.
    pub alias: Option<String>,
}

/// Everything known of the regions, by index; only of those that stand for
/// themselves.
pub(super) struct Facts<'a> {
    pub(super) dump: &'a Dump,
    pub(super) identity: Identity,
    pub(super) targets: Vec<Option<usize>>,
    /// Whether the region answers accesses.
    pub(super) answers: Vec<bool>,
}

impl Facts<'_> {
    /// The number of bytes, which may be 0.
    pub(super) fn size(&self, index: usize) -> u128 {
        let region = &self.dump.regions[index];
        let empty = rules::is_empty(region.size, region.kind, region.alias.is_some());
        if empty { 0 } else { region.size }
    }
}

/// RAM needs a host address and here is none: this one is made up, and nothing
/// is mapped at it. The model never reads through an address, and what it
/// renders does not depend on it.
const NOWHERE: u64 = 0x1000;

/// Puts a machine's memory together.
pub(super) fn import(dump: &Dump) -> Result<Imported, Fault> {
    let identity = Identity::of(dump);
    let targets = resolve::targets(dump, &identity)?;
    let regions = dump.regions.iter();
    let parents = regions.filter(|r| r.parent.is_some() && !r.children.is_empty());
    let parents: HashSet<String> = parents.map(|region| rules::kind(&region.name)).collect();
    let regions = dump.regions.iter();
    let answers = regions.map(|region| answers(dump, &parents, region));
    let facts = Facts {
        answers: answers.collect(),
        dump,
        identity,
        targets,
    };
    let parts = plan(&facts)?;
    let mut groups: Vec<(Option<usize>, Vec<ShownBy>)> = Vec::new();
    for spaces in &dump.spaces {
        let root = facts.identity.same(spaces.root);
        let view = view_root(&facts, root);
        let shown_by = spaces.names.iter().map(|name| ShownBy {
            name: name.clone(),
            root: dump.regions[root].name.clone(),
            alias: facts.targets[root].map(|target| dump.regions[target].name.clone()),
        });
        match groups.iter_mut().find(|(other, _)| *other == view) {
            Some((_, group)) => group.extend(shown_by),
            None => groups.push((view, shown_by.collect())),
        }
    }
    if let Some(root) = too_much(&facts, &parts, groups.iter().filter_map(|(view, _)| *view)) {
        let what = format!("through aliases, more than {MAX_SEEN} regions are seen");
        return Err(Fault::new(dump.regions[root].line, what));
    }
    let mut model = MemoryModel::new();
    let mut transaction = model.transaction();
    let ids = add(&facts, &parts, &mut transaction)?;
    place(&facts, &parts, &ids, &mut transaction)?;
    let mut roots = Vec::new();
    for (view, _) in &groups {
        let known = view.and_then(|view| Some((view, ids[view]?)));
        roots.push(match known {
            Some((view, id)) => {
                let framed = frame(&mut transaction, &dump.regions[view], id);
                Some((view, framed.map_err(|e| refused(&dump.regions[view], &e))?))
            }
            None => None,
        });
    }
    let line = dump.regions.first().map_or(1, |region| region.line);
    let committed = transaction.commit();
    committed.map_err(|error| Fault::new(line, error.to_string()))?;
    let mut views = Vec::new();
    for ((_, shown_by), root) in groups.into_iter().zip(roots) {
        let root = match root {
            Some((view, id)) => {
                let region = &dump.regions[view];
                let space = model.add_space(&region.name, id);
                let space = space.map_err(|error| refused(region, &error))?;
                Some((region.name.clone(), space))
            }
            None => None,
        };
        views.push(View { shown_by, root });
    }
    let mut regions = dump.regions.iter();
    let kvm = regions.any(|region| rules::only_under_kvm(&region.name));
    Ok(Imported { model, views, kvm })
}

/// The model's refusal, at the line of the region that it is about.
fn refused(region: &Drawn, error: &dyn std::error::Error) -> Fault {
    Fault::new(region.line, error.to_string())
}

/// Whether a region answers accesses itself.
fn answers(dump: &Dump, parents: &HashSet<String>, region: &Drawn) -> bool {
    let children = || region.children.iter().map(|&child| &dump.regions[child]);
    let shape = Shape {
        name: &region.name,
        size: region.size,
        priority: region.priority,
        placed: region.parent.is_some(),
        first_child: children().map(|child| child.address).min(),
        namesake: children().any(|child| child.name == region.name),
        like_a_parent: parents.contains(&rules::kind(&region.name)),
    };
    region.alias.is_none() && (region.kind.is_memory() || rules::answers(shape))
}

/// Adds every region, aliases after what they show.
fn add(
    facts: &Facts<'_>,
    parts: &[Part],
    transaction: &mut Transaction<'_, Shown>,
) -> Result<Vec<Option<RegionId>>, Fault> {
    let mut ids = vec![None; parts.len()];
    let mut add = |region, drawn: &Drawn| {
        let id = transaction.add(region);
        id.map_err(|error| refused(drawn, &error))
    };
    for (index, part) in parts.iter().enumerate() {
        if part.what == What::Plain {
            let drawn = &facts.dump.regions[part.drawn];
            let region = plain(drawn, facts.answers[part.drawn])?;
            ids[index] = Some(add(region.with_switches(switches(drawn)), drawn)?);
        }
    }
    for index in 0..parts.len() {
        // An alias's target may be an alias. No chain of them is endless: the
        // plan saw to that.
        let mut chain = vec![index];
        while let Some(&top) = chain.last() {
            let drawn = &facts.dump.regions[parts[top].drawn];
            let (target, offset, switches) = match parts[top].what {
                What::Window { target, offset } => (target, offset, switches(drawn)),
                What::Whole { target } => (target, 0, Switches::default()),
                What::Plain | What::Nothing => break,
            };
            match (ids[top], ids[target]) {
                (Some(_), _) => drop(chain.pop()),
                (None, None) => chain.push(target),
                (None, Some(target)) => {
                    let alias = Region::alias(&drawn.name, target, offset, drawn.size);
                    let alias = alias.with_handle(shown(drawn)).with_switches(switches);
                    ids[top] = Some(add(alias, drawn)?);
                }
            }
        }
    }
    Ok(ids)
}

/// A region that is no alias.
fn plain(region: &Drawn, answers: bool) -> Result<Region<Shown>, Fault> {
    let (name, size) = (&*region.name, region.size);
    let host = || {
        let bytes = u64::try_from(size).ok();
        // SAFETY: nothing is mapped there, and no guest gets it.
        let new = |bytes| unsafe { HostMemory::new(NOWHERE, bytes, Arc::new(())) };
        let host = bytes.and_then(new);
        host.ok_or_else(|| {
            let what = format!(
                "'{}' has {size:#x} bytes; expected memory of less than 2^64",
                cut(name)
            );
            Fault::new(region.line, what)
        })
    };
    let made = match region.kind {
        Type::Container | Type::Io if answers => Region::mmio(name, size),
        Type::Container | Type::Io => Region::container(name, size),
        Type::Ram => Region::ram(name, Memory::host_only(host()?)),
        Type::Rom => Region::rom(name, Memory::host_only(host()?)),
        Type::RomDevice => Region::rom_device(name, Memory::host_only(host()?)),
        Type::DeviceRam => Region::device_ram(name, host()?),
    };
    Ok(made.with_handle(shown(region)))
}

fn shown(region: &Drawn) -> Shown {
    Shown {
        kind: region.kind,
        priority: region.priority,
    }
}

fn switches(region: &Drawn) -> Switches {
    let alias = region.alias.is_some();
    let readonly = match alias {
        true => rules::readonly_alias(&region.name, region.kind),
        false => region.kind == Type::Rom,
    };
    Switches {
        // The model has no regions of 0 bytes: hidden comes to the same.
        enabled: !region.disabled && !rules::is_empty(region.size, region.kind, alias),
        readonly,
        nonvolatile: region.nonvolatile,
        ..Switches::default()
    }
}

/// Puts every region into the one that it lies in, the loser first.
fn place(
    facts: &Facts<'_>,
    parts: &[Part],
    ids: &[Option<RegionId>],
    transaction: &mut Transaction<'_, Shown>,
) -> Result<(), Fault> {
    for (index, parent) in parts.iter().enumerate() {
        for &(child, address) in parent.children.iter().rev() {
            let drawn = &facts.dump.regions[parts[child].drawn];
            let (Some(child), Some(parent)) = (ids[child], ids[index]) else {
                continue;
            };
            let placed = transaction.place(child, parent, address, drawn.priority);
            placed.map_err(|error| refused(drawn, &error))?;
        }
    }
    Ok(())
}

/// What an address space shows that starts from `region`: QEMU has it where it
/// lies in its parent, the model at 0. Where these differ, it goes into a frame
/// as large as an address space.
fn frame(
    transaction: &mut Transaction<'_, Shown>,
    region: &Drawn,
    id: RegionId,
) -> Result<RegionId, TreeError> {
    if region.address == 0 {
        return Ok(id);
    }
    let shown = shown(region);
    let frame = Region::container("frame", 1 << 64).with_handle(shown);
    let frame = transaction.add(frame)?;
    let all = Region::alias("all", id, 0, region.size).with_handle(shown);
    let all = transaction.add(all)?;
    transaction.place(all, frame, region.address, 0)?;
    Ok(frame)
}
