// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A follower whose steps fail or panic: when it resyncs, and what it keeps.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use memory_model::{
    AddListenerError, ApplyPlan, CommitError, Follow, Follower, Listener, ListenerError,
    MemoryModel, Region, RegionId, SpaceId, Update,
};

/// Follows the first addresses of what a view has.
#[derive(Debug, Default)]
struct Starts {
    fault: Mutex<Option<Fault>>,
    only_adds: AtomicBool,
    resyncs: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The change is refused, and rolled back.
    Refuse,
    /// The change is refused, and half of it stays.
    RefuseHalf,
    Panic,
    PanicInUndo,
    RefuseUndo,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Failure {
    #[error("refused")]
    Refused,
    #[error("refused, and half of it stays")]
    Half,
    #[error("could not be undone")]
    NotUndone,
}

#[derive(Debug, Default)]
struct Plan {
    removed: Vec<u64>,
    added: Vec<u64>,
}

impl ApplyPlan for Starts {
    type State = BTreeSet<u64>;
    type Plan = Plan;
    type Applied = BTreeSet<u64>;
    type Error = Failure;

    fn name(&self) -> &str {
        "starts"
    }

    fn apply(&self, state: &mut BTreeSet<u64>, plan: &Plan) -> Result<BTreeSet<u64>, Failure> {
        let before = state.clone();
        for at in &plan.removed {
            assert!(state.remove(at), "{at:#x} is not there");
        }
        let fault = *self.fault.lock().unwrap();
        match fault {
            Some(Fault::Refuse) => {
                *state = before;
                return Err(Failure::Refused);
            }
            Some(Fault::RefuseHalf) => return Err(Failure::Half),
            Some(Fault::Panic) => resume_unwind(Box::new("panic")),
            Some(Fault::PanicInUndo | Fault::RefuseUndo) | None => {}
        }
        for at in &plan.added {
            assert!(state.insert(*at), "{at:#x} is there already");
        }
        Ok(before)
    }

    fn undo(&self, state: &mut BTreeSet<u64>, before: BTreeSet<u64>) -> Result<(), Failure> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Some(Fault::PanicInUndo) => resume_unwind(Box::new("panic")),
            Some(Fault::RefuseUndo) => Err(Failure::NotUndone),
            _ => {
                *state = before;
                Ok(())
            }
        }
    }

    fn rolled_back(&self, error: &Failure) -> bool {
        *error == Failure::Refused
    }

    fn applies_in_prepare(&self, plan: &Plan) -> bool {
        self.only_adds.load(Ordering::Relaxed) && plan.removed.is_empty()
    }
}

impl Follow<()> for Starts {
    fn plan_change(
        &self,
        _: &mut BTreeSet<u64>,
        update: &Update<'_, ()>,
    ) -> Result<Option<Plan>, Failure> {
        let diff = update.diff;
        let starts = |runs: &[memory_model::FlatRange<()>]| -> Vec<u64> {
            runs.iter().map(|run| run.range().start()).collect()
        };
        let (removed, added) = (starts(&diff.removed), starts(&diff.added));
        let nothing = removed.is_empty() && added.is_empty();
        Ok((!nothing).then_some(Plan { removed, added }))
    }

    fn plan_resync(
        &self,
        state: &mut BTreeSet<u64>,
        update: &Update<'_, ()>,
    ) -> Result<Plan, Failure> {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
        Ok(Plan {
            removed: state.iter().copied().collect(),
            added: update.new.ranges().map(|run| run.range().start()).collect(),
        })
    }
}

/// Applies after the follower, and refuses on request.
#[derive(Debug, Default)]
struct Refuser {
    prepare: AtomicBool,
    apply: AtomicBool,
    /// Where the follower is when this prepares.
    seen: Mutex<BTreeSet<u64>>,
    follower: Mutex<Option<Arc<Follower<Starts>>>>,
}

fn refuse(switch: &AtomicBool) -> Result<(), ListenerError> {
    match switch.load(Ordering::Relaxed) {
        true => Err("asked to".into()),
        false => Ok(()),
    }
}

impl Listener<()> for Refuser {
    fn name(&self) -> &str {
        "refuser"
    }

    fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        if let Some(follower) = &*self.follower.lock().unwrap() {
            *self.seen.lock().unwrap() = follower.with_state(|state| state.clone());
        }
        refuse(&self.prepare)
    }

    fn apply(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        refuse(&self.apply)
    }
}

struct Rig {
    model: MemoryModel,
    space: SpaceId,
    regions: [RegionId; 2],
    follower: Arc<Follower<Starts>>,
    refuser: Arc<Refuser>,
}

