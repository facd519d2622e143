// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The clients for which writes are logged, and memory that cannot be logged.

use crate::common;

use std::sync::{Arc, Mutex};

use common::{
    EVERYTHING, Log, Machine, Recorder, bytes, guest_memfd_ram, host, memory, private_mmio, ram,
    take,
};
use memory_model::{
    AddrRange, DirtyClients, GuestMemfdSides, Listener, ListenerError, Region, TreeError,
    Unloggable, Update,
};

const VGA: DirtyClients = DirtyClients::VGA;
const CODE: DirtyClients = DirtyClients::CODE;
const MIGRATION: DirtyClients = DirtyClients::MIGRATION;
const NONE: DirtyClients = DirtyClients::NONE;

/// Why writes to a region cannot be logged, if they cannot.
fn why_not(m: &mut Machine, region: Region) -> Option<Unloggable> {
    let id = m.add(region);
    let mut t = m.model.transaction();
    match t.set_dirty_logging(id, VGA) {
        Ok(()) => None,
        Err(TreeError::NotLoggable { why, .. }) => Some(why),
        Err(other) => panic!("{other}"),
    }
}

fn set_global(m: &mut Machine, clients: DirtyClients) {
    let mut t = m.model.transaction();
    t.set_global_dirty_logging(clients);
    t.commit().unwrap();
}

#[test]
fn what_has_host_memory_of_its_own_can_be_logged_and_nothing_else() {
    let m = &mut Machine::new();
    let root = m.root;
    assert_eq!(why_not(m, ram("r", 8)), None);
    assert_eq!(why_not(m, Region::rom("r", memory(8))), None);
    assert_eq!(why_not(m, Region::rom_device("r", memory(8))), None);
    for sides in [
        GuestMemfdSides::Private,
        GuestMemfdSides::Shared,
        GuestMemfdSides::Both,
    ] {
        let why = why_not(m, guest_memfd_ram("r", 8, sides));
        assert_eq!(why, Some(Unloggable::GuestMemfd));
    }
    let why = why_not(m, Region::device_ram("r", host(8)));
    assert_eq!(why, Some(Unloggable::DeviceRam));
    let why = why_not(m, private_mmio("r", 8));
    assert_eq!(why, Some(Unloggable::PrivateMmio));
    for region in [
        Region::mmio("r", 8),
        Region::reservation("r", 8),
        Region::container("r", 8),
        Region::alias("r", root, 0, 8),
    ] {
        assert_eq!(why_not(m, region), Some(Unloggable::NoMemory));
    }
}

#[test]
fn a_log_that_starts_and_stops_changes_runs_and_removes_none() {
    let mut m = Machine::new();
    let a = m.put(ram("a", 0x10), 0);
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    m.model.add_listener(m.space, 0, listener).unwrap();
    take(&log);
    m.change(|t| t.set_dirty_logging(a, VGA));
    m.change(|t| t.set_dirty_logging(a, VGA | CODE));
    m.change(|t| t.set_dirty_logging(a, VGA | CODE));
    m.change(|t| t.set_dirty_logging(a, NONE));
    assert_eq!(
        take(&log),
        [
            "l prepare 0-f a rw > 0-f a rw log VGA",
            "l commit",
            "l prepare 0-f a rw log VGA > 0-f a rw log VGA | CODE",
            "l commit",
            "l prepare 0-f a rw log VGA | CODE > 0-f a rw",
            "l commit",
        ]
    );
}

#[test]
fn a_region_is_logged_wherever_it_shows() {
    let mut m = Machine::new();
    let a = m.put(ram("a", 0x10), 0);
    m.put(Region::alias("alias", a, 8, 4), 0x100);
    m.put(ram("other", 0x10), 0x10);
    m.change(|t| t.set_dirty_logging(a, VGA));
    assert_eq!(
        m.view(),
        [
            "0-f a rw log VGA",
            "10-1f other rw",
            "100-103 a @8 rw log VGA"
        ]
    );
}

