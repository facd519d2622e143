// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM that panics while a conversion is rolled back.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, ConvertibleMemory, ConvertibleRange,
    Engine, GuestMemfdSides, GuestPages, Home, PageRange, PageState, Request,
};
use kvm_slots::kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::{
    Errno, FileSlice, GuestMemfdFlags, HostMemory, PageSize, SlotAccess, SlotBacking, SlotRange, Vm,
};

use crate::common::PAGE;

/// A VM that remembers the latest attributes, and panics if a page is to become private
/// again.
#[derive(Debug, Default)]
struct Panicking {
    attributes: AtomicU64,
    calls: AtomicU64,
}

impl Vm for Panicking {
    fn check_extension(&self, _: u32) -> i32 {
        0
    }

    unsafe fn set_user_memory_region2(
        &self,
        _: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    unsafe fn set_user_memory_region(&self, _: &kvm_userspace_memory_region) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn page_size(&self) -> PageSize {
        PageSize::Size4K
    }

    fn set_memory_attributes(&self, _: u64, _: u64, attributes: u64) -> Result<(), Errno> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        assert!(call < 2, "the second call of the conversion");
        self.attributes.store(attributes, Ordering::Relaxed);
        Ok(())
    }
}

struct Refuses;

impl ConversionListener for Refuses {
    fn name(&self) -> &str {
        "refuses"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        match change.to {
            PageState::Shared => Err("refused".into()),
            PageState::Private => Ok(()),
        }
    }
}

#[test]
fn pages_whose_rollback_panicked_are_recorded_as_they_are() {
    let file = FileSlice::new(Arc::new(File::open("/dev/null").unwrap()), 0, PAGE).unwrap();
    let host = HostMemory::placeholder(PAGE);
    let backing = SlotBacking::GuestMemfd { file, host };
    let range = SlotRange::new(0, SlotAccess::ReadWrite, backing).unwrap();
    let mut memory = ConvertibleMemory::new();
    let range = ConvertibleRange::new(&range, GuestMemfdSides::Private);
    memory.set_ranges(range).unwrap();
    let mut engine = Engine::new(Panicking::default(), Home::VmAttributes);
    engine.add_listener(Arc::new(Refuses));
    let convert = |memory: &mut ConvertibleMemory, to| {
        let request = Request::new(0, PAGE, to).unwrap();
        engine
            .convert(memory, request)
            .map(|converted| converted.bytes)
    };
    assert_eq!(convert(&mut memory, PageState::Private).unwrap(), PAGE);
    // It is shared, then refused, and then not made private again.
    let shared = AssertUnwindSafe(|| convert(&mut memory, PageState::Shared));
    assert!(catch_unwind(shared).is_err());
    assert_eq!(engine.vm().attributes.load(Ordering::Relaxed), 0);
    let all = PageRange::new(0, PAGE).unwrap();
    assert_eq!(memory.private(all).count(), 0);
}
