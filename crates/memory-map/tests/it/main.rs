// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds maps from models.

use std::sync::Arc;

use memory_map::{Map, SlotRow, text};
use memory_model::{
    FileSlice, GuestMemfdSides, HostMemory, Memory, MemoryModel, Region, RegionId, SpaceId,
};

/// A region's handle: its note.
type Note = &'static str;

struct Machine {
    model: MemoryModel<Note>,
    space: SpaceId,
    root: RegionId,
}

impl Machine {
    fn new() -> Self {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t
            .add(Region::container("memory", 1 << 64).with_handle(""))
            .unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        Self { model, space, root }
    }

    fn add(&mut self, region: Region, note: Note) -> RegionId {
        let mut t = self.model.transaction();
        let id = t.add(region.with_handle(note)).unwrap();
        t.commit().unwrap();
        id
    }

    fn put(&mut self, region: Region, at: u64, note: Note) -> RegionId {
        let id = self.add(region, note);
        let mut t = self.model.transaction();
        t.place(id, self.root, at, 0).unwrap();
        t.commit().unwrap();
        id
    }

    fn map(&self) -> Map {
        let note = |region: &Region<Note>| region.handle().to_string();
        Map::of(&self.model, self.space, "test", note)
    }
}

fn memory(size: u64) -> Memory {
    // SAFETY: nothing accesses the memory of a picture.
    let host = unsafe { HostMemory::new(0x7f00_0000_0000, size, Arc::new(())) };
    Memory::host_only(host.unwrap())
}

fn slot(id: u16, gpa: u64, size: u64) -> SlotRow {
    SlotRow {
        id,
        gpa,
        size,
        flags: vec![],
        backing: "host memory at 0x7f0000000000".into(),
        behind: vec!["host memory".into()],
        host_mapped: true,
    }
}

fn tree_names(map: &Map) -> Vec<(usize, &str)> {
    let rows = map.tree.iter();
    rows.map(|row| (row.depth, row.name.as_str())).collect()
}

#[test]
fn a_note_is_the_callers_unless_the_model_knows_more() {
    let mut m = Machine::new();
    let flash = m.put(Region::rom_device("flash", memory(0x1000)), 0, "a chip");
    m.put(Region::alias("window", flash, 0x800, 0x800), 0x4000, "seen");
    let notes = |map: &Map| -> Vec<String> {
        let tree = map.tree.iter().map(|row| row.note.clone());
        tree.chain(map.flat.iter().map(|row| row.note.clone()))
            .collect()
    };
    let window = "shows flash from 0x800 on";
    assert_eq!(notes(&m.map()), ["", "a chip", window, "a chip", "a chip"]);
    let mut t = m.model.transaction();
    t.set_direct_reads(flash, false).unwrap();
    t.commit().unwrap();
    assert_eq!(
        notes(&m.map()),
        ["", "reads trap", window, "a chip", "a chip"]
    );
}

#[test]
fn among_equal_priorities_the_latest_placed_region_has_the_lowest_rank() {
    let mut m = Machine::new();
    m.put(Region::ram("old", memory(0x10000)), 0, "");
    m.put(Region::mmio("new", 0x1000), 0, "");
    let ranks = |map: &Map| -> Vec<(String, usize)> {
        let rows = map.tree.iter();
        rows.map(|row| (row.name.clone(), row.rank)).collect()
    };
    let rank = |name: &str, rank| (name.to_string(), rank);
    assert_eq!(
        ranks(&m.map()),
        [rank("memory", 0), rank("new", 0), rank("old", 1)]
    );
}

#[test]
fn a_flat_row_refers_to_its_region_even_if_another_has_the_same_name() {
    let mut m = Machine::new();
    m.put(Region::mmio("port", 0x1000), 0x1000, "");
    m.put(Region::mmio("port", 0x1000), 0x4000, "");
    let map = m.map();
    let of = |row: &memory_map::FlatRow| &map.tree[row.tree_row.unwrap()];
    let starts: Vec<u128> = map.flat.iter().map(|row| of(row).start).collect();
    assert_eq!(starts, [0x1000, 0x4000]);
}

#[test]
fn only_bytes_that_the_host_can_address_are_host_mapped() {
    let mut m = Machine::new();
    m.put(Region::ram("ram", memory(0x1000)), 0, "");
    m.put(Region::mmio("serial", 8), 0x1000, "");
    let mapped: Vec<bool> = m.map().flat.iter().map(|row| row.host_mapped).collect();
    assert_eq!(mapped, [true, false]);
}

#[test]
fn ram_with_a_guest_memfd_for_private_pages_has_a_private_side() {
    let mut m = Machine::new();
    let file = || {
        let file = std::fs::File::open("/dev/null").unwrap();
        FileSlice::new(Arc::new(file), 0, 0x1000).unwrap()
    };
    let with = |sides| {
        let host = memory(0x1000).host().clone();
        Memory::with_guest_memfd(host, file(), sides).unwrap()
    };
    let ram = [memory(0x1000), with(GuestMemfdSides::Private)];
    let ram = ram.into_iter().chain([with(GuestMemfdSides::Shared)]);
    for (at, memory) in (0..).step_by(0x1000).zip(ram) {
        m.put(Region::ram("ram", memory), at, "");
    }
    m.put(Region::mmio("serial", 8), 0x8000, "");
    let sides: Vec<bool> = m.map().flat.iter().map(|row| row.private_side).collect();
    assert_eq!(sides, [false, true, false, false]);
}

