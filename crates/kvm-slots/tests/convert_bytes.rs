// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What guest and host find in pages that change hands, beside an oracle that
//! has each page's two values.

mod common;

use common::PAGE;
use common::layout::{At, COUNT, Layout, at, pages_of};
use common::oracle::Oracle;
use kvm_slots::sim::{GuestFault, MmioHandler};
use kvm_slots::{ConvertError, GuestPages, PageRange, PageState, Request};
use proptest::prelude::*;

/// What nobody answers.
struct Nobody;

impl MmioHandler for Nobody {
    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}

/// How a guest asks.
#[derive(Clone, Copy, Debug)]
enum By {
    Hypercall,
    MemoryFault,
    Request,
}

#[derive(Clone, Debug)]
enum Op {
    Convert {
        by: By,
        first: u64,
        count: u64,
        private: bool,
    },
    GuestStore {
        page: u64,
        value: u64,
    },
    HostStore {
        page: u64,
        value: u64,
    },
    Revoke {
        first: u64,
        count: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let by = prop_oneof![
        Just(By::Hypercall),
        Just(By::MemoryFault),
        Just(By::Request)
    ];
    let span = (0..COUNT).prop_flat_map(|first| (Just(first), 1..=(COUNT - first).min(9)));
    let convert =
        (by, span.clone(), any::<bool>()).prop_map(|(by, (first, count), private)| Op::Convert {
            by,
            first,
            count,
            private,
        });
    let op = prop_oneof![
        4 => convert,
        3 => (0..COUNT, 1_u64..).prop_map(|(page, value)| Op::GuestStore { page, value }),
        2 => (0..COUNT, 1_u64..).prop_map(|(page, value)| Op::HostStore { page, value }),
        1 => span.prop_map(|(first, count)| Op::Revoke { first, count }),
    ];
    prop::collection::vec(op, 1..40)
}

fn convert(
    layout: &Layout,
    by: By,
    first: u64,
    count: u64,
    private: bool,
) -> Result<u64, ConvertError> {
    let (gpa, flag) = (first * PAGE, u64::from(private));
    let to = if private {
        PageState::Private
    } else {
        PageState::Shared
    };
    let converted = match by {
        By::Hypercall => layout.converter.hypercall(gpa, count, flag << 4),
        By::MemoryFault => layout.converter.memory_fault(flag << 3, gpa, count * PAGE),
        By::Request => layout
            .converter
            .convert(Request::new(gpa, count * PAGE, to).unwrap()),
    }?;
    assert!(converted.not_discarded.is_empty());
    Ok(converted.bytes / PAGE)
}

fn guest_load(layout: &Layout, page: u64) -> Result<u64, GuestFault> {
    let mut data = [0; 8];
    layout
        .vm()
        .vm
        .guest_load(page * PAGE + 8, &mut data, &mut Nobody)?;
    Ok(u64::from_le_bytes(data))
}

fn host_offset(page: u64) -> usize {
    usize::try_from(page * PAGE + 8).unwrap()
}

fn apply(layout: &Layout, oracle: &mut Oracle, op: &Op) {
    match *op {
        Op::Convert {
            by,
            first,
            count,
            private,
        } => {
            let to = if private {
                PageState::Private
            } else {
                PageState::Shared
            };
            let expected = oracle.convert(first, count, to);
            assert_eq!(convert(layout, by, first, count, private).ok(), expected);
        }
        Op::GuestStore { page, value } => {
            if let Some(at) = oracle.guest(page) {
                *at = value;
                let data = value.to_le_bytes();
                let vm = &layout.vm().vm;
                vm.guest_store(page * PAGE + 8, &data, &mut Nobody).unwrap();
            }
        }
        Op::HostStore { page, value } => {
            if let Some(at) = oracle.host(page) {
                *at = value;
                layout.host.write(host_offset(page), &value.to_le_bytes());
            }
        }
        Op::Revoke { first, count } => {
            let range = PageRange::new(first * PAGE, count * PAGE).unwrap();
            let accepted = oracle.accepted();
            let lost: Vec<u64> = accepted
                .into_iter()
                .filter(|p| range.contains(p * PAGE))
                .collect();
            for &page in &lost {
                oracle.convert(page, 1, PageState::Shared);
            }
            let revoked = layout.converter.revoke(range).unwrap();
            assert_eq!(revoked.bytes, lost.len() as u64 * PAGE);
            assert!(revoked.not_shared.is_empty());
        }
    }
}

fn check(layout: &Layout, oracle: &mut Oracle) {
    let all = PageRange::new(0, COUNT * PAGE).unwrap();
    let (private, accepted) = layout
        .converter
        .with_pages(|pages| {
            let private: Vec<u64> = pages.private(all).flat_map(pages_of).collect();
            let accepted: Vec<u64> = pages.accepted(all).flat_map(pages_of).collect();
            (private, accepted)
        })
        .unwrap();
    assert!(oracle.private().into_iter().eq(private));
    assert!(oracle.accepted().into_iter().eq(accepted));
    assert_eq!(layout.vm().private(), oracle.private());
    for mapper in &layout.mappers {
        assert_eq!(mapper.mapped(), oracle.mapped());
    }
    for page in 0..COUNT {
        let seen = guest_load(layout, page);
        match (oracle.guest(page), at(page)) {
            (Some(value), _) => assert_eq!(seen, Ok(*value), "page {page}"),
            (None, At::Hole) => assert_eq!(seen, Ok(u64::MAX), "page {page}"),
            // No host address: the simulated kernel's guest finds nothing there.
            (None, _) => assert!(seen.is_err(), "page {page}"),
        }
        if let Some(value) = oracle.host(page) {
            let bytes = layout.host.read(host_offset(page));
            assert_eq!(u64::from_le_bytes(bytes), *value, "page {page}");
        }
    }
}

proptest! {
    // Each looks at all pages after each step.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_page_is_what_the_oracle_says_after_each_step(ops in ops()) {
        let (layout, mut oracle) = (Layout::new(), Oracle::new());
        for op in &ops {
            apply(&layout, &mut oracle, op);
            check(&layout, &mut oracle);
        }
    }
}

