// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conversions in place: RAM is one guest_memfd, which the host maps, and the state of
//! its pages is in the file.

use crate::common;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::compare::UnansweredExits;
use common::region::private_vm;
use common::{ABI, PAGE, owned_host, range};
use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, ConvertError, Converter,
    ConvertibleMemory, ConvertibleRange, FailedStep, GuestMemfdSides, GuestPages, Home, NotChanged,
    PageRange,
};
use kvm_slots::sim::{
    FileCall, GuestMemfdMapping, KernelVersion, PagePin, Sharing, SimConfig, SimVm,
};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, FileSlice, GuestMemfdFlags, SlotBacking, SlotRange, Slots, Vm};

const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;

fn config() -> SimConfig {
    SimConfig {
        home: Home::FileAttributes,
        abi: ABI,
        ..private_vm(KernelVersion::V7_3)
    }
}

/// A VM whose RAM is one guest_memfd that the host maps: two slots with a gap.
struct InPlace {
    converter: Converter<SimVm, ConvertibleMemory>,
    file: Arc<OwnedFd>,
    mapping: Arc<GuestMemfdMapping>,
    _slots: Slots<SimVm>,
}

const PAGES: u64 = 16;
/// The address of the second half.
const HIGH: u64 = 0x10_0000;

impl InPlace {
    fn new(listener: Option<Arc<dyn ConversionListener>>) -> Self {
        let vm = SimVm::new(config());
        let file = vm.create_guest_memfd(PAGES * PAGE, GuestMemfdFlags::all());
        let file = Arc::new(file.unwrap());
        let mapping = vm.map_file(file.as_fd(), 0, PAGES * PAGE, Sharing::Shared);
        let mapping = Arc::new(mapping.unwrap());
        let half = PAGES / 2 * PAGE;
        let slot = |gpa: u64, offset: u64| -> SlotRange {
            let slice = FileSlice::new(file.clone(), offset, half).unwrap();
            let host = owned_host(mapping.address() + offset, mapping.clone());
            let backing = SlotBacking::GuestMemfd {
                file: slice,
                host: Some(host),
            };
            range(gpa, half, backing)
        };
        let ranges = [slot(0, 0), slot(HIGH, half)];
        // SAFETY: the VM is new, and only `slots` makes its memslots.
        let mut slots = unsafe { Slots::new(vm.clone(), ABI) };
        let plan = slots.plan(&ranges).unwrap();
        slots.apply(&plan).unwrap();
        let mut memory = ConvertibleMemory::new();
        let convertible = ranges
            .iter()
            .filter_map(|r| ConvertibleRange::new(r, GuestMemfdSides::Both));
        memory.set_ranges(convertible).unwrap();
        let home = Home::probe(&vm).unwrap();
        let mut converter = Converter::new(vm, home, memory);
        if let Some(listener) = listener {
            converter.add_listener(listener);
        }
        Self {
            converter,
            file,
            mapping,
            _slots: slots,
        }
    }

    fn vm(&self) -> &SimVm {
        self.converter.vm()
    }

    fn convert(&self, gpa: u64, pages: u64, to: u64) -> Result<u64, ConvertError> {
        let converted = self.converter.hypercall(gpa, pages, to)?;
        assert!(converted.not_discarded.is_empty());
        Ok(converted.bytes)
    }

    fn store(&self, gpa: u64, value: u64) {
        let stored = self
            .vm()
            .guest_store(gpa, &value.to_le_bytes(), &mut UnansweredExits);
        stored.unwrap();
    }

    fn load(&self, gpa: u64) -> u64 {
        let mut data = [0; 8];
        self.vm()
            .guest_load(gpa, &mut data, &mut UnansweredExits)
            .unwrap();
        u64::from_le_bytes(data)
    }

    /// What the host reads of a page of the file.
    fn host(&self, page: u64) -> Option<u64> {
        read(self.mapping.address() + page * PAGE)
    }

    fn private(&self) -> Vec<PageRange> {
        let all = PageRange::new(0, 2 * HIGH).unwrap();
        let private = self
            .converter
            .with_pages(|pages| pages.private(all).collect());
        private.unwrap()
    }
}

/// Reads host memory by a system call, so that SIGBUS is an error.
fn read(address: u64) -> Option<u64> {
    let mut data = [0_u8; 8];
    let local = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(usize::try_from(address).unwrap()),
        iov_len: data.len(),
    };
    // SAFETY: the kernel writes to `data` and checks the other address.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    (read == 8).then(|| u64::from_le_bytes(data))
}

