// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What differs between the homes of a page's state.

use crate::common;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use common::layout::{HOMES, Layout, start};
use common::region::private_vm;
use common::{ABI, PAGE};
use kvm_slots::convert::{
    ConvertError, FailedStep, GuestPages, Home, NotChanged, PageRange, PageState, Request,
};
use kvm_slots::kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, FileAttributesError, GuestMemfdFlags, Vm};

const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;

fn config(home: Home) -> SimConfig {
    SimConfig {
        home,
        abi: ABI,
        ..private_vm(KernelVersion::V7_3)
    }
}

#[test]
fn each_home_is_found_and_a_vm_without_private_pages_has_only_memslots() {
    for home in HOMES {
        assert_eq!(Home::probe(&SimVm::new(config(home))), Ok(home));
    }
    for kernel in [
        KernelVersion::V6_1,
        KernelVersion::V6_12,
        KernelVersion::V6_18,
        KernelVersion::V7_3,
    ] {
        let plain = SimVm::new(SimConfig::released(kernel));
        assert_eq!(Home::probe(&plain), Ok(Home::Slot), "{kernel}");
    }
    // A plain VM on a kernel whose files have attributes.
    let plain = SimVm::new(SimConfig {
        home: Home::FileAttributes,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    assert_eq!(Home::probe(&plain), Ok(Home::Slot));
}

#[test]
fn an_error_that_tells_nothing_about_the_home_is_an_error() {
    #[derive(Debug)]
    struct Full(SimVm);
    impl Vm for Full {
        fn check_extension(&self, capability: u32) -> i32 {
            self.0.check_extension(capability)
        }
        unsafe fn set_user_memory_region2(
            &self,
            _: &kvm_userspace_memory_region2,
        ) -> Result<(), Errno> {
            Err(Errno::EIO)
        }
        unsafe fn set_user_memory_region(
            &self,
            _: &kvm_userspace_memory_region,
        ) -> Result<(), Errno> {
            Err(Errno::EIO)
        }
        fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
            Err(Errno(libc::EMFILE))
        }
        fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> {
            Err(Errno::EIO)
        }
    }
    let full = Full(SimVm::new(config(Home::VmAttributes)));
    assert_eq!(Home::probe(&full), Err(Errno(libc::EMFILE)));
}

#[test]
fn the_probe_changes_no_page() {
    for home in HOMES {
        let layout = Layout::of(home);
        let _ = layout.converter.hypercall(2 * PAGE, 3, PRIVATE).unwrap();
        let before = layout.vm().private();
        layout.log();
        assert_eq!(Home::probe(layout.vm()), Ok(home));
        assert_eq!(layout.log(), [""; 0]);
        assert_eq!(layout.vm().private(), before);
    }
}

#[test]
fn slots_are_changed_by_one_call_or_by_one_each() {
    // Pages 0 to 11 are two slots, each with a file of its own.
    for (home, to_private) in [
        (Home::VmAttributes, &["private 6-9"][..]),
        (Home::FileAttributes, &["private 6-7", "private 8-9"]),
        (Home::Platform, &["private 6-9"]),
    ] {
        let layout = Layout::of(home);
        let _ = layout.converter.hypercall(6 * PAGE, 4, PRIVATE).unwrap();
        let calls: Vec<String> = layout.log();
        let calls: Vec<&String> = calls.iter().filter(|c| c.starts_with("private")).collect();
        assert_eq!(calls, to_private, "{home}");
    }
}

#[test]
fn a_failure_at_the_second_slot_undoes_the_first() {
    let layout = Layout::of(Home::FileAttributes);
    start(&layout.steps, [(3, Errno::ENOMEM)]);
    let error = layout.converter.hypercall(6 * PAGE, 4, PRIVATE);
    assert!(error.is_err());
    assert_eq!(
        layout.log(),
        [
            "one prepare 6,7,8,9",
            "two prepare 6,7,8,9",
            "private 6-7",
            "private 8-9: ENOMEM",
            "shared 6-7",
            "two abort 6,7,8,9",
            "one abort 6,7,8,9",
        ]
    );
    assert!(layout.vm().private().is_empty());
}

#[test]
fn acceptance_of_private_mmio_is_a_call_unless_the_slot_is_private() {
    for (home, call) in [
        (Home::VmAttributes, &["private 20-21"][..]),
        (Home::FileAttributes, &[]),
        (Home::Platform, &["private 20-21"]),
    ] {
        let layout = Layout::of(home);
        let _ = layout.converter.hypercall(20 * PAGE, 2, PRIVATE).unwrap();
        let calls = layout.log();
        let calls: Vec<&String> = calls.iter().filter(|c| c.starts_with("private")).collect();
        assert_eq!(calls, call, "{home}");
        let range = PageRange::new(20 * PAGE, 4 * PAGE).unwrap();
        let accepted = layout
            .converter
            .with_pages(|pages| pages.accepted(range).collect::<Vec<_>>());
        let due = PageRange::new(20 * PAGE, 2 * PAGE).unwrap();
        assert_eq!(accepted.unwrap(), [due], "{home}");
    }
}

fn pages(gpa: u64, count: u64) -> PageRange {
    PageRange::new(gpa, count * PAGE).unwrap()
}

#[test]
fn the_files_ioctl_refuses_what_is_documented_and_changes_nothing() {
    let vm = SimVm::new(config(Home::FileAttributes));
    let file = vm
        .create_guest_memfd(4 * PAGE, GuestMemfdFlags::all())
        .unwrap();
    let set = |file: BorrowedFd<'_>, offset, size, attributes| {
        let set = vm.set_file_attributes(file, offset, size, attributes);
        set.map_err(|FileAttributesError { errno, .. }| errno)
    };
    let private = MEMORY_ATTRIBUTE_PRIVATE;
    let invalid = Err(Errno::EINVAL);
    for (offset, size, attributes) in [
        (0, 0, private),
        (1, PAGE, private),
        (0, PAGE + 1, private),
        (0, 5 * PAGE, private),
        (4 * PAGE, PAGE, private),
        (u64::MAX - PAGE + 1, 2 * PAGE, private),
        (0, PAGE, 1),
        (0, PAGE, private | 1),
    ] {
        assert_eq!(set(file.as_fd(), offset, size, attributes), invalid);
    }
    // Everything is shared still.
    let pin = vm.pin(file.as_fd(), 0, 4 * PAGE);
    assert!(pin.is_ok());
    let dma_buf = vm.create_dma_buf(PAGE).unwrap();
    let no_ioctl = Err(Errno::ENOTTY);
    assert_eq!(set(dma_buf.as_fd(), 0, PAGE, private), no_ioctl);
    let stranger = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(set(stranger.as_fd(), 0, PAGE, private), no_ioctl);

    let released = SimVm::new(config(Home::VmAttributes));
    let file = released
        .create_guest_memfd(PAGE, GuestMemfdFlags::empty())
        .unwrap();
    let set = released.set_file_attributes(file.as_fd(), 0, PAGE, private);
    assert_eq!(set, Err(Errno::ENOTTY.into()));
    // And where files have them, the VM has none.
    assert_eq!(
        vm.set_memory_attributes(0, PAGE, private),
        Err(Errno::ENOTTY)
    );
}