#[test]
fn no_pattern_leaks_from_one_side_to_the_other_and_back() {
    let layout = Layout::new();
    let vm = &layout.vm().vm;
    let store = |value: u64| {
        vm.guest_store(8, &value.to_le_bytes(), &mut Nobody)
            .unwrap()
    };
    let host = || u64::from_le_bytes(layout.host.read(8));
    store(0x5eed);
    assert_eq!(host(), 0x5eed);
    for _ in 0..3 {
        assert_eq!(convert(&layout, By::Hypercall, 0, 1, true).unwrap(), 1);
        assert_eq!((guest_load(&layout, 0), host()), (Ok(0), 0));
        store(0x5ec7e7);
        assert_eq!(host(), 0);
        assert_eq!(convert(&layout, By::MemoryFault, 0, 1, false).unwrap(), 1);
        assert_eq!((guest_load(&layout, 0), host()), (Ok(0), 0));
        store(0x5eed);
    }
}

#[test]
fn a_page_in_place_keeps_its_bytes() {
    let layout = Layout::new();
    let vm = &layout.vm().vm;
    vm.guest_store(28 * PAGE + 8, &[7; 8], &mut Nobody).unwrap();
    for private in [true, false] {
        assert_eq!(convert(&layout, By::Hypercall, 28, 4, private).unwrap(), 4);
        assert_eq!(guest_load(&layout, 28), Ok(0x0707_0707_0707_0707));
    }
}

#[test]
fn the_fault_of_a_simulated_guest_is_answered_and_then_it_goes_on() {
    let layout = Layout::new();
    // The page is private for KVM, and only a guest_memfd is there: a shared
    // access cannot be had, a private one can.
    let _ = layout.converter.hypercall(24 * PAGE, 1, 1 << 4).unwrap();
    assert_eq!(guest_load(&layout, 24), Ok(0));
    assert!(layout.converter.memory_fault(0, 24 * PAGE, PAGE).is_err());
    // One that another vCPU has converted already is just tried again.
    let again = layout.converter.memory_fault(8, 24 * PAGE, PAGE).unwrap();
    assert_eq!(again.bytes, 0);
}