fn pages(gpa: u64, count: u64) -> PageRange {
    PageRange::new(gpa, count * PAGE).unwrap()
}

#[test]
fn the_host_reaches_a_page_in_its_mapping_only_while_it_is_shared() {
    let vm = InPlace::new(None);
    for page in 0..PAGES / 2 {
        vm.store(page * PAGE, 100 + page);
    }
    assert_eq!(vm.host(3), Some(103));
    assert_eq!(vm.convert(3 * PAGE, 2, PRIVATE).unwrap(), 2 * PAGE);
    let seen: Vec<Option<u64>> = (2..6).map(|page| vm.host(page)).collect();
    assert_eq!(seen, [Some(102), None, None, Some(105)]);
    // Nothing is promised about the bytes before; from then on they are the guest's.
    vm.store(3 * PAGE, 7);
    assert_eq!(vm.load(3 * PAGE), 7);
    assert_eq!(vm.convert(3 * PAGE, 1, SHARED).unwrap(), PAGE);
    vm.store(3 * PAGE, 8);
    assert_eq!(vm.host(3), Some(8));
    assert_eq!(vm.host(4), None);
    // A mapping that is made later shows the same pages.
    let later = vm
        .vm()
        .map_file(vm.file.as_fd(), 2 * PAGE, 4 * PAGE, Sharing::Shared)
        .unwrap();
    let seen: Vec<Option<u64>> = (0..4)
        .map(|page| read(later.address() + page * PAGE))
        .collect();
    assert_eq!(seen, [Some(102), Some(8), None, Some(105)]);
}

#[test]
fn a_page_is_converted_before_it_is_touched_and_alone_among_others() {
    let vm = InPlace::new(None);
    assert_eq!(vm.convert(5 * PAGE, 1, PRIVATE).unwrap(), PAGE);
    let seen: Vec<bool> = (0..PAGES).map(|page| vm.host(page).is_some()).collect();
    assert_eq!(seen.iter().filter(|reached| !**reached).count(), 1);
    assert!(!seen[5]);
    assert_eq!(vm.private(), [pages(5 * PAGE, 1)]);
    // In the requested state already.
    assert_eq!(vm.convert(5 * PAGE, 1, PRIVATE).unwrap(), 0);
}

#[test]
fn the_second_slot_of_a_file_has_its_own_addresses_and_the_files_pages() {
    let vm = InPlace::new(None);
    assert_eq!(vm.convert(HIGH + PAGE, 2, PRIVATE).unwrap(), 2 * PAGE);
    assert_eq!(vm.private(), [pages(HIGH + PAGE, 2)]);
    let first = PAGES / 2 + 1;
    assert_eq!((vm.host(first), vm.host(first + 1)), (None, None));
    assert_eq!(vm.host(1), Some(0));
}

#[test]
fn a_page_that_someone_holds_stays_shared_and_is_named() {
    let vm = InPlace::new(None);
    let pin = vm.vm().pin(vm.file.as_fd(), 2 * PAGE, PAGE).unwrap();
    let error = vm.convert(0, 4, PRIVATE).unwrap_err();
    assert_eq!(error.hypercall_return(), -22);
    let ConvertError::Failed(failure) = error else {
        panic!("{error}");
    };
    assert!(failure.not_undone.is_empty());
    assert_eq!(
        failure.to_string(),
        "conversion of 0x0..0x4000: state of 0x0..0x4000: the page at 0x2000 is pinned"
    );
    let FailedStep::State { range, why } = failure.cause else {
        panic!("{failure}");
    };
    assert_eq!(range, pages(0, 4));
    assert_eq!(why, NotChanged::Pinned(pages(2 * PAGE, 1)));
    assert_eq!(vm.private(), []);
    assert!((0..4).all(|page| vm.host(page).is_some()));
    // Its neighbours are not concerned, and later it is free.
    assert_eq!(vm.convert(3 * PAGE, 1, PRIVATE).unwrap(), PAGE);
    drop(pin);
    assert_eq!(vm.convert(0, 4, PRIVATE).unwrap(), 3 * PAGE);
    // No one can hold what is private.
    let pinned = vm.vm().pin(vm.file.as_fd(), 0, PAGE);
    assert_eq!(pinned.err(), Some(Errno::EFAULT));
}

