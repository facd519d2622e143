// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What listeners are notified of, in which order, and what happens if one refuses.

use crate::common;

use std::error::Error;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use common::{Log, Machine, Recorder, memory, ram, switches, take};
use memory_model::{
    CommitError, DirtyClients, Listener, ListenerError, Region, Update, ViewReader,
};

/// A machine with one listener, which has not been notified yet.
fn followed() -> (Machine, Log, Arc<Recorder>) {
    let mut m = Machine::new();
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    m.model.add_listener(m.space, 0, listener.clone()).unwrap();
    (m, log, listener)
}

#[test]
fn a_listener_gets_what_was_added_removed_and_moved() {
    let (mut m, log, _) = followed();
    let ram = m.put(ram("ram", 0x10), 0);
    assert_eq!(take(&log), ["l prepare +0-f ram rw", "l commit"]);
    m.change(|t| t.move_to(ram, 0x100));
    assert_eq!(
        take(&log),
        ["l prepare -0-f ram rw, +100-10f ram rw", "l commit"]
    );
    m.put_over(Region::mmio("over", 8), 0x100);
    assert_eq!(
        take(&log),
        [
            "l prepare -100-10f ram rw, +100-107 over trap, +108-10f ram @8 rw",
            "l commit",
        ]
    );
    m.change(|t| t.unplace(ram));
    assert_eq!(take(&log), ["l prepare -108-10f ram @8 rw", "l commit"]);
}

#[test]
fn bytes_that_stay_and_answer_differently_are_changed() {
    let (mut m, log, _) = followed();
    let flash = m.put(Region::rom_device("flash", memory(0x10)), 0);
    let ram = m.put(ram("ram", 0x10), 0x10);
    take(&log);
    m.change(|t| t.set_direct_reads(flash, false));
    m.change(|t| t.set_readonly(ram, true));
    assert_eq!(
        take(&log),
        [
            "l prepare 0-f flash r+trap > 0-f flash trap",
            "l commit",
            "l prepare 10-1f ram rw > 10-1f ram ro",
            "l commit",
        ]
    );
}

#[test]
fn becoming_nonvolatile_in_another_container_is_a_change_too() {
    let (mut m, log, _) = followed();
    let nonvolatile = Region::container("nv", 0x10).with_switches(switches(|s| {
        s.nonvolatile = true;
    }));
    let container = m.put(nonvolatile, 0);
    let ram = m.put(ram("ram", 0x10), 0);
    take(&log);
    m.change(|t| {
        t.unplace(ram)?;
        t.place(ram, container, 0, 0)
    });
    assert_eq!(
        take(&log),
        ["l prepare 0-f ram rw > 0-f ram rw nv", "l commit"]
    );
}

#[test]
fn a_commit_without_difference_calls_no_listener() {
    let (mut m, log, _) = followed();
    let ram = m.put(ram("ram", 0x10), 0);
    take(&log);
    m.change(|t| {
        t.set_readonly(ram, true)?;
        t.set_readonly(ram, false)?;
        t.move_to(ram, 0x100)?;
        t.move_to(ram, 0)
    });
    m.put(Region::container("empty", 0x1000), 0);
    assert!(take(&log).is_empty());
}

#[test]
fn a_switch_set_and_reset_in_one_transaction_calls_no_listener() {
    let (mut m, log, _) = followed();
    let ram = m.put(ram("ram", 0x10), 0);
    take(&log);
    let view = m.model.view(m.space);
    m.change(|t| {
        t.set_enabled(ram, false)?;
        t.set_dirty_logging(ram, DirtyClients::VGA)?;
        t.set_enabled(ram, true)?;
        t.set_dirty_logging(ram, DirtyClients::NONE)
    });
    assert_eq!(take(&log), Vec::<String>::new());
    assert!(Arc::ptr_eq(&view, &m.model.view(m.space)));
    // What happened meanwhile shows.
    m.change(|t| {
        t.set_enabled(ram, false)?;
        t.move_to(ram, 0x100)?;
        t.set_enabled(ram, true)
    });
    assert_eq!(
        take(&log),
        ["l prepare -0-f ram rw, +100-10f ram rw", "l commit"]
    );
}

