// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Removal of listeners and address spaces.

use crate::common;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use common::{Log, Machine, Recorder, bell, bytes, host_at, private_mmio, ram, take};
use memory_model::{
    AddListenerError, AttachmentDiff, CommitError, DirtyClients, GlobalLogging, Listener,
    ListenerError, Memory, NoSuchSpace, Region, RemoveListenerError, RemoveSpaceError, SpaceId,
    TreeError, Update, Use,
};

/// A machine with some RAM, which two listeners follow.
fn followed() -> (Machine, Log, [Arc<Recorder>; 2]) {
    let mut m = Machine::new();
    m.put(ram("ram", 0x10), 0);
    let log = Log::default();
    let both = ["first", "second"].map(|name| Recorder::new(name, &log));
    for (priority, listener) in (0..).zip(&both) {
        let listener = listener.clone();
        m.model.add_listener(m.space, priority, listener).unwrap();
    }
    take(&log);
    (m, log, both)
}

fn not_following(result: Result<(), RemoveListenerError>) -> bool {
    matches!(result, Err(RemoveListenerError::NotFollowing { .. }))
}

#[test]
fn a_removed_listener_gets_a_removal_of_everything_and_nothing_more() {
    let (mut m, log, [first, second]) = followed();
    let (view, seen) = (m.model.view(m.space), m.view());
    m.model.remove_listener(m.space, &first).unwrap();
    assert_eq!(take(&log), ["first prepare -0-f ram rw", "first commit"]);
    assert_eq!(m.view(), seen);
    assert!(Arc::ptr_eq(&m.model.view(m.space), &view));

    m.put(Region::mmio("x", 1), 0x10);
    let notified = ["second prepare +10-10 x trap", "second commit"];
    assert_eq!(take(&log), notified);
    assert!(not_following(m.model.remove_listener(m.space, &first)));
    // The model has let go of it.
    assert_eq!(Arc::strong_count(&first), 1);

    // As the model has it: without its type.
    let second: Arc<dyn Listener<()>> = second;
    m.model.remove_listener(m.space, &second).unwrap();
    take(&log);
    m.put(Region::mmio("y", 1), 0x20);
    assert!(take(&log).is_empty());
}

#[test]
fn a_removed_listener_can_be_added_again() {
    let (mut m, log, [first, _]) = followed();
    m.model.remove_listener(m.space, &first).unwrap();
    take(&log);
    m.model.add_listener(m.space, 5, first).unwrap();
    assert_eq!(take(&log), ["first prepare +0-f ram rw", "first commit"]);
    m.put(Region::mmio("x", 1), 0x10);
    let notified = take(&log);
    assert!(notified[0].starts_with("second") && notified[1].starts_with("first"));
}

#[test]
fn a_listener_that_refuses_its_removal_keeps_following() {
    let (mut m, log, [first, _]) = followed();
    first.refuses.store(true, Relaxed);
    let refused = m.model.remove_listener(m.space, &first);
    let Err(RemoveListenerError::Commit(CommitError::Refused {
        listener,
        source,
        not_undone,
    })) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((listener.as_str(), not_undone.len()), ("first", 0));
    assert_eq!(source.to_string(), "first cannot prepare");
    assert_eq!(take(&log), ["first prepare -0-f ram rw"]);
    first.refuses.store(false, Relaxed);
    m.put(Region::mmio("x", 1), 0x10);
    assert_eq!(take(&log)[0], "first prepare +10-10 x trap");
}

#[test]
fn a_listener_that_follows_a_space_is_refused_for_that_and_any_other() {
    let (mut m, log, [first, _]) = followed();
    let bus = m.add(ram("bus", 0x10));
    let bus = m.model.add_space("bus", bus).unwrap();
    for space in [m.space, bus] {
        let refused = m.model.add_listener(space, 2, first.clone()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "listener 'first' already follows 'memory'"
        );
        assert!(matches!(refused, AddListenerError::Follows { .. }));
    }
    assert!(take(&log).is_empty());
    // It is called once for each change, and leaves at once.
    m.put(Region::mmio("x", 1), 0x10);
    assert_eq!(take(&log).len(), 4);
    m.model.remove_listener(m.space, &first).unwrap();
    assert!(not_following(m.model.remove_listener(m.space, &first)));
    m.model.add_listener(bus, 0, first.clone()).unwrap();
    let refused = m.model.add_listener(m.space, 0, first.clone()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "listener 'first' already follows 'bus'"
    );
    // A listener that refused to follow a space follows none.
    m.model.remove_listener(bus, &first).unwrap();
    first.refuses.store(true, Relaxed);
    let refused = m.model.add_listener(bus, 0, first.clone());
    assert!(matches!(refused, Err(AddListenerError::Refused { .. })));
    first.refuses.store(false, Relaxed);
    m.model.add_listener(m.space, 0, first).unwrap();
}

