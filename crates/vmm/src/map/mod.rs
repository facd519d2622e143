// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a machine's memory looks like: the tree, the flat view and the
//! memslots as rows, from which text, JSON and pictures are made.

pub mod svg;
pub mod text;

use kvm_slots::{Backing, Slot, Vm};
use memory_model::{AddrRange, GuestAccess, Kind, RegionId};
use serde::Serialize;

use crate::board::Board;
use crate::machine::Machine;

/// A machine's memory at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Map {
    /// The machine's name.
    pub machine: String,
    /// The region tree, parents before their children.
    pub tree: Vec<TreeRow>,
    /// The flat view, by address.
    pub flat: Vec<FlatRow>,
    /// The memslots, by number.
    pub slots: Vec<SlotRow>,
}

/// A region of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TreeRow {
    /// How deep it lies: 0 for the root.
    pub depth: usize,
    /// Its name.
    pub name: String,
    /// The word for its kind.
    pub kind: &'static str,
    /// Where it would start in the address space, if nothing hid it.
    #[serde(serialize_with = "hex")]
    pub start: u128,
    /// Where it would end; the last byte belongs to it.
    #[serde(serialize_with = "hex")]
    pub last: u128,
    /// Among overlapping siblings the highest wins.
    pub priority: i32,
    /// Whether it is there at all.
    pub enabled: bool,
    /// Whether guest writes in it are dropped.
    pub readonly: bool,
    /// What an alias shows, why a piece of a BAR is what it is, or why this
    /// kernel cannot have it.
    pub note: String,
}

/// A run of the flat view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlatRow {
    /// The first address.
    #[serde(serialize_with = "hex")]
    pub start: u64,
    /// The last address: it belongs to the run.
    #[serde(serialize_with = "hex")]
    pub last: u64,
    /// Who answers.
    pub region: String,
    /// Where in that region the run starts.
    #[serde(serialize_with = "hex")]
    pub offset: u64,
    /// The word for the region's kind.
    pub kind: &'static str,
    /// What the guest's loads and stores do.
    #[serde(serialize_with = "shown")]
    pub access: GuestAccess,
    /// Whether the host has an address for these bytes.
    pub host_mapped: bool,
    /// The number of the memslot that makes it direct.
    pub slot: Option<u16>,
    /// As for the tree.
    pub note: String,
}

/// A memslot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotRow {
    /// Its number.
    pub id: u16,
    /// The first guest-physical address.
    #[serde(serialize_with = "hex")]
    pub gpa: u64,
    /// How many bytes.
    #[serde(serialize_with = "hex")]
    pub size: u64,
    /// Flags by the names of the kernel's header, without their prefix.
    pub flags: Vec<&'static str>,
    /// The bytes behind it, with the addresses and descriptors of this run.
    pub backing: String,
    /// The same in words that are the same in every run.
    #[serde(skip)]
    pub behind: Vec<String>,
    /// Whether the host has an address for these bytes.
    #[serde(skip)]
    pub host_mapped: bool,
}

impl Map {
    /// The memory of a machine as it is now.
    pub fn of<V: Vm + Clone + Send + Sync + 'static>(machine: &Machine, board: &Board<V>) -> Self {
        let slots: Vec<Slot> = board.slots.table().slots().cloned().collect();
        Self {
            machine: machine.name.clone(),
            tree: tree_rows(board),
            flat: flat_rows(board, &slots),
            slots: slots.iter().map(SlotRow::from).collect(),
        }
    }
}

impl From<&Slot> for SlotRow {
    fn from(slot: &Slot) -> Self {
        Self {
            id: slot.id,
            gpa: slot.gpa,
            size: slot.size,
            flags: slot.flag_names(),
            backing: slot.backing.to_string(),
            behind: behind(&slot.backing),
            host_mapped: slot.backing.host().is_some(),
        }
    }
}

/// What is behind a slot, without what differs from run to run.
fn behind(backing: &Backing) -> Vec<String> {
    let file = backing.file().map(|file| match backing {
        Backing::GuestMemfd { .. } => format!("guest_memfd + {:#x}", file.offset()),
        _ => format!("file + {:#x}", file.offset()),
    });
    let host = backing.host().map(|_| "host memory".to_string());
    file.into_iter().chain(host).collect()
}

fn tree_rows<V: Vm>(board: &Board<V>) -> Vec<TreeRow> {
    let tree = board.model.tree();
    let mut roots = vec![board.regions[0]];
    // Targets of aliases that lie nowhere are trees of their own.
    roots.extend(
        board.regions[1..]
            .iter()
            .filter(|id| matches!(tree.place(**id), Ok(None))),
    );
    let mut starts: Vec<u128> = Vec::new();
    let mut rows = Vec::new();
    for (depth, id) in roots.into_iter().flat_map(|root| tree.walk(root)) {
        let place = tree.place(id).ok().flatten();
        starts.truncate(depth);
        let parent = starts.last().copied().unwrap_or(0);
        let start = parent + place.map_or(0, |place| place.address.into());
        starts.push(start);
        rows.extend(tree_row(board, id, depth, start));
    }
    rows
}

fn tree_row<V: Vm>(board: &Board<V>, id: RegionId, depth: usize, start: u128) -> Option<TreeRow> {
    let tree = board.model.tree();
    let region = tree.region(id).ok()?;
    let switches = tree.switches(id).ok()?;
    Some(TreeRow {
        depth,
        name: region.name().to_string(),
        kind: region.kind().word(),
        start,
        last: start + (region.size() - 1),
        priority: tree.place(id).ok()?.map_or(0, |place| place.priority),
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
            _ => note(region.handle()),
        },
    })
}

fn flat_rows<V: Vm>(board: &Board<V>, slots: &[Slot]) -> Vec<FlatRow> {
    let view = board.model.view(board.space);
    let mut by_address: Vec<&Slot> = slots.iter().collect();
    by_address.sort_by_key(|slot| slot.gpa);
    let rows = view.ranges().map(|run| {
        let range = run.range();
        let direct = run.access().reads_directly();
        // A slot has whole pages only, so it may start behind the run's start.
        let first = by_address.partition_point(|slot| slot.gpa < range.start());
        let inside = by_address[first..].iter().take_while(|slot| {
            AddrRange::new(slot.gpa, slot.size.into()).is_some_and(|slot| range.covers(slot))
        });
        let slot = inside.filter(|_| direct).min_by_key(|slot| slot.id);
        FlatRow {
            start: range.start(),
            last: range.last(),
            region: run.region().name().to_string(),
            offset: run.offset(),
            kind: run.region().kind().word(),
            access: run.access(),
            host_mapped: run.region().handle().host.is_some(),
            slot: slot.map(|slot| slot.id),
            note: note(run.region().handle()),
        }
    });
    rows.collect()
}

fn note(handle: &crate::handle::Handle) -> String {
    handle
        .refused
        .map_or_else(|| handle.note.clone(), |why| why.to_string())
}

fn hex<T: std::fmt::LowerHex, S: serde::Serializer>(n: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{n:#x}"))
}

fn shown<T: std::fmt::Display, S: serde::Serializer>(it: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(it)
}
