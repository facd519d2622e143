// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Transactions of a memory model whose memslot ioctls fail. Afterwards, model, table
//! and simulated KVM agree, or the error lists the differences.

use crate::common;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use common::faults::possible;
use common::machine::{check, ranges_of};
use common::watched::Watched;
use common::{ABI, HOST, PAGE};
use kvm_slots::convert::ConversionListener;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    ApplyError, Errno, FollowError, SlotListener, StepError, VcpusStopped, slot_ranges,
};
use memory_model::{
    CommitError, DirtyClients, FileSlice, HostMemory, Listener, ListenerError, Memory, MemoryModel,
    PrivateMmio, Region, RegionId, SpaceId, Update,
};
use proptest::prelude::*;

type Slots = Arc<SlotListener<Watched<SimVm>>>;

/// The sizes of the regions in pages. The last are private MMIO.
const SIZES: [u64; 7] = [3, 2, 1, 1, 2, 1, 2];
const PRIVATE: usize = 5;
/// How many random transactions there are of each kind.
const TRANSACTIONS: u32 = 1000;

/// The change of one region in a transaction.
#[derive(Clone, Copy, Debug)]
enum Step {
    Move(usize, u64),
    Show(usize, bool),
    Readonly(usize, bool),
    Log(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..SIZES.len(), 0..14_u64).prop_map(|(n, page)| Step::Move(n, page)),
        2 => (0..SIZES.len(), any::<bool>()).prop_map(|(n, on)| Step::Show(n, on)),
        1 => (0..PRIVATE, any::<bool>()).prop_map(|(n, on)| Step::Readonly(n, on)),
        1 => (0..PRIVATE, any::<bool>()).prop_map(|(n, on)| Step::Log(n, on)),
    ];
    prop::collection::vec(step, 1..8)
}

/// A model, and a simulated VM that follows it.
struct Rig {
    model: MemoryModel,
    space: SpaceId,
    regions: Vec<RegionId>,
    slots: Slots,
    /// Whether a listener after the slots refuses.
    refuses: Arc<Refusing>,
}

/// Refuses in the requested stage.
#[derive(Debug, Default)]
struct Refusing(AtomicU8);

const NEVER: u8 = 0;
const PREPARE: u8 = 1;
const APPLY: u8 = 2;

impl Refusing {
    fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }

    fn refuse_in(&self, stage: u8) -> Result<(), ListenerError> {
        match self.0.load(Ordering::Relaxed) == stage {
            true => Err("asked to".into()),
            false => Ok(()),
        }
    }
}

impl Listener<()> for Refusing {
    fn name(&self) -> &str {
        "refusing"
    }

    fn prepare(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        self.refuse_in(PREPARE)
    }

    fn apply(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        self.refuse_in(APPLY)
    }
}

