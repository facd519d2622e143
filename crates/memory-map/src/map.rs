// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds a map from a model: rows of the tree, of the flat view and of the
//! memslots.

use std::collections::{BTreeSet, HashMap};

use memory_model::{
    AddrRange, Backing, FlatView, GuestMemfdSides, Kind, MemoryModel, Region, RegionId, SpaceId,
    Tree,
};
use serde::Serialize;

use crate::rows::{FlatRow, SlotRow, TreeRow};

/// A snapshot of a guest's memory map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Map {
    /// The machine's name.
    pub machine: String,
    /// The region tree, parents before their children. The address space's own
    /// tree comes first. Further trees have no place in the address space.
    pub tree: Vec<TreeRow>,
    /// The flat view, by address.
    pub flat: Vec<FlatRow>,
    /// The memslots, by number.
    pub slots: Vec<SlotRow>,
}

impl Map {
    /// Takes a snapshot of the address space `space`. `machine` is the name of
    /// the machine.
    ///
    /// `note` returns information about a region that the model does not have,
    /// such as why a piece of a BAR is trapped. Rows contain it; an empty note
    /// is not shown.
    ///
    /// Besides the tree of `space`, the map contains the other trees of the
    /// model. It omits the trees of other address spaces, unless an alias shows
    /// them.
    ///
    /// # Panics
    /// Panics if `space` does not exist.
    #[track_caller]
    pub fn of<H>(
        model: &MemoryModel<H>,
        space: SpaceId,
        machine: &str,
        note: impl Fn(&Region<H>) -> String,
    ) -> Self {
        let tree = model.tree();
        let regions = regions(tree, roots(model, space));
        Self {
            machine: machine.to_string(),
            tree: tree_rows(tree, &regions, &note),
            flat: flat_rows(&model.view(space), &indices(&regions), &note),
            slots: Vec::new(),
        }
    }

    /// Adds memslots. Also sets [`FlatRow::slot`] of the runs that they make
    /// direct.
    #[must_use]
    pub fn with_slots(mut self, slots: impl IntoIterator<Item = SlotRow>) -> Self {
        self.slots = slots.into_iter().collect();
        self.slots.sort_by_key(|slot| slot.id);
        let mut by_address: Vec<&SlotRow> = self.slots.iter().collect();
        by_address.sort_by_key(|slot| slot.gpa);
        for row in &mut self.flat {
            row.slot = slot_of(row, &by_address);
        }
        self
    }
}

/// Returns the number of the slot that makes a run direct.
fn slot_of(row: &FlatRow, by_address: &[&SlotRow]) -> Option<u16> {
    let range = AddrRange::from_bounds(row.start, row.last)?;
    let direct = row.access.reads_directly();
    // A slot has whole pages only, so it may start after the run's start.
    let first = by_address.partition_point(|slot| slot.gpa < range.start());
    let inside = by_address[first..].iter().take_while(|slot| {
        AddrRange::new(slot.gpa, slot.size.into()).is_some_and(|slot| range.covers(slot))
    });
    inside.filter(|_| direct).map(|slot| slot.id).min()
}

/// Returns the roots of the trees that the map of an address space shows.
fn roots<H>(model: &MemoryModel<H>, space: SpaceId) -> Vec<RegionId> {
    let tree = model.tree();
    let (own, others): (Vec<_>, Vec<_>) = model.spaces().partition(|(id, ..)| *id == space);
    let mut roots: Vec<RegionId> = own.into_iter().map(|(_, _, root)| root).collect();
    let others: BTreeSet<RegionId> = others.into_iter().map(|(_, _, root)| root).collect();
    let shown = shown_by_aliases(tree, &roots);
    let further = tree
        .roots()
        .filter(|root| !roots.contains(root) && (shown.contains(root) || !others.contains(root)));
    let further: Vec<RegionId> = further.collect();
    roots.extend(further);
    roots
}

/// Returns `from`, and the roots of all trees that aliases in these trees show,
/// directly or indirectly.
fn shown_by_aliases<H>(tree: &Tree<H>, from: &[RegionId]) -> BTreeSet<RegionId> {
    let mut shown = BTreeSet::new();
    let mut pending = from.to_vec();
    while let Some(root) = pending.pop() {
        if !shown.insert(root) {
            continue;
        }
        let regions = tree.walk(root).into_iter();
        let regions = regions.filter_map(|(_, id)| tree.region(id).ok());
        pending.extend(regions.filter_map(|region| match region.kind() {
            Kind::Alias { target, .. } => Some(root_of(tree, *target)),
            _ => None,
        }));
    }
    shown
}