impl Rig {
    fn new() -> Self {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("root", 1 << 32)).unwrap();
        let regions = [0, 0x100].map(|at| {
            let region = t.add(Region::mmio("region", 0x10)).unwrap();
            t.place(region, root, at, 0).unwrap();
            region
        });
        t.commit().unwrap();
        let space = model.add_space("space", root).unwrap();
        let follower = Follower::new(Starts::default(), BTreeSet::new());
        let follower = Arc::new(follower.keeping_latest_plan());
        let refuser = Arc::new(Refuser::default());
        model.add_listener(space, 0, follower.clone()).unwrap();
        // Listeners apply in the reverse order: this one after the follower.
        model.add_listener(space, -1, refuser.clone()).unwrap();
        *refuser.follower.lock().unwrap() = Some(follower.clone());
        follower.take_latest_plan().unwrap();
        Self {
            model,
            space,
            regions,
            follower,
            refuser,
        }
    }

    fn fault(&self, fault: Option<Fault>) {
        *self.follower.get_ref().fault.lock().unwrap() = fault;
    }

    fn shift(&mut self, region: usize, to: u64) -> Result<(), CommitError> {
        let mut t = self.model.transaction();
        t.move_to(self.regions[region], to).unwrap();
        t.commit()
    }

    fn resyncs(&self) -> usize {
        self.follower.get_ref().resyncs.load(Ordering::Relaxed)
    }

    fn state(&self) -> Vec<u64> {
        self.follower
            .with_state(|state| state.iter().copied().collect())
    }

    /// The follower agrees with the view.
    fn check(&self) {
        let view = self.model.view(self.space);
        let starts: Vec<u64> = view.ranges().map(|run| run.range().start()).collect();
        assert_eq!(self.state(), starts);
        assert!(!self.follower.needs_resync());
    }
}

#[test]
fn a_change_that_was_rolled_back_needs_no_resync() {
    let mut rig = Rig::new();
    rig.fault(Some(Fault::Refuse));
    let error = rig.shift(0, 0x40).unwrap_err();
    let CommitError::Refused { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.downcast_ref(), Some(&Failure::Refused));
    rig.check();
    rig.fault(None);
    rig.shift(0, 0x40).unwrap();
    rig.check();
    assert_eq!(rig.resyncs(), 0);
}

#[test]
fn a_refused_transaction_names_the_follower() {
    let mut rig = Rig::new();
    rig.fault(Some(Fault::Refuse));
    let error = rig.shift(0, 0x40).unwrap_err();
    assert!(matches!(error, CommitError::Refused { listener, .. } if listener == "starts"));
}

/// Counts the plans that it carries out, and leaves the rest to the trait.
#[derive(Debug, Default)]
struct Counting {
    fails: AtomicBool,
}

impl ApplyPlan for Counting {
    type State = usize;
    type Plan = ();
    type Applied = ();
    type Error = Failure;

    fn name(&self) -> &str {
        "counting"
    }

    fn apply(&self, plans: &mut usize, (): &()) -> Result<(), Failure> {
        *plans += 1;
        match self.fails.load(Ordering::Relaxed) {
            true => Err(Failure::Refused),
            false => Ok(()),
        }
    }

    /// What was carried out stays counted.
    fn undo(&self, _: &mut usize, (): ()) -> Result<(), Failure> {
        Ok(())
    }
}

impl Follow<()> for Counting {
    fn plan_change(&self, _: &mut usize, _: &Update<'_, ()>) -> Result<Option<()>, Failure> {
        Ok(Some(()))
    }

    fn plan_resync(&self, _: &mut usize, _: &Update<'_, ()>) -> Result<(), Failure> {
        Ok(())
    }
}

#[test]
fn by_default_plans_wait_for_apply_and_a_failure_needs_a_resync() {
    let mut rig = Rig::new();
    let counting = Arc::new(Follower::new(Counting::default(), 0));
    let (space, follower) = (rig.space, counting.clone());
    // It prepares before the refuser.
    rig.model.add_listener(space, -2, follower).unwrap();
    let plans = || counting.with_state(|plans| *plans);
    assert_eq!(plans(), 1);
    rig.refuser.prepare.store(true, Ordering::Relaxed);
    rig.shift(0, 0x40).unwrap_err();
    assert_eq!(plans(), 1, "it was carried out before all had prepared");
    rig.refuser.prepare.store(false, Ordering::Relaxed);
    counting.get_ref().fails.store(true, Ordering::Relaxed);
    rig.shift(0, 0x40).unwrap_err();
    assert!(counting.needs_resync());
}

#[test]
fn a_change_that_another_listener_refuses_is_undone() {
    for stage in ["prepare", "apply"] {
        let mut rig = Rig::new();
        let switch = |on| match stage {
            "prepare" => rig.refuser.prepare.store(on, Ordering::Relaxed),
            _ => rig.refuser.apply.store(on, Ordering::Relaxed),
        };
        switch(true);
        let refuser = rig.refuser.clone();
        rig.shift(0, 0x40).unwrap_err();
        rig.check();
        refuser.prepare.store(false, Ordering::Relaxed);
        refuser.apply.store(false, Ordering::Relaxed);
        rig.shift(0, 0x40).unwrap();
        rig.check();
        assert_eq!(rig.resyncs(), 0);
    }
}

