// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated VM with a table of its slots, for random transactions.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use kvm_slots::push::PushedRange;
use kvm_slots::sim::{KernelVersion, SimConfig, SimMemslot, SimVm};
use kvm_slots::{
    AbiProfile, Applied, ApplyError, Errno, GuestMemfdFlags, NotUndone, Plan, Slot, SlotBacking,
    SlotRange, SlotTable, Slots, Vm,
};

use super::random::{FILE_SIZE, Fds};
use super::region::private_vm;
use super::watched::{SlotFields, Watched, of_slot};
use super::{ABI, PAGE};

/// A VM and the table of its slots.
#[derive(Debug)]
pub struct Machine {
    /// The slots.
    pub slots: Slots<Watched<SimVm>>,
    /// The kernel's profile for slots without a host address.
    pub abi: AbiProfile,
    files: Option<Files>,
}

/// A guest_memfd, and dma-bufs of one and of two pages and of four.
#[derive(Debug)]
struct Files {
    guest_memfd: OwnedFd,
    whole: [OwnedFd; 2],
    sliced: OwnedFd,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A VM whose kernel takes slots of every kind.
    pub fn new() -> Self {
        Self::with(ABI)
    }

    /// A VM whose kernel takes slots without a host address with this profile.
    pub fn with(abi: AbiProfile) -> Self {
        let released = match abi {
            AbiProfile::RfcDmaBuf { .. } => private_vm(KernelVersion::V7_3),
            _ => SimConfig::released(KernelVersion::V7_3),
        };
        let mut machine = Self::on(SimConfig { abi, ..released });
        let vm = &machine.slots.vm().vm;
        let none = GuestMemfdFlags::empty();
        let dma_buf = |pages| vm.create_dma_buf(pages * PAGE).expect("a file");
        machine.files = Some(Files {
            guest_memfd: vm.create_guest_memfd(FILE_SIZE, none).expect("a file"),
            whole: [1, 2].map(dma_buf),
            sliced: dma_buf(4),
        });
        machine
    }

    /// A VM of exactly this description, and no files.
    pub fn on(config: SimConfig) -> Self {
        let vm = Watched::new(SimVm::new(config));
        Self {
            // SAFETY: the VM is new, `Watched` refuses a call or passes it on,
            // and `config.abi` is the simulated kernel's own profile.
            slots: unsafe { Slots::new(vm, config.abi) },
            abi: config.abi,
            files: None,
        }
    }

    /// The descriptors of its files.
    pub fn fds(&self) -> Fds {
        let files = self.files.as_ref().expect("a machine with files");
        let sliced = files.sliced.as_raw_fd();
        Fds {
            guest_memfd: files.guest_memfd.as_raw_fd(),
            registers: match self.abi {
                AbiProfile::RfcDmaBuf { .. } => {
                    files.whole.each_ref().map(|file| (file.as_raw_fd(), 0))
                }
                _ => [(sliced, 0), (sliced, 2 * PAGE)],
            },
        }
    }

    /// The plan from the current slots to these ranges.
    pub fn plan(&self, wanted: &[SlotRange]) -> Plan {
        self.slots.plan(wanted).expect("a plan")
    }

    /// Applies `plan` while the calls with the numbers in `fail` fail.
    pub fn apply(
        &mut self,
        plan: &Plan,
        fail: impl IntoIterator<Item = (usize, Errno)>,
    ) -> Result<Applied, Box<ApplyError>> {
        self.slots.vm().start(fail);
        self.slots.apply(plan).map_err(Box::new)
    }

    /// Undoes a plan while the calls with the numbers in `fail` fail.
    pub fn undo(
        &mut self,
        applied: Applied,
        fail: impl IntoIterator<Item = (usize, Errno)>,
    ) -> Vec<NotUndone> {
        self.slots.vm().start(fail);
        self.slots.undo(applied)
    }

    /// The VM.
    pub fn vm(&self) -> &Watched<SimVm> {
        self.slots.vm()
    }

    /// The table of its slots.
    pub fn table(&self) -> &SlotTable {
        self.slots.table()
    }

    /// Whether the VM has exactly the slots of the table.
    pub fn check(&self) {
        check(self.vm(), self.table(), self.abi);
    }
}

/// Whether a VM has exactly the slots of a table, by the calls that it got and
/// by the simulated kernel's state.
pub fn check(vm: &Watched<SimVm>, table: &SlotTable, abi: AbiProfile) {
    let by_push = |slot: &&Slot| {
        abi == AbiProfile::Push && matches!(slot.backing(), SlotBacking::FdOffset(_))
    };
    let flag = abi.flag().unwrap_or(0);
    let slots = table.slots().filter(|slot| !by_push(slot));
    let expected: BTreeMap<u32, SlotFields> = slots
        .map(|slot| (slot.id().into(), of_slot(slot, flag)))
        .collect();
    assert_eq!(vm.slots(), expected);
    let pushed: BTreeMap<u64, PushedRange> = table
        .slots()
        .filter(by_push)
        .map(|slot| (slot.gpa(), as_pushed(slot)))
        .collect();
    assert_eq!(vm.pushed(), pushed);

    let mut held: Vec<SimMemslot> = table
        .slots()
        .map(|slot| in_kernel(slot, by_push(&slot), flag))
        .collect();
    held.sort_by_key(|slot| (slot.id.is_none(), slot.gpa));
    assert_eq!(vm.vm.memslots(), held);
}

fn as_pushed(slot: &Slot) -> PushedRange {
    PushedRange {
        gpa: slot.gpa(),
        size: slot.size(),
        file: slot.backing().file().expect("a file").clone(),
    }
}

fn in_kernel(slot: &Slot, pushed: bool, flag: u32) -> SimMemslot {
    let (gpa, size, flags, userspace_addr, _, offset) = of_slot(slot, flag);
    SimMemslot {
        id: (!pushed).then_some(slot.id()),
        gpa,
        size,
        userspace_addr,
        flags,
        file_offset: slot.backing().file().map(|_| offset),
    }
}

/// The ranges that would produce the slots of a table, by address.
pub fn ranges_of(table: &SlotTable) -> Vec<SlotRange> {
    let by_address: BTreeMap<u64, SlotRange> = table
        .slots()
        .map(|slot| (slot.gpa(), super::dumb::as_range(slot)))
        .collect();
    by_address.into_values().collect()
}
