// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds a [`MemoryModel`] and its views from the parsed trees.

mod cycles;
mod facts;
mod overlaps;
mod plan;
mod regions;
mod view_root;
mod work;

use memory_model::MemoryModel;

use facts::Facts;
use overlaps::overlaps;
use plan::plan;
use regions::{add, frame, place, refused};
use view_root::view_root;
use work::{MAX_VISITS, first_over_limit};

use crate::error::Fault;
use crate::machine::{AddressSpace, Machine, View, ViewRoot};
use crate::parse::dump::Dump;
use crate::rules;

/// Builds a machine's memory from a dump.
pub(crate) fn build(dump: &Dump) -> Result<Machine, Fault> {
    let facts = Facts::of(dump)?;
    let planned = plan(&facts)?;
    let mut groups: Vec<(Option<usize>, Vec<AddressSpace>)> = Vec::new();
    for spaces in &dump.spaces {
        let root = facts.identity.canonical(spaces.root);
        let view = view_root(&facts, root);
        let shown = spaces.names.iter().map(|name| AddressSpace {
            name: name.clone(),
            root: dump.regions[root].name.clone(),
            alias: facts.targets[root].map(|target| dump.regions[target].name.clone()),
        });
        match groups.iter_mut().find(|(other, _)| *other == view) {
            Some((_, group)) => group.extend(shown),
            None => groups.push((view, shown.collect())),
        }
    }
    if let Some(root) = first_over_limit(
        &facts,
        &planned,
        groups.iter().filter_map(|(view, _)| *view),
    ) {
        let what = format!("through aliases, more than {MAX_VISITS} regions are seen");
        return Err(Fault::new(dump.regions[root].line, what));
    }
    let mut model = MemoryModel::new();
    let mut transaction = model.transaction();
    let ids = add(&facts, &planned, &mut transaction)?;
    place(&facts, &planned, &ids, &mut transaction)?;
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
    for ((_, spaces), root) in groups.into_iter().zip(roots) {
        let root = match root {
            Some((view, id)) => {
                let region = &dump.regions[view];
                let space = model.add_space(&region.name, id);
                let space = space.map_err(|error| refused(region, &error))?;
                Some(ViewRoot {
                    name: region.name.clone(),
                    space,
                })
            }
            None => None,
        };
        views.push(View { spaces, root });
    }
    let mut regions = dump.regions.iter();
    let kvm = regions.any(|region| rules::only_under_kvm(&region.name));
    Ok(Machine {
        model,
        views,
        kvm,
        overlaps: overlaps(&facts),
        cut_off: None,
    })
}