#[test]
fn the_next_transaction_resyncs_what_could_not_be_rolled_back() {
    let faults = [
        Fault::RefuseHalf,
        Fault::Panic,
        Fault::PanicInUndo,
        Fault::RefuseUndo,
    ];
    for fault in faults {
        let mut rig = Rig::new();
        rig.fault(Some(fault));
        rig.refuser.prepare.store(false, Ordering::Relaxed);
        let undoes = matches!(fault, Fault::PanicInUndo | Fault::RefuseUndo);
        rig.refuser.apply.store(undoes, Ordering::Relaxed);
        let moved = catch_unwind(AssertUnwindSafe(|| rig.shift(0, 0x40).is_ok()));
        assert!(!matches!(moved, Ok(true)), "{fault:?}");
        assert!(rig.follower.needs_resync(), "{fault:?}");
        // Another transaction that is refused and undone does not change that.
        rig.fault(None);
        rig.refuser.apply.store(true, Ordering::Relaxed);
        rig.shift(1, 0x200).unwrap_err();
        assert!(rig.follower.needs_resync(), "{fault:?}");
        rig.refuser.apply.store(false, Ordering::Relaxed);
        rig.shift(1, 0x200).unwrap();
        rig.check();
        assert_eq!(rig.resyncs(), 2);
        // From then on it follows by changes alone.
        rig.shift(0, 0x80).unwrap();
        rig.check();
        assert_eq!(rig.resyncs(), 2);
    }
}

#[test]
fn a_plan_is_carried_out_in_prepare_only_if_it_may() {
    let mut rig = Rig::new();
    let mut t = rig.model.transaction();
    t.set_enabled(rig.regions[1], false).unwrap();
    t.commit().unwrap();
    // The refuser prepares after the follower.
    rig.model.remove_listener(rig.space, &rig.refuser).unwrap();
    let refuser = rig.refuser.clone();
    rig.model.add_listener(rig.space, 1, refuser).unwrap();
    for (only_adds, seen) in [(false, vec![0]), (true, vec![0, 0x100])] {
        let starts = rig.follower.get_ref();
        starts.only_adds.store(only_adds, Ordering::Relaxed);
        let mut t = rig.model.transaction();
        t.set_enabled(rig.regions[1], true).unwrap();
        t.commit().unwrap();
        assert!(rig.refuser.seen.lock().unwrap().iter().eq(&seen));
        rig.check();
        // What was added in `prepare` is removed if another listener refuses.
        let mut t = rig.model.transaction();
        t.set_enabled(rig.regions[1], false).unwrap();
        t.commit().unwrap();
        rig.refuser.prepare.store(true, Ordering::Relaxed);
        let mut t = rig.model.transaction();
        t.set_enabled(rig.regions[1], true).unwrap();
        t.commit().unwrap_err();
        rig.refuser.prepare.store(false, Ordering::Relaxed);
        rig.check();
    }
}

#[test]
fn a_follower_prints_its_state_unless_it_is_at_work() {
    let rig = Rig::new();
    let text = format!("{:?}", rig.follower);
    assert!(
        text.contains("state: {0, 256}") && text.contains("needs_resync: false"),
        "{text}"
    );
    let text = rig.follower.with_state(|_| format!("{:?}", rig.follower));
    assert!(text.starts_with("Follower {") && !text.contains("state"));
}

#[test]
fn the_latest_plan_is_kept_when_it_is_committed() {
    let mut rig = Rig::new();
    rig.shift(0, 0x40).unwrap();
    rig.refuser.apply.store(true, Ordering::Relaxed);
    rig.shift(0, 0x80).unwrap_err();
    let plan = rig.follower.take_latest_plan().unwrap();
    assert_eq!((plan.removed, plan.added), (vec![0], vec![0x40]));
    assert!(rig.follower.take_latest_plan().is_none());
}

#[test]
fn plans_outside_of_transactions_do_not_end_the_need_of_a_resync() {
    let rig = Rig::new();
    rig.follower.require_resync();
    let add = |at| {
        move |_: &mut BTreeSet<u64>| {
            Ok(Plan {
                removed: Vec::new(),
                added: vec![at],
            })
        }
    };
    rig.follower.apply_with(add(0x1000)).unwrap();
    assert!(rig.follower.needs_resync());
    rig.fault(Some(Fault::Refuse));
    assert_eq!(rig.follower.resync_with(add(0x2000)), Err(Failure::Refused));
    assert!(rig.follower.needs_resync());
    rig.fault(None);
    rig.follower.resync_with(add(0x2000)).unwrap();
    assert!(!rig.follower.needs_resync());
    assert_eq!(rig.state(), [0, 0x100, 0x1000, 0x2000]);
}

#[test]
fn a_follower_follows_one_space() {
    let mut rig = Rig::new();
    let (_, _, root) = rig.model.spaces().next().unwrap();
    let other = rig.model.add_space("other", root).unwrap();
    let added = rig.model.add_listener(other, 0, rig.follower.clone());
    assert!(matches!(added, Err(AddListenerError::Follows { .. })));
    rig.check();
}