#[test]
fn a_listener_leaves_the_space_that_is_named_and_no_other() {
    let (mut m, log, [first, _]) = followed();
    let bus = m.add(Region::container("bus", 0x10));
    let bus = m.model.add_space("bus", bus).unwrap();
    assert!(not_following(m.model.remove_listener(bus, &first)));
    // A listener of an empty space is not called.
    let of_bus = Recorder::new("of bus", &log);
    m.model.add_listener(bus, 0, of_bus.clone()).unwrap();
    m.model.remove_listener(bus, &of_bus).unwrap();
    assert!(take(&log).is_empty());
    m.put(Region::mmio("x", 1), 0x10);
    assert_eq!(take(&log).len(), 4);
}

/// The attachments and the clients that it was notified of last.
#[derive(Default)]
struct Last(Mutex<Option<(AttachmentDiff, GlobalLogging)>>);

impl Last {
    fn take(&self) -> Option<(AttachmentDiff, GlobalLogging)> {
        self.0.lock().unwrap().take()
    }
}

impl Listener<()> for Last {
    fn name(&self) -> &str {
        "last"
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        *self.0.lock().unwrap() = Some((update.attachments.clone(), update.global_logging));
        Ok(())
    }
}

#[test]
fn attachments_and_logging_end_for_the_one_that_leaves() {
    let mut m = Machine::new();
    let page = m.put(Region::mmio("page", 0x100), 0x1000);
    let last = Arc::new(Last::default());
    m.model.add_listener(m.space, 0, last.clone()).unwrap();
    m.change(|t| {
        t.attach_ioeventfd(page, bell(4, 5))?;
        t.attach_coalesced(page, bytes(8, 8))?;
        t.set_global_dirty_logging(DirtyClients::MIGRATION);
        Ok(())
    });
    let (added, logging) = last.take().unwrap();
    m.model.remove_listener(m.space, &last).unwrap();
    let (removed, no_logging) = last.take().unwrap();
    assert_eq!(removed.ioeventfds_removed, added.ioeventfds_added);
    assert_eq!(removed.ioeventfds_removed.len(), 1);
    assert_eq!(removed.coalesced_removed, [bytes(0x1008, 8)]);
    assert!(removed.ioeventfds_added.is_empty() && removed.coalesced_added.is_empty());
    assert_eq!(no_logging.before, logging.after);
    assert_eq!(no_logging.after, DirtyClients::NONE);
    // For everybody else all stays.
    assert_eq!(m.model.ioeventfds(m.space).len(), 1);
    let all = m.model.global_dirty_logging();
    assert_eq!(all, DirtyClients::MIGRATION);

    // Logging alone is worth telling of, too.
    let empty = m.add(Region::container("empty", 0x10));
    let empty = m.model.add_space("empty", empty).unwrap();
    m.model.add_listener(empty, 0, last.clone()).unwrap();
    last.take().unwrap();
    m.model.remove_listener(empty, &last).unwrap();
    assert_eq!(last.take().unwrap().1, no_logging);
}

#[test]
fn no_listener_can_be_removed_while_the_guest_has_accepted_pages() {
    let (mut m, log, [first, _]) = followed();
    m.put(private_mmio("bar", 0x4000), 0x1_0000);
    take(&log);
    let page = bytes(0x1_1000, 0x1000);
    m.model.accept(m.space, page).unwrap();
    let refused = m.model.remove_listener(m.space, &first);
    match refused {
        Err(RemoveListenerError::Commit(CommitError::Accepted { range, region })) => {
            assert_eq!((range, region.as_str()), (page, "bar"));
        }
        other => panic!("{other:?}"),
    }
    assert!(take(&log).is_empty());
    m.model.revoke(m.space, page);
    take(&log);
    m.model.remove_listener(m.space, &first).unwrap();
    assert_eq!(
        take(&log)[0],
        "first prepare -0-f ram rw, -10000-13fff bar rw"
    );
}

