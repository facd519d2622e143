// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `Listener::apply`: the stage between preparing and publishing, in which
//! listeners make the change.

use crate::common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use common::{Log, Machine, take};
use memory_model::{
    AddListenerError, CommitError, Listener, ListenerError, Region, RemoveListenerError, Update,
};

/// What a listener does when it is asked to apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Does {
    #[default]
    Applies,
    Refuses,
    Panics,
}

/// Records the stages that are called.
struct Stages {
    name: &'static str,
    log: Log,
    does: Mutex<Does>,
}

impl Stages {
    fn new(name: &'static str, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            name,
            log: log.clone(),
            does: Mutex::default(),
        })
    }

    fn shall(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn note(&self, stage: &str) {
        self.log
            .lock()
            .unwrap()
            .push(format!("{} {stage}", self.name));
    }
}

impl Listener<()> for Stages {
    fn name(&self) -> &str {
        self.name
    }

    fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        self.note("prepare");
        Ok(())
    }

    fn apply(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        self.note("apply");
        let does = *self.does.lock().unwrap();
        match does {
            Does::Applies => Ok(()),
            Does::Refuses => Err(format!("{} cannot apply", self.name).into()),
            Does::Panics => panic!("{} panics", self.name),
        }
    }

    fn commit(&self, _: &Update<'_, ()>) {
        self.note("commit");
    }

    fn abort(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        self.note("abort");
        Ok(())
    }
}

/// Two listeners of a space and one of another, with the same root.
fn machine() -> (Machine, Log, [Arc<Stages>; 3]) {
    let mut m = Machine::new();
    let root = m.root;
    let second = m.model.add_space("second", root).unwrap();
    let log = Log::default();
    let all = ["a", "b", "c"].map(|name| Stages::new(name, &log));
    let [a, b, c] = all.clone();
    m.model.add_listener(m.space, 0, a).unwrap();
    m.model.add_listener(m.space, 1, b).unwrap();
    m.model.add_listener(second, 0, c).unwrap();
    (m, log, all)
}

const PREPARES: [&str; 3] = ["a prepare", "b prepare", "c prepare"];
/// The one with the lowest priority applies last.
const APPLIES: [&str; 3] = ["c apply", "b apply", "a apply"];
const ABORTS: [&str; 3] = ["c abort", "b abort", "a abort"];

#[test]
fn all_prepare_before_one_applies_and_all_apply_before_one_commits() {
    let (mut m, log, _) = machine();
    m.put(Region::mmio("x", 1), 0);
    let commits = ["a commit", "b commit", "c commit"];
    assert_eq!(take(&log), [PREPARES, APPLIES, commits].concat());
}

#[test]
fn readers_see_the_new_view_only_after_all_have_applied() {
    struct Peek(memory_model::ViewReader<()>, Mutex<Vec<bool>>);

    impl Peek {
        fn look(&self) {
            let seen = self.0.view().find(0).is_some();
            self.1.lock().unwrap().push(seen);
        }
    }

    impl Listener<()> for Peek {
        fn name(&self) -> &str {
            "peek"
        }

        fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
            self.look();
            Ok(())
        }

        fn apply(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
            self.look();
            Ok(())
        }

        fn commit(&self, _: &Update<'_, ()>) {
            self.look();
        }
    }

    let mut m = Machine::new();
    let peek = Arc::new(Peek(m.model.reader(m.space), Mutex::default()));
    m.model.add_listener(m.space, 0, peek.clone()).unwrap();
    m.put(Region::mmio("x", 1), 0);
    assert_eq!(*peek.1.lock().unwrap(), [false, false, true]);
}

#[test]
fn a_refusal_to_apply_aborts_all_listeners_also_those_that_have_not_applied() {
    let (mut m, log, listeners) = machine();
    let before = m.everything(&[]);
    let root = m.root;
    for (n, refuses) in listeners.iter().rev().enumerate() {
        refuses.shall(Does::Refuses);
        let refused = m.try_change(|t| {
            let x = t.add(Region::mmio("x", 1))?;
            t.place(x, root, 0, 0)
        });
        let Err(CommitError::Refused {
            listener, source, ..
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(listener, refuses.name);
        assert_eq!(source.to_string(), format!("{} cannot apply", refuses.name));
        let applies = &APPLIES[..=n];
        assert_eq!(take(&log), [&PREPARES[..], applies, &ABORTS].concat());
        assert_eq!(m.everything(&[]), before);
        refuses.shall(Does::Applies);
    }
}

#[test]
fn a_panic_while_applying_aborts_all_listeners() {
    let (mut m, log, listeners) = machine();
    listeners[1].shall(Does::Panics);
    let root = m.root;
    let mut t = m.model.transaction();
    let x = t.add(Region::mmio("x", 1)).unwrap();
    t.place(x, root, 0, 0).unwrap();
    catch_unwind(AssertUnwindSafe(|| t.commit())).unwrap_err();
    assert_eq!(take(&log), [&PREPARES[..], &APPLIES[..2], &ABORTS].concat());
    assert!(m.view().is_empty());
    assert!(m.model.tree().region(x).is_err());
}

#[test]
fn a_new_listener_that_does_not_apply_aborts_and_follows_nothing() {
    let mut m = Machine::new();
    m.put(Region::mmio("x", 1), 0);
    let log = Log::default();
    let late = Stages::new("late", &log);
    let stages = ["late prepare", "late apply", "late abort"];
    late.shall(Does::Refuses);
    let error = m.model.add_listener(m.space, 0, late.clone()).unwrap_err();
    let AddListenerError::Refused { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.to_string(), "late cannot apply");
    assert_eq!(take(&log), stages);
    late.shall(Does::Panics);
    let add = || m.model.add_listener(m.space, 0, late.clone());
    let _ = catch_unwind(AssertUnwindSafe(add)).unwrap_err();
    assert_eq!(take(&log), stages);
    m.put(Region::mmio("y", 1), 0x10);
    assert!(take(&log).is_empty());
}

#[test]
fn a_leaving_listener_that_does_not_apply_aborts_and_stays() {
    let (mut m, log, [a, _, _]) = machine();
    m.put(Region::mmio("x", 1), 0);
    take(&log);
    a.shall(Does::Refuses);
    let error = m.model.remove_listener(m.space, &a).unwrap_err();
    let RemoveListenerError::Commit(CommitError::Refused { listener, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(listener, "a");
    assert_eq!(take(&log), ["a prepare", "a apply", "a abort"]);
    a.shall(Does::Applies);
    m.model.remove_listener(m.space, &a).unwrap();
    assert_eq!(take(&log), ["a prepare", "a apply", "a commit"]);
}