#[test]
fn a_rejection_of_the_platform_refuses_the_whole_request() {
    let layout = Layout::of(Home::Platform);
    layout.vm().vm.set_rejected(pages(9 * PAGE, 1), true);
    let error = layout
        .converter
        .hypercall(6 * PAGE, 4, PRIVATE)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "conversion of 0x6000..0xa000: state of 0x6000..0xa000: the platform refuses"
    );
    assert!(layout.vm().private().is_empty());
    layout.vm().vm.set_rejected(pages(9 * PAGE, 1), false);
    let converted = layout.converter.hypercall(6 * PAGE, 4, PRIVATE).unwrap();
    assert_eq!(converted.bytes, 4 * PAGE);
}

#[test]
fn memory_that_the_guest_has_not_released_stays_private_and_keeps_its_bytes() {
    let layout = Layout::of(Home::Platform);
    let _ = layout.converter.hypercall(0, 4, PRIVATE).unwrap();
    layout.vm().vm.set_held(pages(2 * PAGE, 1), true);
    layout.log();
    let error = layout.converter.hypercall(0, 4, SHARED).unwrap_err();
    let ConvertError::Failed(failure) = error else {
        panic!("{error}");
    };
    assert!(matches!(
        failure.cause,
        FailedStep::State {
            why: NotChanged::ReleasePending,
            ..
        }
    ));
    // No device got it, and no byte was discarded.
    assert_eq!(layout.log(), ["shared 0-3"]);
    assert_eq!(layout.vm().private().len(), 4);

    layout.vm().vm.set_held(pages(2 * PAGE, 1), false);
    assert!(layout.converter.hypercall(0, 4, SHARED).is_ok());
    assert!(layout.vm().private().is_empty());
}

#[test]
fn registers_that_the_guest_has_not_released_are_revoked_and_reported() {
    let layout = Layout::of(Home::Platform);
    let registers = pages(20 * PAGE, 2);
    let accept = Request::accept(registers.start(), registers.size()).unwrap();
    let _ = layout.converter.convert(accept).unwrap();
    layout.vm().vm.set_held(registers, true);
    let revoked = layout.converter.revoke(registers).unwrap();
    assert_eq!(revoked.bytes, 2 * PAGE);
    assert_eq!(
        revoked.not_shared.to_string(),
        "0x2000 bytes, first 0x14000..0x16000: the guest has not released the pages"
    );
    // They are still private, and a later request makes them shared.
    layout.vm().vm.set_held(registers, false);
    let shared = Request::new(registers.start(), registers.size(), PageState::Shared).unwrap();
    assert_eq!(layout.converter.convert(shared).unwrap().bytes, 2 * PAGE);
}