#[test]
fn a_space_without_listeners_can_be_removed_and_frees_its_root() {
    let (mut m, log, _) = followed();
    let first = Recorder::new("first", &log);
    let owner = Arc::new(());
    let host = host_at(0x1000, 0x10, owner.clone());
    let bus = m.add(Region::ram("bus", Memory::host_only(host)));
    let space = m.model.add_space("bus", bus).unwrap();
    m.model.add_listener(space, 0, first.clone()).unwrap();
    let in_use = m.model.remove_space(space);
    match in_use {
        Err(RemoveSpaceError::InUse { space, listener }) => {
            assert_eq!((space.as_str(), listener.as_str()), ("bus", "first"));
        }
        other => panic!("{other:?}"),
    }
    m.model.remove_listener(space, &first).unwrap();
    take(&log);
    let is_root = TreeError::InUse {
        name: "bus".into(),
        by: Use::Root,
    };
    assert_eq!(m.model.transaction().remove(bus).unwrap_err(), is_root);

    let reader = m.model.reader(space);
    let (mut of_thread, snapshot) = (reader.for_thread(), reader.snapshot());
    assert_eq!(of_thread.view().len(), 1);
    m.model.remove_space(space).unwrap();
    assert!(reader.view().is_empty() && of_thread.view().is_empty());
    assert_eq!(common::show(&snapshot), ["0-f bus rw"]);
    assert!(take(&log).is_empty());

    let region = m.change(|t| t.remove(bus));
    assert_eq!(region.name(), "bus");
    drop(region);
    assert!(Arc::strong_count(&owner) > 1, "a snapshot shows it");
    drop(snapshot);
    assert_eq!(Arc::strong_count(&owner), 1, "nothing shows it");
    // The other space is as it was, and is followed as before.
    m.put(Region::mmio("x", 1), 0x10);
    assert_eq!(m.view(), ["0-f ram rw", "10-10 x trap"]);
    assert_eq!(take(&log).len(), 4);
}

#[test]
fn a_space_stays_while_the_guest_has_accepted_pages_of_it() {
    let mut m = Machine::new();
    m.put(private_mmio("bar", 0x4000), 0);
    let page = bytes(0, 0x1000);
    m.model.accept(m.space, page).unwrap();
    let refused = m.model.remove_space(m.space);
    assert!(matches!(
        refused,
        Err(RemoveSpaceError::Commit(CommitError::Accepted { range, .. })) if range == page
    ));
    assert_eq!(m.view().len(), 1);
    m.model.give_back(m.space, page).unwrap();
    m.model.remove_space(m.space).unwrap();
}

#[test]
fn spaces_that_stay_go_on_under_their_ids_and_in_their_order() {
    let mut m = Machine::new();
    let root = m.root;
    let a = m.space;
    let [b, c] = ["b", "c"].map(|name| m.model.add_space(name, root).unwrap());
    let log = Log::default();
    let listener = Recorder::new("of c", &log);
    m.model.add_listener(c, 0, listener).unwrap();
    m.model.remove_space(a).unwrap();
    let d = m.model.add_space("d", root).unwrap();
    m.model.remove_space(b).unwrap();
    let listener = Recorder::new("of d", &log);
    m.model.add_listener(d, 0, listener).unwrap();

    m.put(Region::mmio("x", 1), 0);
    m.change(|t| {
        t.set_global_dirty_logging(DirtyClients::VGA);
        Ok(())
    });
    for space in [c, d] {
        assert_eq!(common::show(&m.model.view(space)), ["0-0 x trap"]);
    }
    let once = [
        "of c prepare +0-0 x trap",
        "of d prepare +0-0 x trap",
        "of c commit",
        "of d commit",
    ];
    let logging = [
        "of c prepare ",
        "of d prepare ",
        "of c commit",
        "of d commit",
    ];
    assert_eq!(take(&log), [once, logging].concat());
    let ids: Vec<SpaceId> = m.model.spaces().map(|(id, _, _)| id).collect();
    assert_eq!(ids, [c, d]);
    assert!(![a, b].contains(&d), "an id is never used again");
    assert!(a < b && b < c && c < d);
    let removed = m.model.remove_space(a);
    assert!(matches!(removed, Err(RemoveSpaceError::NoSuchSpace(NoSuchSpace(id))) if id == a));
}