#[test]
fn a_slot_belongs_to_the_direct_run_that_holds_it() {
    let mut m = Machine::new();
    // A run that starts and ends inside pages has a smaller slot.
    m.put(Region::ram("ram", memory(0x3000)), 0x800, "");
    m.put(Region::mmio("serial", 0x1000), 0x8000, "");
    m.put(Region::ram("far", memory(0x1000)), 0x10000, "");
    let map = m.map();
    assert!(map.flat.iter().all(|row| row.slot.is_none()) && map.slots.is_empty());
    let map = map.with_slots([
        slot(9, 0x1000, 0x1000),
        slot(4, 0x2000, 0x1000),
        slot(5, 0x8000, 0x1000),
        slot(6, 0x10000, 0x2000),
    ]);
    let slots: Vec<Option<u16>> = map.flat.iter().map(|row| row.slot).collect();
    assert_eq!(slots, [Some(4), None, None]);
    let ids: Vec<u16> = map.slots.iter().map(|slot| slot.id).collect();
    assert_eq!(ids, [4, 5, 6, 9]);
}

#[test]
fn a_region_that_only_an_alias_shows_is_a_tree_of_its_own() {
    let mut m = Machine::new();
    let bus = m.add(Region::container("bus", 0x10000), "");
    let card = m.add(Region::mmio("card", 0x1000), "");
    let mut t = m.model.transaction();
    t.place(card, bus, 0x2000, 0).unwrap();
    t.commit().unwrap();
    m.put(Region::alias("window", card, 0, 0x1000), 0x8000, "");
    let map = m.map();
    let own = [(0, "memory"), (1, "window"), (0, "bus"), (1, "card")];
    assert_eq!(tree_names(&map), own);
    let card = &map.tree[3];
    assert_eq!((card.start, card.last), (0x2000, 0x2fff));
}

#[test]
fn the_root_of_another_space_is_shown_only_if_an_alias_shows_it() {
    let mut m = Machine::new();
    let ports = m.add(Region::container("ports", 0x10000), "");
    m.model.add_space("ports", ports).unwrap();
    let bus = m.add(Region::container("bus", 0x10000), "");
    m.model.add_space("bus", bus).unwrap();
    assert_eq!(tree_names(&m.map()), [(0, "memory")]);
    // The same through an alias in another tree.
    let between = m.add(Region::alias("between", bus, 0, 0x1000), "");
    m.put(Region::alias("window", between, 0, 0x1000), 0, "");
    assert_eq!(
        tree_names(&m.map()),
        [(0, "memory"), (1, "window"), (0, "bus"), (0, "between")]
    );
}

#[test]
fn a_region_that_is_not_placed_yet_is_a_tree_of_its_own() {
    let mut m = Machine::new();
    let spare = m.add(Region::ram("spare", memory(0x1000)), "unplugged");
    assert_eq!(tree_names(&m.map()), [(0, "memory"), (0, "spare")]);
    let mut t = m.model.transaction();
    t.remove(spare).unwrap();
    t.commit().unwrap();
    assert_eq!(tree_names(&m.map()), [(0, "memory")]);
}

#[test]
fn rows_serialize_with_their_addresses_in_hexadecimal() {
    let mut m = Machine::new();
    m.put(Region::ram("ram", memory(0x1000)), 0x1000, "a note");
    let map = m.map().with_slots([slot(2, 0x1000, 0x1000)]);
    let json = serde_json::to_value(&map).unwrap();
    let wanted = serde_json::json!({
        "machine": "test",
        "tree": [
            {
                "depth": 0, "name": "memory", "kind": "container",
                "start": "0x0", "last": "0xffffffffffffffff",
                "priority": 0, "enabled": true, "readonly": false, "note": "",
            },
            {
                "depth": 1, "name": "ram", "kind": "ram",
                "start": "0x1000", "last": "0x1fff",
                "priority": 0, "enabled": true, "readonly": false, "note": "a note",
            },
        ],
        "flat": [{
            "start": "0x1000", "last": "0x1fff", "region": "ram", "offset": "0x0",
            "kind": "ram", "access": "direct rw", "host_mapped": true, "private_side": false,
            "slot": 2, "note": "a note",
        }],
        "slots": [{
            "id": 2, "gpa": "0x1000", "size": "0x1000", "flags": [],
            "backing": "host memory at 0x7f0000000000",
        }],
    });
    assert_eq!(json, wanted);
}

#[test]
fn text_has_a_line_for_each_short_row_under_a_heading() {
    let mut m = Machine::new();
    m.put(Region::ram("ram", memory(0x1000)), 0x1000, "a note");
    let map = m.map().with_slots([slot(2, 0x1000, 0x1000)]);
    let lines: Vec<String> = text::tree(&map).lines().map(str::to_string).collect();
    assert_eq!(
        lines,
        [
            "Region tree",
            "  0000000000000000-ffffffffffffffff     container    memory",
            "    0000000000001000-0000000000001fff   ram          ram: a note",
        ]
    );
    let lines: Vec<String> = text::slots(&map).lines().map(str::to_string).collect();
    assert_eq!(
        lines,
        [
            "Memslots",
            "   id gpa              size        flags       backing",
            "    2 0000000000001000 0x1000      -           host memory at 0x7f0000000000",
        ]
    );
}