#[test]
fn only_listeners_of_spaces_that_differ_are_called() {
    let (mut m, log, _) = followed();
    let bus = m.add(Region::container("bus", 0x100));
    let second = m.model.add_space("bus", bus).unwrap();
    let listener = Recorder::new("bus", &log);
    m.model.add_listener(second, 0, listener).unwrap();
    m.put_in(bus, ram("ram", 0x10), 0);
    assert_eq!(take(&log), ["bus prepare +0-f ram rw", "bus commit"]);
    m.put(ram("other", 0x10), 0);
    assert_eq!(take(&log), ["l prepare +0-f other rw", "l commit"]);
}

#[test]
fn lower_priorities_come_first_and_equal_ones_in_the_order_they_were_added() {
    let mut m = Machine::new();
    let log = Log::default();
    for (name, priority) in [("c", 5), ("a", -1), ("d", 5), ("b", 0)] {
        let listener = Recorder::new(name, &log);
        m.model.add_listener(m.space, priority, listener).unwrap();
    }
    m.put(Region::mmio("x", 1), 0);
    assert_eq!(
        take(&log),
        [
            "a prepare +0-0 x trap",
            "b prepare +0-0 x trap",
            "c prepare +0-0 x trap",
            "d prepare +0-0 x trap",
            "a commit",
            "b commit",
            "c commit",
            "d commit",
        ]
    );
}

#[test]
fn removals_are_notified_in_the_order_of_additions_and_aborts_in_reverse() {
    let mut m = Machine::new();
    let root = m.root;
    let second = m.model.add_space("second", root).unwrap();
    let log = Log::default();
    // Across spaces, neither the order of addition nor the priorities count.
    let late = [(second, "d", 9), (second, "c", -9), (m.space, "b", 5)];
    let listeners = late.into_iter().chain([(m.space, "a", -5)]);
    let listeners = listeners.map(|(space, name, priority)| {
        let listener = Recorder::new(name, &log);
        let added = m.model.add_listener(space, priority, listener.clone());
        added.unwrap();
        listener
    });
    let refuses = listeners.collect::<Vec<_>>().remove(0);
    let order = |notified: Vec<String>| -> Vec<String> {
        let short = notified.iter().map(|notified| notified.split(' ').take(2));
        short.map(|words| words.collect::<String>()).collect()
    };
    let prepares = ["aprepare", "bprepare", "cprepare", "dprepare"];
    let all = [prepares, ["acommit", "bcommit", "ccommit", "dcommit"]].concat();
    let x = m.put(Region::mmio("x", 1), 0);
    assert_eq!(order(take(&log)), all);
    m.change(|t| t.move_to(x, 0x10));
    assert_eq!(order(take(&log)), all);
    m.change(|t| {
        t.set_global_dirty_logging(DirtyClients::VGA);
        Ok(())
    });
    assert_eq!(order(take(&log)), all);

    refuses.refuses.store(true, Relaxed);
    let aborted = [&prepares[..], &["cabort", "babort", "aabort"]].concat();
    m.try_change(|t| t.unplace(x)).unwrap_err();
    assert_eq!(order(take(&log)), aborted);
    refuses.refuses.store(false, Relaxed);
    m.change(|t| t.unplace(x));
    assert_eq!(order(take(&log)), all);
}

/// Three listeners in two spaces; the last one refuses. The two before it are
/// to abort, the latest first.
fn refusing() -> (Machine, Log, [Arc<Recorder>; 3]) {
    let mut m = Machine::new();
    let root = m.root;
    let second = m.model.add_space("second", root).unwrap();
    let log = Log::default();
    let listeners = ["first", "middle", "last"].map(|name| Recorder::new(name, &log));
    let [first, middle, last] = listeners.clone();
    m.model.add_listener(m.space, 0, first).unwrap();
    m.model.add_listener(m.space, 1, middle).unwrap();
    m.model.add_listener(second, 0, last).unwrap();
    listeners[2].refuses.store(true, Relaxed);
    (m, log, listeners)
}