impl Rig {
    fn new() -> Self {
        let vm = SimVm::new(SimConfig {
            abi: ABI,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let dma_buf = Arc::new(vm.create_dma_buf(4 * PAGE).unwrap());
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        let mut regions = Vec::new();
        for (n, _) in SIZES.iter().enumerate() {
            let id = t.add(region(n, &dma_buf)).unwrap();
            // Higher ones cover lower ones, and cut them.
            let priority = i32::try_from(n).unwrap();
            t.place(id, root, 2 * n as u64 * PAGE, priority).unwrap();
            regions.push(id);
        }
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        // SAFETY: no guest loads or stores, so no one accesses the addresses.
        let slots = unsafe { kvm_slots::Slots::new(Watched::new(vm), ABI) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        let refuses = Arc::new(Refusing::default());
        model.add_listener(space, 0, slots.clone()).unwrap();
        model.add_listener(space, -1, refuses.clone()).unwrap();
        Self {
            model,
            space,
            regions,
            slots,
            refuses,
        }
    }

    /// Commits the steps while the calls that `fail` numbers fail.
    fn commit(
        &mut self,
        steps: &[Step],
        fail: impl IntoIterator<Item = (usize, Errno)>,
    ) -> Result<(), CommitError> {
        self.slots.vm().start(fail);
        let mut t = self.model.transaction();
        for step in steps {
            match *step {
                Step::Move(n, page) => t.move_to(self.regions[n], page * PAGE),
                Step::Show(n, enabled) => t.set_enabled(self.regions[n], enabled),
                Step::Readonly(n, readonly) => t.set_readonly(self.regions[n], readonly),
                Step::Log(n, true) => t.set_dirty_logging(self.regions[n], DirtyClients::VGA),
                Step::Log(n, false) => t.set_dirty_logging(self.regions[n], DirtyClients::NONE),
            }
            .unwrap();
        }
        t.commit()
    }

    /// Each page of each slot is where the view has it.
    fn has_no_leftovers(&self) {
        let ranges = slot_ranges(&self.model.view(self.space));
        for slot in self.slots.table().slots() {
            for page in (0..slot.size() / PAGE).map(|page| slot.gpa() + page * PAGE) {
                let mut shown = ranges.iter();
                let shown = shown.find(|r| r.gpa() <= page && page <= r.last());
                let shown = shown.and_then(|r| r.backing().slice(page - r.gpa(), PAGE));
                let has = slot.backing().slice(page - slot.gpa(), PAGE);
                assert_eq!(shown, has, "{page:#x} of {slot:?}");
            }
        }
    }

    /// Whether table and simulated KVM agree.
    fn check_slots(&self) {
        check(self.slots.vm(), &self.slots.table(), ABI);
    }

    /// Whether model, table and simulated KVM agree.
    fn check(&self) {
        self.check_slots();
        let target = slot_ranges(&self.model.view(self.space));
        assert_eq!(ranges_of(&self.slots.table()), target);
    }
}

fn region(n: usize, dma_buf: &Arc<OwnedFd>) -> Region {
    let (name, size) = (format!("{n}"), SIZES[n] * PAGE);
    if n >= PRIVATE {
        let offset = (n - PRIVATE) as u64 * PAGE;
        let file = FileSlice::new(dma_buf.clone(), offset, size);
        return Region::private_mmio(&name, PrivateMmio::new(file.unwrap()));
    }
    let address = HOST + n as u64 * 0x10_0000;
    // SAFETY: nothing is mapped there, and the simulated KVM copies.
    let host = unsafe { HostMemory::new(address, size, Arc::new(())) }.unwrap();
    Region::ram(&name, Memory::host_only(host))
}

/// The listener's error in that of a commit.
fn refused(error: &CommitError) -> &ApplyError {
    let CommitError::Refused { source, .. } = error else {
        panic!("{error:?}");
    };
    match source.downcast_ref() {
        Some(FollowError::Apply(error)) => error,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(TRANSACTIONS))]

    #[test]
    fn a_commit_that_an_ioctl_refuses_changes_nothing(first in steps(), steps in steps()) {
        let mut rig = Rig::new();
        rig.commit(&first, []).unwrap();
        rig.check();
        let before = (rig.model.view(rig.space), rig.slots.table());
        for call in 0.. {
            // The first time finds out which operation it is.
            let Err(error) = rig.commit(&steps, [(call, Errno::ENOMEM)]) else {
                break;
            };
            let op = refused(&error).op.clone();
            for errno in possible(&op) {
                let error = rig.commit(&steps, [(call, errno)]).unwrap_err();
                let error = refused(&error);
                prop_assert_eq!(&error.op, &op);
                prop_assert_eq!(error.why, StepError::Refused(errno));
                prop_assert_eq!(&error.not_undone, &[]);
                prop_assert_eq!(&rig.slots.table(), &before.1);
                rig.check();
            }
            prop_assert!(rig.model.view(rig.space).ranges().eq(before.0.ranges()));
        }
        rig.check();
    }

    #[test]
    fn a_commit_that_another_listener_refuses_changes_nothing(
        first in steps(),
        steps in steps(),
    ) {
        let mut rig = Rig::new();
        rig.commit(&first, []).unwrap();
        let before = rig.slots.table();
        // If a listener refuses to prepare, KVM is not called.
        rig.refuses.set(PREPARE);
        let _ = rig.commit(&steps, []);
        prop_assert!(rig.slots.vm().calls().is_empty());
        rig.refuses.set(APPLY);
        let refused = rig.commit(&steps, []).is_err();
        prop_assert!(refused || rig.slots.vm().calls().is_empty());
        prop_assert_eq!(rig.slots.table(), before);
        rig.check();
        rig.refuses.set(NEVER);
        rig.commit(&steps, []).unwrap();
        rig.check();
    }

    #[test]
    fn steps_that_an_abort_could_not_undo_are_named_and_corrected_by_the_next_change(
        first in steps(),
        steps in steps(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut rig = Rig::new();
        rig.commit(&first, []).unwrap();
        let before = rig.slots.table();
        rig.refuses.set(APPLY);
        let _ = rig.commit(&steps, []);
        let calls = rig.slots.vm().calls().len();
        prop_assume!(calls > 0);
        // Half of the calls lead there, half of them back.
        let call = calls / 2 + at.index(calls / 2);
        let error = rig.commit(&steps, [(call, Errno::EIO)]).unwrap_err();
        let CommitError::Refused { not_undone, .. } = &error else {
            panic!("{error:?}");
        };
        let Some(FollowError::NotUndone(left)) = not_undone[0].source.downcast_ref() else {
            panic!("{error:?}");
        };
        prop_assert_eq!(left[0].why, StepError::Refused(Errno::EIO));
        prop_assert_ne!(rig.slots.table(), before);
        rig.check_slots();
        prop_assert!(rig.slots.needs_resync() && rig.slots.ready().is_err());

        // Leftovers are deleted while the next transaction prepares, and no undo makes them
        // again.
        prop_assert!(rig.commit(&steps, []).is_err());
        rig.has_no_leftovers();
        prop_assert!(rig.slots.needs_resync());
        rig.refuses.set(NEVER);
        rig.commit(&steps, []).unwrap();
        rig.check();
        prop_assert!(rig.slots.ready().is_ok());
    }
    #[test]
    fn steps_that_a_refused_commit_could_not_undo_are_named_and_corrected_by_the_next_change(
        first in steps(),
        steps in steps(),
        at in any::<prop::sample::Index>(),
        back in any::<prop::sample::Index>(),
    ) {
        let mut rig = Rig::new();
        rig.commit(&first, []).unwrap();
        let before = rig.slots.table();
        rig.refuses.set(APPLY);
        let _ = rig.commit(&steps, []);
        rig.refuses.set(NEVER);
        let calls = rig.slots.vm().calls().len() / 2;
        prop_assume!(calls > 1);
        // One call fails, and then one of those that undo the ones before it.
        let call = 1 + at.index(calls - 1);
        let undo = call + 1 + back.index(call);
        let fail = [(call, Errno::ENOMEM), (undo, Errno::EIO)];
        let error = rig.commit(&steps, fail).unwrap_err();
        let left = &refused(&error).not_undone;
        prop_assert_eq!(left[0].why, StepError::Refused(Errno::EIO));
        prop_assert_ne!(rig.slots.table(), before);
        rig.check_slots();
        rig.commit(&steps, []).unwrap();
        rig.check();
    }
}
