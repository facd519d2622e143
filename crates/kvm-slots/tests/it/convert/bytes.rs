// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes that guest and host find in converted pages, compared with an oracle that
//! has both values of each page.

use crate::common;

use common::PAGE;
use common::compare::{UnansweredExits, check, guest_load, host_offset};
use common::layout::{COUNT, HOMES, Layout};
use common::oracle::Oracle;
use kvm_slots::convert::{ConvertError, PageRange, PageState, Request};
use proptest::prelude::*;

/// The kinds of requests.
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
                vm.guest_store(page * PAGE + 8, &data, &mut UnansweredExits)
                    .unwrap();
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

proptest! {
    // Each looks at all pages after each step.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_page_agrees_with_the_oracle_after_each_step(
        home in prop::sample::select(&HOMES),
        ops in ops(),
    ) {
        let (layout, mut oracle) = (Layout::of(home), Oracle::of(home));
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
        vm.guest_store(8, &value.to_le_bytes(), &mut UnansweredExits)
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
fn bytes_that_the_host_stores_in_a_private_page_stay() {
    let layout = Layout::new();
    assert_eq!(convert(&layout, By::Hypercall, 1, 2, true).unwrap(), 2);
    layout.host.write(host_offset(1), &[7; 8]);
    assert_eq!(convert(&layout, By::Hypercall, 0, 4, true).unwrap(), 2);
    assert_eq!(layout.host.read(host_offset(1)), [7; 8]);
}

#[test]
fn a_page_in_place_keeps_its_bytes() {
    let layout = Layout::new();
    let vm = &layout.vm().vm;
    vm.guest_store(28 * PAGE + 8, &[7; 8], &mut UnansweredExits)
        .unwrap();
    for private in [true, false] {
        assert_eq!(convert(&layout, By::Hypercall, 28, 4, private).unwrap(), 4);
        assert_eq!(guest_load(&layout, 28), Ok(0x0707_0707_0707_0707));
    }
}

#[test]
fn the_fault_of_a_simulated_guest_is_resolved_and_the_guest_continues() {
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