#[test]
fn a_refusal_undoes_everything_and_aborts_the_latest_first() {
    let (mut m, log, listeners) = refusing();
    let before = m.everything(&[]);
    let view = m.model.view(m.space);
    let root = m.root;
    let refused = m.try_change(|t| {
        let x = t.add(Region::mmio("x", 1))?;
        t.place(x, root, 0, 0)
    });
    let Err(CommitError::Refused {
        listener,
        source,
        not_undone,
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((listener.as_str(), not_undone.len()), ("last", 0));
    assert_eq!(source.to_string(), "last cannot prepare");
    assert_eq!(
        take(&log),
        [
            "first prepare +0-0 x trap",
            "middle prepare +0-0 x trap",
            "last prepare +0-0 x trap",
            "middle abort",
            "first abort",
        ]
    );
    assert_eq!(m.everything(&[]), before);
    assert!(Arc::ptr_eq(&m.model.view(m.space), &view));

    // Once no listener refuses, the same change succeeds.
    listeners[2].refuses.store(false, Relaxed);
    m.put(Region::mmio("x", 1), 0);
    assert_eq!(m.view(), ["0-0 x trap"]);
}

#[test]
fn a_refusal_gives_its_reason_once() {
    let (mut m, _log, _listeners) = refusing();
    let root = m.root;
    let refused = m.try_change(|t| {
        let x = t.add(Region::mmio("x", 1))?;
        t.place(x, root, 0, 0)
    });
    let error = refused.expect_err("the last listener refuses");
    assert_eq!(
        error.to_string(),
        "listener 'last' refused the change: last cannot prepare"
    );
    // The message includes the listener's error; the chain continues with its
    // source.
    let error: &dyn std::error::Error = &error;
    assert!(error.source().is_none());
}

#[test]
fn what_could_not_be_undone_is_in_the_error() {
    let (mut m, log, listeners) = refusing();
    for listener in &listeners[..2] {
        listener.cannot_undo.store(true, Relaxed);
    }
    let root = m.root;
    let refused = m.try_change(|t| {
        let x = t.add(Region::mmio("x", 1))?;
        t.place(x, root, 0, 0)
    });
    let Err(CommitError::Refused { not_undone, .. }) = refused else {
        panic!("{refused:?}");
    };
    let said: Vec<_> = not_undone
        .iter()
        .map(|n| format!("{n}: {}", n.source))
        .collect();
    assert_eq!(
        said,
        [
            "listener 'middle' could not undo the change: middle cannot abort",
            "listener 'first' could not undo the change: first cannot abort",
        ]
    );
    // One that fails does not keep the next from going back.
    let aborts = &take(&log)[3..];
    assert_eq!(aborts, ["middle abort", "first abort"]);
    assert!(m.view().is_empty());
}

#[test]
fn a_new_listener_gets_the_current_view() {
    let mut m = Machine::new();
    m.put(ram("ram", 0x10), 0);
    m.put(Region::mmio("mmio", 0x10), 0x10);
    let log = Log::default();
    let listener = Recorder::new("late", &log);
    m.model.add_listener(m.space, 0, listener).unwrap();
    assert_eq!(
        take(&log),
        ["late prepare +0-f ram rw, +10-1f mmio trap", "late commit"]
    );
}

#[test]
fn a_new_listener_that_refuses_what_is_there_follows_nothing() {
    let mut m = Machine::new();
    m.put(ram("ram", 0x10), 0);
    let log = Log::default();
    let listener = Recorder::new("late", &log);
    listener.refuses.store(true, Relaxed);
    let error = m.model.add_listener(m.space, 0, listener).unwrap_err();
    let text = "listener 'late' refused to follow 'memory'";
    assert_eq!(error.to_string(), text);
    let source = error.source().map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("late cannot prepare"));
    take(&log);
    m.put(Region::mmio("mmio", 0x10), 0x10);
    assert!(take(&log).is_empty());
}

/// Looks, in each call, at what readers see at address 0.
struct Peek {
    reader: ViewReader<()>,
    seen: Mutex<Vec<bool>>,
}

impl Peek {
    fn look(&self) {
        let seen = self.reader.view().find(0).is_some();
        self.seen.lock().unwrap().push(seen);
    }
}

impl Listener<()> for Peek {
    fn name(&self) -> &str {
        "peek"
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        assert!(update.old.find(0).is_none() && update.new.find(0).is_some());
        self.look();
        Ok(())
    }

    fn commit(&self, _update: &Update<'_, ()>) {
        self.look();
    }
}

#[test]
fn readers_see_the_new_view_after_all_prepared_and_before_any_commit() {
    let mut m = Machine::new();
    let peek = Arc::new(Peek {
        reader: m.model.reader(m.space),
        seen: Mutex::default(),
    });
    m.model.add_listener(m.space, 0, peek.clone()).unwrap();
    m.put(Region::mmio("x", 1), 0);
    assert_eq!(*peek.seen.lock().unwrap(), [false, true]);
}
