// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated VM with a table of its slots, for random transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    Applied, ApplyError, Capabilities, Errno, GuestMemfdFlags, Op, Plan, SlotRange, SlotTable, Vm,
    apply, plan, undo,
};

use super::random::{FILE_SIZE, Fds, SPACE};
use super::watched::{Watched, as_told};
use super::{ABI, HOST, PAGE};

/// A number that no table of these tests reaches.
const UNUSED_SLOT: u32 = 1000;

pub struct Machine {
    pub vm: Watched<SimVm>,
    pub table: SlotTable,
    capabilities: Capabilities,
    guest_memfd: OwnedFd,
    dma_buf: OwnedFd,
}

impl Machine {
    pub fn new() -> Self {
        let vm = SimVm::new(SimConfig {
            abi: ABI,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let none = GuestMemfdFlags::empty();
        Self {
            capabilities: Capabilities::probe(&vm),
            guest_memfd: vm.create_guest_memfd(FILE_SIZE, none).expect("a file"),
            dma_buf: vm.create_dma_buf(FILE_SIZE).expect("a file"),
            vm: Watched::new(vm),
            table: SlotTable::new(),
        }
    }

    pub fn fds(&self) -> Fds {
        Fds {
            guest_memfd: self.guest_memfd.as_raw_fd(),
            dma_buf: self.dma_buf.as_raw_fd(),
        }
    }

    pub fn plan(&self, wanted: &[SlotRange]) -> Plan {
        plan(&self.table, wanted, &self.capabilities, ABI).expect("a plan")
    }

    /// Carries `plan` out while the ioctls that `fail` numbers fail.
    pub fn apply(
        &mut self,
        plan: &Plan,
        fail: impl IntoIterator<Item = (usize, Errno)>,
    ) -> Result<Applied, Box<ApplyError>> {
        self.vm.start(fail);
        let (capabilities, table) = (&self.capabilities, &mut self.table);
        // SAFETY: no test loads or stores through the slots, so nothing is
        // ever touched at the host addresses. The table is this VM's own.
        unsafe { apply(&self.vm, capabilities, ABI, plan, table) }.map_err(Box::new)
    }

    pub fn undo(&mut self, applied: Applied) -> Vec<(Op, Errno)> {
        self.vm.start([]);
        let (capabilities, table) = (&self.capabilities, &mut self.table);
        // SAFETY: as above.
        unsafe { undo(&self.vm, capabilities, ABI, applied, table) }
    }

    /// Whether the VM has exactly the slots of the table: by what it was told,
    /// and by which pages it takes no further slot for.
    pub fn check(&self) {
        assert_eq!(self.vm.slots(), as_told(&self.table));
        let slots = self.table.slots();
        let pages = slots.map(|slot| slot.gpa / PAGE..=slot.last() / PAGE);
        let held: BTreeSet<u64> = pages.flatten().collect();
        let occupied = (0..SPACE).filter(|page| self.is_occupied(*page));
        assert_eq!(occupied.collect::<BTreeSet<_>>(), held);
    }

    fn is_occupied(&self, page: u64) -> bool {
        let mut probe = kvm_userspace_memory_region2 {
            slot: UNUSED_SLOT,
            guest_phys_addr: page * PAGE,
            memory_size: PAGE,
            userspace_addr: HOST,
            ..Default::default()
        };
        let sim = &self.vm.vm;
        // SAFETY: as above; the probe is gone before anything else happens.
        match unsafe { sim.set_user_memory_region2(&probe) } {
            Ok(()) => {}
            Err(errno) => {
                assert_eq!(errno, Errno::EEXIST);
                return true;
            }
        }
        probe.memory_size = 0;
        // SAFETY: a deletion.
        unsafe { sim.set_user_memory_region2(&probe) }.expect("it was made just now");
        false
    }
}

/// The ranges that would ask for the slots of a table, by address.
pub fn ranges_of(table: &SlotTable) -> Vec<SlotRange> {
    let by_address: BTreeMap<u64, SlotRange> = table
        .slots()
        .map(|slot| (slot.gpa, super::dumb::as_range(slot)))
        .collect();
    by_address.into_values().collect()
}