fn root_of<H>(tree: &Tree<H>, mut id: RegionId) -> RegionId {
    while let Ok(Some(place)) = tree.place(id) {
        id = place.parent;
    }
    id
}

/// Returns the regions of the trees, with their depths.
fn regions<H>(tree: &Tree<H>, roots: Vec<RegionId>) -> Vec<(usize, RegionId)> {
    roots
        .into_iter()
        .flat_map(|root| tree.walk(root))
        .filter(|&(_, id)| tree.region(id).is_ok())
        .collect()
}

/// Returns the index of each region's row.
fn indices(regions: &[(usize, RegionId)]) -> HashMap<RegionId, usize> {
    let ids = regions.iter().map(|&(_, id)| id);
    ids.zip(0..).collect()
}

/// Returns the rank of each region among its siblings, the winner's being 0.
fn ranks<H>(tree: &Tree<H>, regions: &[(usize, RegionId)]) -> HashMap<RegionId, usize> {
    let children = regions.iter().filter_map(|&(_, id)| tree.children(id).ok());
    children
        .flat_map(|winner_first| winner_first.into_iter().zip(0..))
        .collect()
}

fn tree_rows<H>(
    tree: &Tree<H>,
    regions: &[(usize, RegionId)],
    note: &impl Fn(&Region<H>) -> String,
) -> Vec<TreeRow> {
    let ranks = ranks(tree, regions);
    let mut starts: Vec<u128> = Vec::new();
    let mut rows = Vec::new();
    for &(depth, id) in regions {
        let place = tree.place(id).ok().flatten();
        starts.truncate(depth);
        let parent = starts.last().copied().unwrap_or(0);
        let start = parent + place.map_or(0, |place| place.address.into());
        starts.push(start);
        let rank = ranks.get(&id).copied().unwrap_or(0);
        let row = tree_row(tree, id, depth, start, note);
        rows.extend(row.map(|row| TreeRow { rank, ..row }));
    }
    rows
}

fn tree_row<H>(
    tree: &Tree<H>,
    id: RegionId,
    depth: usize,
    start: u128,
    note: &impl Fn(&Region<H>) -> String,
) -> Option<TreeRow> {
    let region = tree.region(id).ok()?;
    let switches = tree.switches(id).ok()?;
    Some(TreeRow {
        depth,
        name: region.name().to_string(),
        kind: region.kind().word(),
        start,
        last: start + (region.size() - 1),
        priority: tree.place(id).ok()?.map_or(0, |place| place.priority),
        rank: 0,
        enabled: switches.enabled,
        readonly: switches.readonly,
        note: match region.kind() {
            Kind::Alias { target, offset } => {
                format!(
                    "shows {} from {offset:#x} on",
                    tree.region(*target).ok()?.name()
                )
            }
            Kind::RomDevice(_) if !switches.direct_reads => "reads trap".into(),
            _ => note(region),
        },
    })
}

fn has_private_side(backing: &Backing) -> bool {
    match backing {
        Backing::Memory(memory) => memory
            .guest_memfd()
            .is_some_and(|(_, sides)| sides != GuestMemfdSides::Shared),
        Backing::PrivateMmio(_) | Backing::DeviceRam(_) | Backing::Nothing => false,
    }
}

fn flat_rows<H>(
    view: &FlatView<H>,
    tree_rows: &HashMap<RegionId, usize>,
    note: &impl Fn(&Region<H>) -> String,
) -> Vec<FlatRow> {
    let rows = view.ranges().map(|run| FlatRow {
        start: run.range().start(),
        last: run.range().last(),
        region: run.region().name().to_string(),
        tree_row: tree_rows.get(&run.id()).copied(),
        offset: run.offset(),
        kind: run.region().kind().word(),
        access: run.access(),
        host_mapped: run.backing().host().is_some(),
        private_side: has_private_side(&run.backing()),
        slot: None,
        note: note(run.region()),
    });
    rows.collect()
}
