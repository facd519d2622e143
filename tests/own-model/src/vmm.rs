// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hypervisor, which applies changes of its model to a VM.

use std::sync::Arc;

use kvm_slots::convert::{
    ConvertError, Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides, GuestPages,
    Home, MemoryError, PageState,
};
use kvm_slots::dirty::{DirtyCollector, DirtyError, DirtyMode, LoggingVm};
use kvm_slots::{
    AbiProfile, ApplyError, Capabilities, HoldVcpus, NotUndone, Op, PlanError, SlotRange, Slots, Vm,
};
use parking_lot::{ArcRwLockWriteGuard, RawRwLock, RwLock, RwLockReadGuard};

use crate::Model;
use crate::private_pages::private_pages;

/// A VM, its memory, and everything that follows it.
#[derive(Debug)]
pub struct Vmm<V: Vm> {
    slots: Slots<V>,
    collector: Arc<DirtyCollector<V>>,
    converter: Arc<Converter<V, ConvertibleMemory>>,
    gate: Arc<Gate>,
    model: Model,
    /// The visible ranges, from which the slots were made.
    shown: Vec<SlotRange>,
}

/// The result of a change.
#[derive(Debug)]
pub struct Change {
    /// The operations.
    pub ops: Vec<Op>,
    /// Whether vCPUs were held.
    pub held: bool,
}

/// The reason why the memory did not change.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// KVM refused a step.
    #[error(transparent)]
    Apply(Box<ApplyError>),
    /// The guest has accepted what would change.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Private pages would have no address.
    #[error("private pages would be hidden")]
    HidesPrivate,
    /// The private pages could not be converted.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// Another part of the hypervisor refused, and these steps could not be
    /// undone.
    #[error("it was taken back, but for {} steps", .0.len())]
    RolledBack(Vec<NotUndone>),
}

impl<V: LoggingVm + Clone + Send + Sync + 'static> Vmm<V> {
    /// A hypervisor for a VM that has no memory yet.
    ///
    /// # Errors
    /// [`DirtyError`] if the kernel has no dirty log of that mode.
    ///
    /// # Safety
    /// As for [`Slots::new`]: no one else makes or changes slots of `vm`, and
    /// `abi` is the way in which its kernel takes slots without a host address.
    pub unsafe fn new(vm: V, abi: AbiProfile, mode: DirtyMode) -> Result<Self, DirtyError> {
        let capabilities = Capabilities::probe(&vm);
        let home = Home::probe(&vm).unwrap_or(Home::Slot);
        let converter = Converter::new(vm.clone(), home, ConvertibleMemory::new());
        let collector = Arc::new(DirtyCollector::new(vm.clone(), &capabilities, mode)?);
        // SAFETY: passed on from the caller.
        let slots = unsafe { Slots::new(vm, abi) };
        Ok(Self {
            slots: slots.with_watcher(collector.clone()),
            collector,
            converter: Arc::new(converter),
            gate: Arc::default(),
            model: Model::default(),
            shown: Vec::new(),
        })
    }

    /// Changes the model and the VM, completely or not at all.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn change(&mut self, edit: impl FnOnce(&mut Model)) -> Result<Change, Refused> {
        self.change_if(edit, || true)
    }

    /// As [`change`](Self::change). After KVM has followed, `agrees` says
    /// whether the rest of the hypervisor agrees. If not, everything is undone.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn change_if(
        &mut self,
        edit: impl FnOnce(&mut Model),
        agrees: impl FnOnce() -> bool,
    ) -> Result<Change, Refused> {
        let mut model = self.model.clone();
        edit(&mut model);
        let shown = model.shows();
        let removed = without(&self.shown, &shown);
        let added = without(&shown, &self.shown);
        let converter = self.converter.clone();
        // vCPUs that must be held stay held until the change is complete.
        let mut gate = None;
        let change = converter.with_pages(|pages| {
            let moved = private_pages(pages, &removed, &added);
            let (was_private, is_private) = moved.ok_or(Refused::HidesPrivate)?;
            let wanted = kvm_slots::Change::new(&removed, &added)
                .with_private_pages(&was_private, &is_private);
            let plan = self.slots.plan_change(&wanted)?;
            pages.set_ranges(convertible(&shown))?;
            let held = plan.holds_vcpus() || plan.ends_log();
            gate = held.then(|| self.gate.hold());
            let applied = match self.slots.apply(&plan) {
                Ok(applied) => applied,
                Err(error) => {
                    pages.set_ranges(convertible(&self.shown))?;
                    return Err(Refused::Apply(Box::new(error)));
                }
            };
            if !agrees() {
                let left = self.slots.undo(applied);
                pages.set_ranges(convertible(&self.shown))?;
                return Err(Refused::RolledBack(left));
            }
            for page in was_private {
                pages.record(page, PageState::Shared);
            }
            for page in is_private {
                pages.record(page, PageState::Private);
            }
            Ok(Change {
                ops: plan.into_ops(),
                held,
            })
        })??;
        (self.model, self.shown) = (model, shown);
        drop(gate);
        Ok(change)
    }

    /// The guest's memory.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        self.slots.vm()
    }

    /// The slots.
    pub fn slots(&self) -> &Slots<V> {
        &self.slots
    }

    /// The collector of dirty pages.
    pub fn collector(&self) -> &DirtyCollector<V> {
        &self.collector
    }

    /// Collects what the guest has written.
    ///
    /// # Errors
    /// [`DirtyError`].
    pub fn collect(&self) -> Result<(), DirtyError> {
        self.collector.collect(self.slots.table())
    }

    /// The converter.
    pub fn converter(&self) -> &Converter<V, ConvertibleMemory> {
        &self.converter
    }

    /// The gate that vCPU threads pass to enter the guest.
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }
}

/// The ranges of `all` that are not in `others`, both sorted by address.
fn without(all: &[SlotRange], others: &[SlotRange]) -> Vec<SlotRange> {
    let other = |range: &SlotRange| {
        let found = others.binary_search_by_key(&range.gpa(), |other| other.gpa());
        found.is_ok_and(|at| others[at] == *range)
    };
    all.iter().filter(|range| !other(range)).cloned().collect()
}

fn convertible(shown: &[SlotRange]) -> impl Iterator<Item = ConvertibleRange> + '_ {
    shown
        .iter()
        .filter_map(|range| ConvertibleRange::new(range, GuestMemfdSides::Private))
}

/// Keeps vCPUs out of the guest. A vCPU thread enters for one access at a time,
/// so no kick is needed.
#[derive(Debug, Default)]
pub struct Gate(Arc<RwLock<()>>);

impl Gate {
    /// The calling vCPU is in the guest until this is dropped.
    pub fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read()
    }
}

impl HoldVcpus for Gate {
    type Held = ArcRwLockWriteGuard<RawRwLock, ()>;

    fn hold(&self) -> Self::Held {
        self.0.write_arc()
    }
}
