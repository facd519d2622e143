// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conversions on hosts with pages of 4, 16 and 64 KiB, beside a check of every page.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kvm_slots::convert::{
    ConvertError, Converted, Converter, ConvertibleMemory, ConvertibleRange, Discard,
    GuestMemfdSides, Home, PageRange, PreFault, Refusal, Request, RequestError,
};
use kvm_slots::kvm_bindings::{
    KVM_CAP_MEMORY_ATTRIBUTES, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_slots::uapi::{MEMORY_ATTRIBUTE_PRIVATE, PreFaultError};
use kvm_slots::{Errno, GuestMemfdFlags, PageSize, SlotBacking, Vm};
use proptest::prelude::*;

use crate::common::{self, HOST, PAGE};

/// A kernel with pages of some size: it refuses everything else, as KVM and
/// guest_memfd do, and records the rest by unit of 4 KiB.
#[derive(Clone)]
struct Kernel {
    page: PageSize,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    private: BTreeSet<u64>,
    discarded: BTreeSet<u64>,
}

fn units(start: u64, size: u64) -> impl Iterator<Item = u64> {
    start / PAGE..(start + size) / PAGE
}

impl Vm for Kernel {
    fn check_extension(&self, capability: u32) -> i32 {
        let private = i32::try_from(MEMORY_ATTRIBUTE_PRIVATE).unwrap();
        match capability {
            KVM_CAP_MEMORY_ATTRIBUTES => private,
            _ => 0,
        }
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
        self.page
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        if !self.page.is_aligned(gpa) || !self.page.is_aligned(size) {
            return Err(Errno::EINVAL);
        }
        let private = &mut self.seen.lock().unwrap().private;
        for unit in units(gpa, size) {
            match attributes {
                0 => private.remove(&unit),
                _ => private.insert(unit),
            };
        }
        Ok(())
    }

    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        let (start, size) = match what {
            Discard::File { offset, size, .. } => (offset, size),
            // Host memory is at the guest's addresses, from `HOST` on.
            Discard::Host { address, size } => (address - HOST, size),
            _ => return Err(Errno::EINVAL),
        };
        if !self.page.is_aligned(start) || !self.page.is_aligned(size) {
            return Err(Errno::EINVAL);
        }
        self.seen
            .lock()
            .unwrap()
            .discarded
            .extend(units(start, size));
        Ok(())
    }
}

/// Ranges next to each other, by their ends in units: each has its own host memory and
/// guest_memfd, at the same offsets as the guest's addresses, or nothing.
fn memory(ends: &[(u64, bool)]) -> ConvertibleMemory {
    let mut memory = ConvertibleMemory::new();
    let mut start = 0;
    let mut ranges = Vec::new();
    for &(end, is_memory) in ends {
        let (gpa, size) = (start * PAGE, (end - start) * PAGE);
        start = end;
        if is_memory {
            let backing = SlotBacking::GuestMemfd {
                file: common::file(-1, gpa),
                host: Some(common::host(HOST + gpa)),
            };
            let range = common::range(gpa, size, backing);
            ranges.extend(ConvertibleRange::new(&range, GuestMemfdSides::Private));
        }
    }
    memory.set_ranges(ranges).unwrap();
    memory
}

/// Up to 200 units in ranges of at least one.
fn ends() -> impl Strategy<Value = Vec<(u64, bool)>> {
    let range = (1..40_u64, prop::bool::weighted(0.8));
    prop::collection::vec(range, 1..8).prop_map(|ranges| {
        let mut at = 0;
        let end = |(size, is_memory)| {
            at += size;
            (at, is_memory)
        };
        ranges.into_iter().map(end).collect()
    })
}

/// The answer to a request, in a form that can be compared.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Done(u64),
    Invalid(RequestError),
    Refused(Refusal),
    Other(String),
}

fn answer(converted: Result<Converted, ConvertError>) -> Answer {
    match converted {
        Ok(Converted {
            bytes,
            not_discarded,
            ..
        }) if not_discarded.is_empty() => Answer::Done(bytes),
        Err(ConvertError::Request(error)) => Answer::Invalid(error),
        Err(ConvertError::Refused(refusal)) => Answer::Refused(refusal),
        other => Answer::Other(format!("{other:?}")),
    }
}

