// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A real VM whose memslots follow a memory model.

use std::sync::Arc;

use kvm_slots::{AbiProfile, HoldVcpus, KvmVm, SlotId, SlotListener, SlotRules, Slots};
use memory_model::{MemoryModel, Region, RegionId, SpaceId};
use parking_lot::{ArcMutexGuard, Mutex, RawMutex};

use super::{Real, Subject};
use crate::check::at;

/// A lock that the vCPU holds during each access, and the listener while memory
/// has a gap.
#[derive(Debug, Default)]
pub(crate) struct Gate(Arc<Mutex<()>>);

impl HoldVcpus for Gate {
    type Held = ArcMutexGuard<RawMutex, ()>;

    fn hold(&self) -> Self::Held {
        self.0.lock_arc()
    }
}

/// A memory model, and the listener that updates the VM's memslots.
#[derive(Debug)]
pub(crate) struct ModelMemory {
    pub(crate) model: MemoryModel<()>,
    /// The container of all regions.
    pub(crate) root: RegionId,
    pub(crate) space: SpaceId,
    pub(crate) slots: Arc<SlotListener<KvmVm, Arc<Gate>>>,
}

impl ModelMemory {
    /// An empty model for `real`. The slot of the guest's own code stays.
    ///
    /// # Safety
    /// No one else makes or changes slots of this VM as long as the model lives,
    /// and `abi` is as [`Slots::new`] requires.
    pub(crate) unsafe fn new(
        real: &Real,
        abi: AbiProfile,
        gate: &Arc<Gate>,
    ) -> Result<Self, String> {
        let own = SlotId::try_from(real.own_slot()).map_err(at("a slot"))?;
        let rules = SlotRules::new().reserving(own..=own);
        let (vm, gate) = (real.vm().clone(), Arc::clone(gate));
        // SAFETY: `KvmVm` is the real KVM. The slot that exists already has the
        // number that `rules` reserves; the caller vouches for the rest.
        let slots = unsafe { Slots::new(vm, abi) }.with_rules(rules);
        let slots = Arc::new(SlotListener::new(slots, gate).keeping_latest_plan());
        let mut model = MemoryModel::new();
        let mut change = model.transaction();
        let root = change.add(Region::container("memory", 1 << 40));
        let root = root.map_err(at("memory"))?;
        change.commit().map_err(at("memory"))?;
        let space = model.add_space("memory", root).map_err(at("memory"))?;
        let added = model.add_listener(space, 0, slots.clone());
        added.map_err(|error| vmm::with_causes(&error))?;
        Ok(Self {
            model,
            root,
            space,
            slots,
        })
    }
}