#[test]
fn whoever_holds_a_page_that_is_punched_keeps_the_old_one() {
    let vm = InPlace::new(None);
    let _pin = vm.vm().pin(vm.file.as_fd(), PAGE, 3 * PAGE).unwrap();
    let punch = FileCall::Allocate {
        mode: libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
        offset: (2 * PAGE).cast_signed(),
        len: PAGE.cast_signed(),
    };
    vm.vm().file_call(vm.file.as_fd(), punch).unwrap();
    assert_eq!(vm.convert(2 * PAGE, 1, PRIVATE).unwrap(), PAGE);
    // The pages beside the hole are held as before.
    assert!(vm.convert(PAGE, 1, PRIVATE).is_err());
    assert!(vm.convert(3 * PAGE, 1, PRIVATE).is_err());
    assert_eq!(vm.private(), [pages(2 * PAGE, 1)]);
}

/// Holds pages and releases one reference each time it is asked.
#[derive(Debug, Default)]
struct Holder {
    pins: Mutex<Vec<PagePin>>,
    asked: AtomicUsize,
}

impl ConversionListener for Holder {
    fn name(&self) -> &str {
        "holder"
    }

    fn prepare(&self, _: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(())
    }

    fn unpin(&self, page: PageRange) -> bool {
        assert_eq!(page.pages(), 1);
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.pins.lock().unwrap().pop().is_some()
    }
}

#[test]
fn whoever_holds_a_page_is_asked_to_release_it() {
    let holder = Arc::new(Holder::default());
    let vm = InPlace::new(Some(holder.clone()));
    for page in [1, 3] {
        let pin = vm.vm().pin(vm.file.as_fd(), page * PAGE, PAGE).unwrap();
        holder.pins.lock().unwrap().push(pin);
    }
    assert_eq!(vm.convert(0, 8, PRIVATE).unwrap(), 8 * PAGE);
    assert_eq!(holder.asked.load(Ordering::Relaxed), 2);
}

#[test]
fn a_page_that_no_one_releases_is_asked_for_a_bounded_number_of_times() {
    let holder = Arc::new(Holder::default());
    let vm = InPlace::new(Some(holder.clone()));
    let _pin = vm.vm().pin(vm.file.as_fd(), 0, PAGE).unwrap();
    assert!(vm.convert(0, 8, PRIVATE).is_err());
    let asked = holder.asked.load(Ordering::Relaxed);
    assert!((2..100).contains(&asked), "{asked}");
}

#[test]
fn a_hole_between_slots_is_no_obstacle_to_sharing() {
    let vm = InPlace::new(None);
    assert_eq!(vm.convert(0, 8, PRIVATE).unwrap(), 8 * PAGE);
    assert_eq!(vm.convert(HIGH, 8, PRIVATE).unwrap(), 8 * PAGE);
    let all = (HIGH / PAGE) + 8;
    assert_eq!(vm.convert(0, all, SHARED).unwrap(), 16 * PAGE);
    assert!((0..PAGES).all(|page| vm.host(page).is_some()));
}

#[test]
fn the_state_stays_with_the_file_when_its_slot_moves() {
    let vm = SimVm::new(config());
    let file = vm.create_guest_memfd(4 * PAGE, GuestMemfdFlags::all());
    let file = Arc::new(file.unwrap());
    let set = vm.set_file_attributes(file.as_fd(), PAGE, PAGE, MEMORY_ATTRIBUTE_PRIVATE);
    assert_eq!(set, Ok(()));
    let mapping = vm.map_file(file.as_fd(), 0, 4 * PAGE, Sharing::Shared);
    let mapping = Arc::new(mapping.unwrap());
    // SAFETY: the VM is new, and only `slots` makes its memslots.
    let mut slots = unsafe { Slots::new(vm.clone(), ABI) };
    for (gpa, value) in [(0x1_0000, 11_u64), (0x4_0000, 12)] {
        let backing = SlotBacking::GuestMemfd {
            file: FileSlice::new(file.clone(), 0, 4 * PAGE).unwrap(),
            host: Some(owned_host(mapping.address(), mapping.clone())),
        };
        let plan = slots.plan(&[range(gpa, 4 * PAGE, backing)]).unwrap();
        slots.apply(&plan).unwrap();
        for page in 0..4 {
            let bytes = value.to_le_bytes();
            let stored = vm.guest_store(gpa + page * PAGE, &bytes, &mut UnansweredExits);
            assert_eq!(stored, Ok(()));
        }
        let seen: Vec<Option<u64>> = (0..4)
            .map(|page| read(mapping.address() + page * PAGE))
            .collect();
        let shared = Some(value);
        assert_eq!(seen, [shared, None, shared, shared]);
    }
}
