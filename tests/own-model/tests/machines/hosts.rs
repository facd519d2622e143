// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A hypervisor with a VM and a guest, on the simulated or the real KVM.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_ioctls::Kvm;
use kvm_slots::dirty::{DirtyMode, LoggingVm};
use kvm_slots::sim::{KernelVersion, SimConfig, SimMemslot, SimVm, VmType};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{AbiProfile, Capabilities, GuestMemfdFlags, KvmVm, Vm};
use own_model::guest::{Guest, Seen, plain_vm};
use own_model::{Bytes, Model, Region, Vmm, What, page_size};

/// What a test requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A VM.
    Plain,
    /// A VM whose pages can be private.
    PrivatePages,
}

/// What the tests need of a VM besides `LoggingVm`.
pub trait Host: LoggingVm + Clone + Send + Sync + 'static {
    /// The kernel's memslots, if they can be inspected.
    fn memslots(&self) -> Option<Vec<SimMemslot>>;
    /// A device's registers as a file, if a guest can reach them.
    fn registers(&self, size: u64) -> Option<OwnedFd>;
}

impl Host for SimVm {
    fn memslots(&self) -> Option<Vec<SimMemslot>> {
        Some(SimVm::memslots(self))
    }

    fn registers(&self, size: u64) -> Option<OwnedFd> {
        self.create_dma_buf(size).ok()
    }
}

impl Host for KvmVm {
    fn memslots(&self) -> Option<Vec<SimMemslot>> {
        None
    }

    fn registers(&self, _size: u64) -> Option<OwnedFd> {
        None
    }
}

/// A hypervisor with a VM and a guest.
pub struct Machine<V: Vm> {
    pub vmm: Vmm<V>,
    pub guest: Box<dyn Guest>,
    /// The regions of the guest's own code, which never change.
    pub code: Vec<Region>,
}

/// On a simulated kernel that has slots without a host address.
pub fn simulated(need: Need) -> Machine<SimVm> {
    let private = need == Need::PrivatePages;
    let vm = SimVm::new(SimConfig {
        private_pages: private,
        vm_type: match private {
            true => VmType::SwProtected,
            false => VmType::Plain,
        },
        abi: AbiProfile::FD_OFFSET_BIT_4,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    // SAFETY: the VM is new, and simulates a kernel with this profile. Its slots
    // belong to the `Vmm`, except one that a test puts at a number of its own.
    let vmm = unsafe { Vmm::new(vm.clone(), AbiProfile::FD_OFFSET_BIT_4, DirtyMode::Log) };
    Machine {
        vmm: vmm.expect("every kernel has logs"),
        guest: Box::new(vm),
        code: Vec::new(),
    }
}

/// On this machine's KVM, or a message that says why that is not possible.
pub fn real(need: Need) -> Result<Machine<KvmVm>, String> {
    /// `KVM_X86_SW_PROTECTED_VM` (arch/x86/include/uapi/asm/kvm.h).
    const SW_PROTECTED: u64 = 1;
    let text = |what: &'static str| move |error| format!("KVM cannot {what}: {error}");
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm cannot be opened: {error}"))?;
    let vm = match need {
        Need::Plain => plain_vm(&kvm),
        Need::PrivatePages => KvmVm::create(&kvm, SW_PROTECTED),
    };
    let vm = vm.map_err(text("make such a VM"))?;
    let can = Capabilities::probe(&vm);
    if need == Need::PrivatePages && can.memory_attributes & MEMORY_ATTRIBUTE_PRIVATE == 0 {
        return Err("there are no private pages".into());
    }
    let guest = own_model::guest::Vcpu::new(vm.fd());
    let (guest, code) = guest.map_err(|error| format!("there is no guest: {error}"))?;
    // SAFETY: the VM is new. Its slots belong to the `Vmm`, except one that a
    // test puts at a number of its own. There are none without a host address.
    let vmm = unsafe { Vmm::new(vm, AbiProfile::None, DirtyMode::Log) };
    let vmm = vmm.map_err(|e| e.to_string())?;
    let mut machine = Machine {
        vmm,
        guest: Box::new(guest),
        code: vec![code.clone()],
    };
    let there = machine.vmm.change(|model| model.add(code));
    there.map_err(|error| error.to_string())?;
    Ok(machine)
}

impl<V: Host> Machine<V> {
    /// Changes the model, which must succeed.
    #[track_caller]
    pub fn change(&mut self, edit: impl FnOnce(&mut Model)) -> own_model::Change {
        self.vmm.change(edit).expect("the change")
    }

    #[track_caller]
    pub fn loads(&mut self, gpa: u64, byte: u8) {
        assert_eq!(self.guest.load(gpa), Seen::Direct(byte), "load at {gpa:#x}");
    }

    #[track_caller]
    pub fn stores(&mut self, gpa: u64, byte: u8) {
        let seen = self.guest.store(gpa, byte);
        assert_eq!(seen, Seen::Direct(byte), "store at {gpa:#x}");
    }

    #[track_caller]
    pub fn exits(&mut self, gpa: u64) {
        assert_eq!(self.guest.load(gpa), Seen::Exit, "load at {gpa:#x}");
    }

    /// The guest's access must be a memory fault.
    #[track_caller]
    pub fn faults(&mut self, gpa: u64) {
        let seen = self.guest.load(gpa);
        assert!(matches!(seen, Seen::Fault(_)), "load at {gpa:#x}: {seen:?}");
    }

    /// Memory with private pages, and its shared bytes.
    pub fn confidential(&self, pages: u64) -> (What, Arc<Bytes>) {
        let shared = Bytes::zeros(pages * page_size()).expect("memory");
        let file = self
            .vmm
            .vm()
            .create_guest_memfd(pages * page_size(), GuestMemfdFlags::empty());
        let file = Arc::new(file.expect("a guest_memfd"));
        (What::Confidential(shared.clone(), file), shared)
    }
}

/// Memory whose pages start with 1, 2, 3 and so on.
pub fn stamped(pages: u8) -> Arc<Bytes> {
    let bytes = Bytes::zeros(u64::from(pages) * page_size()).expect("memory");
    for page in 0..pages {
        bytes
            .set(u64::from(page) * page_size(), page + 1)
            .expect("in it");
    }
    bytes
}

/// A region of whole pages.
pub fn region(name: u32, gpa: u64, pages: u64, what: What) -> Region {
    Region {
        name,
        gpa,
        size: pages * page_size(),
        priority: 0,
        start: 0,
        what,
        logged: false,
    }
}