#[test]
fn a_log_takes_in_what_is_placed_later_and_lasts_while_it_is_hidden() {
    let mut m = Machine::new();
    let a = m.add(ram("a", 0x10));
    m.change(|t| t.set_dirty_logging(a, VGA));
    assert!(m.view().is_empty());
    let root = m.root;
    m.change(|t| t.place(a, root, 0, 0));
    m.change(|t| t.set_enabled(a, false));
    m.change(|t| t.set_enabled(a, true));
    assert_eq!(m.view(), ["0-f a rw log VGA"]);
    assert_eq!(m.model.tree().dirty_logging(a), Ok(VGA));
}

#[test]
fn global_logging_comes_on_top_of_a_regions_own() {
    let mut m = Machine::new();
    let a = m.put(ram("a", 0x10), 0);
    m.put(Region::rom("b", memory(0x10)), 0x10);
    m.put(Region::mmio("c", 0x10), 0x20);
    m.change(|t| t.set_dirty_logging(a, VGA));
    set_global(&mut m, MIGRATION);
    let both = [
        "0-f a rw log VGA | MIGRATION",
        "10-1f b ro log MIGRATION",
        "20-2f c trap",
    ];
    assert_eq!(m.view(), both);
    assert_eq!(m.model.global_dirty_logging(), MIGRATION);
    m.put(ram("d", 0x10), 0x40);
    assert_eq!(m.view()[3], "40-4f d rw log MIGRATION");
    set_global(&mut m, NONE);
    assert_eq!(m.view()[..2], ["0-f a rw log VGA", "10-1f b ro"]);
}

#[test]
fn a_global_switch_set_and_reset_in_one_transaction_notifies_no_listener() {
    let mut m = Machine::new();
    m.put(ram("a", 0x10), 0);
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    m.model.add_listener(m.space, 0, listener).unwrap();
    take(&log);
    let view = m.model.view(m.space);
    let mut t = m.model.transaction();
    t.set_global_dirty_logging(MIGRATION);
    t.set_global_dirty_logging(NONE);
    t.commit().unwrap();
    assert!(take(&log).is_empty());
    assert!(Arc::ptr_eq(&m.model.view(m.space), &view));
}

#[test]
fn a_dropped_transaction_undoes_both_kinds_of_logging() {
    let mut m = Machine::new();
    let a = m.put(ram("a", 0x10), 0);
    m.change(|t| t.set_dirty_logging(a, CODE));
    let mut t = m.model.transaction();
    t.set_dirty_logging(a, VGA).unwrap();
    t.set_dirty_logging(a, NONE).unwrap();
    t.set_global_dirty_logging(VGA);
    t.set_global_dirty_logging(MIGRATION);
    drop(t);
    assert_eq!(m.model.global_dirty_logging(), NONE);
    assert_eq!(m.model.tree().dirty_logging(a), Ok(CODE));
    m.change(|t| t.move_to(a, 0x10));
    assert_eq!(m.view(), ["10-1f a rw log CODE"]);
}

#[test]
fn accepted_registers_do_not_stand_in_the_way_of_global_logging() {
    let mut m = Machine::new();
    m.put(ram("ram", 0x1000), 0);
    m.put(private_mmio("bar", 0x1000), 0x1000);
    let accepted = bytes(0x1000, 0x1000);
    m.model.accept(m.space, accepted).unwrap();
    set_global(&mut m, MIGRATION);
    assert_eq!(m.view(), ["0-fff ram rw log MIGRATION", "1000-1fff bar rw"]);
    assert!(m.model.accepted(m.space).covers(accepted));
}

