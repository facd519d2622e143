// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A commit in steps: a VM, a way to hold its vCPUs, and other listeners. Each calls
//! the observer before and after its actions.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::{AddressBits, Errno, GuestMemfdFlags, HoldVcpus, PageSize, Vm};
use memory_model::{Listener, ListenerError, Update};

use super::observer::{Observer, things};

/// A VM in which things happen between steps.
#[derive(Clone, Debug)]
pub struct Stepped {
    pub observer: Arc<Observer>,
    pub fails: Arc<Mutex<Fails>>,
}

/// Which call is to fail, and how many there were.
#[derive(Debug, Default)]
pub struct Fails {
    pub at: Option<usize>,
    pub calls: usize,
}

impl Vm for Stepped {
    fn check_extension(&self, capability: u32) -> i32 {
        self.observer.vm.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        let vm = &self.observer.vm;
        {
            let mut fails = self.fails.lock().unwrap();
            let call = fails.calls;
            fails.calls += 1;
            if fails.at == Some(call) {
                return Err(Errno::ENOMEM);
            }
        }
        self.observer.look();
        let id = u16::try_from(region.slot).unwrap();
        let old = vm.memslots().into_iter().find(|slot| slot.id == Some(id));
        let moves = old.is_some_and(|old| old.gpa != region.guest_phys_addr);
        if region.memory_size > 0 && moves {
            // Deleted for a moment, like on hosts that emulate the access.
            let nowhere = kvm_userspace_memory_region2 {
                memory_size: 0,
                ..*region
            };
            // SAFETY: a deletion.
            unsafe { vm.set_user_memory_region2(&nowhere) }?;
            self.observer.look();
        }
        // SAFETY: passed on from the caller.
        let result = unsafe { vm.set_user_memory_region2(region) };
        self.observer.look();
        result
    }

    unsafe fn set_user_memory_region(
        &self,
        _region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn page_size(&self) -> PageSize {
        self.observer.vm.page_size()
    }

    fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.observer.vm.address_bits()
    }
}

impl HoldVcpus for Stepped {
    type Held = Held;

    fn hold(&self) -> Held {
        self.observer.look();
        assert!(!self.observer.held.swap(true, Ordering::SeqCst));
        Held(self.observer.clone())
    }
}

pub struct Held(Arc<Observer>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::SeqCst);
        self.0.look();
    }
}

/// Another listener: calls the observer at each stage, and refuses on request.
#[derive(Debug)]
pub struct Other {
    pub observer: Arc<Observer>,
    pub refuses: AtomicBool,
    pub refuses_to_apply: AtomicBool,
    /// The answer at each page of the new view.
    pub target: Mutex<Option<Vec<u64>>>,
}

impl Listener<u64> for Other {
    fn name(&self) -> &str {
        "other"
    }

    fn prepare(&self, update: &Update<'_, u64>) -> Result<(), ListenerError> {
        self.observer.look();
        *self.target.lock().unwrap() = Some(things(update.new));
        match self.refuses.load(Ordering::SeqCst) {
            true => Err("on request".into()),
            false => Ok(()),
        }
    }

    fn apply(&self, _: &Update<'_, u64>) -> Result<(), ListenerError> {
        self.observer.look();
        match self.refuses_to_apply.load(Ordering::SeqCst) {
            true => Err("on request".into()),
            false => Ok(()),
        }
    }

    fn commit(&self, _: &Update<'_, u64>) {
        self.observer.look();
    }

    fn abort(&self, _: &Update<'_, u64>) -> Result<(), ListenerError> {
        self.observer.look();
        Ok(())
    }
}