/// Whether the host page of a unit is in one range of memory.
fn can_be_private(unit: u64, ends: &[(u64, bool)], page: PageSize) -> bool {
    let units = page.bytes() / PAGE;
    let first = unit / units * units;
    let range_of = |unit: u64| ends.iter().position(|(end, _)| unit < *end);
    let range = range_of(first);
    let same = (first..first + units).all(|unit| range_of(unit) == range);
    same && range.is_some_and(|range| ends[range].1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn only_whole_host_pages_in_one_range_are_converted(
        page in prop::sample::select(PageSize::ALL.to_vec()),
        ends in ends(),
        (first, count) in (0..200_u64, 1..100_u64),
        (host_first, host_count) in (0..12_u64, 1..8_u64),
        of_host_pages in prop::bool::weighted(0.8),
    ) {
        let kernel = Kernel { page, seen: Arc::default() };
        let converter = Converter::new(kernel.clone(), Home::VmAttributes, memory(&ends));
        let (gpa, size) = match of_host_pages {
            true => (host_first * page.bytes(), host_count * page.bytes()),
            false => (first * PAGE, count * PAGE),
        };
        let all: BTreeSet<u64> = units(gpa, size).collect();
        let seen = answer(converter.hypercall(gpa, size / PAGE, 1 << 4));
        let bad = all.iter().find(|unit| !can_be_private(**unit, &ends, page));
        let expected = match (page.is_aligned(gpa) && page.is_aligned(size), bad) {
            (false, _) => Answer::Invalid(RequestError::Unaligned { gpa, size }),
            (true, Some(at)) => {
                let request = Request::hypercall(gpa, size / PAGE, 1 << 4).unwrap();
                let at = page.floor(at * PAGE);
                Answer::Refused(Refusal::NoPrivateSide { range: request.range(), at })
            }
            (true, None) => Answer::Done(size),
        };
        prop_assert_eq!(&seen, &expected);
        let is_done = matches!(seen, Answer::Done(_));
        let changed = if is_done { all.clone() } else { BTreeSet::new() };
        {
            let seen = &mut *kernel.seen.lock().unwrap();
            prop_assert_eq!(&seen.private, &changed);
            prop_assert_eq!(&std::mem::take(&mut seen.discarded), &changed);
        }
        if is_done {
            // And back: the private bytes of the same pages are discarded.
            let back = answer(converter.hypercall(gpa, size / PAGE, 0));
            prop_assert_eq!(back, Answer::Done(size));
            let seen = kernel.seen.lock().unwrap();
            prop_assert!(seen.private.is_empty());
            prop_assert_eq!(&seen.discarded, &all);
        }
    }
}

#[test]
fn a_host_page_that_two_files_share_cannot_become_private() {
    let page = PageSize::Size16K;
    let kernel = Kernel {
        page,
        seen: Arc::default(),
    };
    // 12 KiB and 20 KiB: the first page has parts of both.
    let converter = Converter::new(kernel, Home::VmAttributes, memory(&[(3, true), (8, true)]));
    let refused = answer(converter.hypercall(0, 8, 1 << 4));
    let range = Request::hypercall(0, 8, 1 << 4).unwrap().range();
    let reason = Refusal::NoPrivateSide { range, at: 0 };
    assert_eq!(refused, Answer::Refused(reason));
    let second = answer(converter.hypercall(0x4000, 4, 1 << 4));
    assert_eq!(second, Answer::Done(0x4000));
}

/// A vCPU that records what is mapped for it.
#[derive(Default)]
struct Vcpu(RefCell<Vec<PageRange>>);

impl PreFault for Vcpu {
    fn pre_fault(&self, pages: PageRange) -> Result<(), PreFaultError> {
        self.0.borrow_mut().push(pages);
        Ok(())
    }
}

/// KVM on arm64 reports the address to 4 KiB, and the size of a host page.
#[test]
fn a_memory_fault_inside_a_host_page_converts_that_page_alone() {
    for page in PageSize::ALL {
        let size = page.bytes();
        let inside = match page {
            PageSize::Size4K => 0,
            _ => 0x3000,
        };
        for number in 0..4 {
            let kernel = Kernel {
                page,
                seen: Arc::default(),
            };
            let ends = [(4 * size / PAGE, true)];
            let converter = Converter::new(kernel.clone(), Home::VmAttributes, memory(&ends));
            let start = number * size;
            let the_page: BTreeSet<u64> = units(start, size).collect();
            for (flags, private) in [(1 << 3, &the_page), (0, &BTreeSet::new())] {
                let done = answer(converter.memory_fault(flags, start + inside, size));
                assert_eq!(done, Answer::Done(size), "{page}, page {number}");
                let seen = &mut *kernel.seen.lock().unwrap();
                assert_eq!(&seen.private, private);
                assert_eq!(std::mem::take(&mut seen.discarded), the_page);
            }
            // The same page is mapped.
            let vcpu = Vcpu::default();
            let fault = Request::memory_fault(1 << 3, start + inside, size).unwrap();
            let converted = converter.convert_and_pre_fault(fault, &vcpu).unwrap();
            assert_eq!(converted.bytes, size);
            assert_eq!(vcpu.0.take(), [PageRange::new(start, size).unwrap()]);
        }
    }
}

#[test]
fn only_memory_faults_may_start_inside_a_host_page_and_none_may_end_there() {
    let kernel = Kernel {
        page: PageSize::Size16K,
        seen: Arc::default(),
    };
    let converter = Converter::new(kernel, Home::VmAttributes, memory(&[(16, true)]));
    let (gpa, size) = (0x3000, 0x4000);
    let unaligned = |gpa, size| Answer::Invalid(RequestError::Unaligned { gpa, size });
    let hypercall = converter.hypercall(gpa, size / PAGE, 1 << 4);
    assert_eq!(answer(hypercall), unaligned(gpa, size));
    let accepted = converter.convert(Request::accept(gpa, size).unwrap());
    assert_eq!(answer(accepted), unaligned(gpa, size));
    for (gpa, size) in [(0, 0x1000), (0x3000, 0x1000), (0x3000, 0x5000)] {
        let fault = converter.memory_fault(1 << 3, gpa, size);
        assert_eq!(answer(fault), unaligned(gpa, size));
    }
}