#[test]
fn what_a_full_log_lacks_is_listed_with_the_reason() {
    let mut m = Machine::new();
    m.put(ram("ram", 0x1000), 0);
    m.put(private_mmio("bar", 0x1000), 0x1000);
    m.put(Region::mmio("over", 0x800), 0x1800);
    m.put(Region::device_ram("vram", host(0x1000)), 0x3000);
    let private = guest_memfd_ram("private", 0x1000, GuestMemfdSides::Private);
    m.put(private, 0x4000);
    m.put(Region::reservation("hole", EVERYTHING), 0x5000);
    let view = m.model.view(m.space);
    let listed: Vec<_> = view.unloggable().map(|(r, why)| (r.range(), why)).collect();
    let expected = [
        (bytes(0x1000, 0x800), Unloggable::PrivateMmio),
        (bytes(0x3000, 0x1000), Unloggable::DeviceRam),
        (bytes(0x4000, 0x1000), Unloggable::GuestMemfd),
    ];
    assert_eq!(listed, expected);
}

/// Refuses to log all of a space that has something that cannot be logged.
#[derive(Default)]
struct Migration {
    notified: Mutex<Vec<(DirtyClients, DirtyClients, usize)>>,
}

impl Listener<()> for Migration {
    fn name(&self) -> &str {
        "migration"
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        let logging = update.global_logging;
        let notified = (logging.before, logging.after, update.diff.changed.len());
        self.notified.lock().unwrap().push(notified);
        match update.new.unloggable().next() {
            Some((run, why)) if logging.after.contains(MIGRATION) => {
                Err(format!("{}: {why}", run.range()).into())
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn listeners_hear_of_global_logging_even_if_no_run_changes() {
    let mut m = Machine::new();
    let migration = Arc::new(Migration::default());
    let listener = migration.clone();
    m.model.add_listener(m.space, 0, listener).unwrap();
    assert!(migration.notified.lock().unwrap().is_empty());
    set_global(&mut m, CODE);
    let root = m.root;
    let registers = m.put_in(root, private_mmio("bar", 0x1000), 0);
    let mut t = m.model.transaction();
    t.set_global_dirty_logging(CODE | MIGRATION);
    assert!(t.commit().is_err(), "the registers cannot be migrated");
    assert_eq!(m.model.global_dirty_logging(), CODE);
    m.change(|t| t.unplace(registers));
    set_global(&mut m, MIGRATION);
    assert_eq!(
        *migration.notified.lock().unwrap(),
        [
            (NONE, CODE, 0),
            (CODE, CODE, 0),
            (CODE, CODE | MIGRATION, 0),
            (CODE, CODE, 0),
            (CODE, MIGRATION, 0)
        ]
    );
}

#[test]
fn who_follows_later_hears_of_the_logging_that_is_on() {
    let mut m = Machine::new();
    set_global(&mut m, MIGRATION);
    let migration = Arc::new(Migration::default());
    let listener = migration.clone();
    m.model.add_listener(m.space, 0, listener).unwrap();
    let notified = [(NONE, MIGRATION, 0)];
    assert_eq!(*migration.notified.lock().unwrap(), notified);
}

#[test]
fn a_region_and_an_alias_of_it_are_logged_as_one() {
    let mut m = Machine::new();
    let a = m.put(ram("a", 0x20), 0);
    let over = m.put(Region::alias("over", a, 0x10, 0x10), 0x10);
    assert_eq!(m.view(), ["0-1f a rw"]);
    m.change(|t| t.set_dirty_logging(a, VGA));
    assert_eq!(m.view(), ["0-1f a rw log VGA"]);
    m.change(|t| t.set_enabled(over, false));
    let run = m.model.view(m.space).find(0x1f).unwrap().clone();
    assert_eq!(run.range(), AddrRange::new(0, 0x20).unwrap());
    assert_eq!(run.attributes().logged, VGA);
}

#[test]
fn sets_of_clients_can_be_joined_cut_and_printed() {
    assert_eq!((VGA | CODE) & (CODE | MIGRATION), CODE);
    assert_eq!((VGA | CODE) - (CODE | MIGRATION), VGA);
    assert!((VGA | CODE).contains(CODE) && !CODE.contains(VGA | CODE));
    assert!(NONE.is_empty() && VGA.contains(NONE));
    assert_eq!(format!("{:?} {NONE:?}", CODE | VGA), "VGA | CODE NONE");
}
