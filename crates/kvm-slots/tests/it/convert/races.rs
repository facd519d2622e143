// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPU threads that convert the same pages at the same time.

use crate::common;

use std::collections::BTreeSet;
use std::sync::Barrier;

use common::PAGE;
use common::layout::{At, COUNT, Layout, at, pages_of, start};
use kvm_slots::Errno;
use kvm_slots::convert::{GuestPages, PageRange};

const THREADS: u64 = 4;
const REQUESTS: u64 = 1500;

/// Numbers in no order, always the same (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Converts at random; returns how many bytes changed hands by it.
fn vcpu(layout: &Layout, seed: u64) -> u64 {
    let mut random = Random(seed * 0x9e37_79b9 + 1);
    let mut changed = 0;
    for _ in 0..REQUESTS {
        let first = random.below(COUNT);
        let count = 1 + random.below(6);
        let private = random.below(2);
        let result = match random.below(8) {
            0 => {
                let range = PageRange::new(first * PAGE, count * PAGE).unwrap();
                let revoked = layout.converter.revoke(range).unwrap();
                changed += revoked.bytes;
                continue;
            }
            1..=4 => layout
                .converter
                .hypercall(first * PAGE, count, private << 4),
            _ => layout
                .converter
                .memory_fault(private << 3, first * PAGE, PAGE),
        };
        changed += result.map_or(0, |converted| converted.bytes);
    }
    changed
}

/// State, attributes and listeners at the end.
fn check(layout: &Layout) -> BTreeSet<u64> {
    let all = PageRange::new(0, 2 * COUNT * PAGE).unwrap();
    let private = layout.converter.with_pages(|pages| {
        let accepted: BTreeSet<u64> = pages.accepted(all).flat_map(pages_of).collect();
        let private: BTreeSet<u64> = pages.private(all).flat_map(pages_of).collect();
        let registers = private.iter().filter(|&&page| at(page) == At::Mmio);
        assert!(registers.eq(&accepted), "private and accepted registers");
        private
    });
    let private = private.unwrap();
    assert_eq!(layout.vm().private(), private);
    for mapper in &layout.mappers {
        let mapped = mapper.mapped();
        let reachable = |page: &u64| matches!(at(*page), At::Apart | At::InPlace);
        let shared = (0..COUNT).filter(|page| reachable(page) && !private.contains(page));
        assert!(shared.eq(mapped.iter().copied()));
    }
    private
}

/// Lets all vCPUs run at once.
fn race(layout: &Layout) -> u64 {
    let ready = Barrier::new(usize::try_from(THREADS).unwrap());
    std::thread::scope(|scope| {
        let vcpus: Vec<_> = (0..THREADS)
            .map(|number| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    vcpu(layout, number)
                })
            })
            .collect();
        let changed = vcpus.into_iter().map(|vcpu| vcpu.join().unwrap());
        changed.sum()
    })
}

#[test]
fn racing_conversions_leave_state_attributes_and_listeners_as_one() {
    let layout = Layout::new();
    let changed = race(&layout);
    let private = check(&layout);
    // Every page changed in both directions, so the two counts differ by the pages
    // that are private now: exactly one thread counted each change.
    let pages = changed / PAGE;
    assert_eq!(pages % 2, private.len() as u64 % 2);
    let log = layout.log();
    let by_attributes = log
        .iter()
        .filter(|line| line.starts_with("private ") || line.starts_with("shared "));
    assert!(by_attributes.count() > 1000, "the threads did convert");
}

#[test]
fn racing_conversions_stay_as_one_while_steps_fail() {
    let layout = Layout::new();
    // Far apart, so that rollbacks do not fail too.
    start(&layout.steps, (0..4000).map(|n| (n * 13, Errno::ENOMEM)));
    race(&layout);
    // If a rollback failed anyway, only listeners may differ. Compare state and
    // attributes.
    let all = PageRange::new(0, 2 * COUNT * PAGE).unwrap();
    let private = layout.converter.with_pages(|pages| {
        pages
            .private(all)
            .flat_map(pages_of)
            .collect::<BTreeSet<_>>()
    });
    assert_eq!(layout.vm().private(), private.unwrap());
    assert!(layout.log().iter().any(|line| line.ends_with("ENOMEM")));
}

#[test]
fn all_vcpus_fault_on_one_page_and_one_of_them_converts_it() {
    let layout = Layout::new();
    for private in [1, 0].into_iter().cycle().take(200) {
        let ready = Barrier::new(4);
        let changed: u64 = std::thread::scope(|scope| {
            let fault = || {
                ready.wait();
                let converted = layout.converter.memory_fault(private << 3, 3 * PAGE, PAGE);
                converted.unwrap().bytes
            };
            let vcpus: Vec<_> = (0..4).map(|_| scope.spawn(fault)).collect();
            vcpus.into_iter().map(|vcpu| vcpu.join().unwrap()).sum()
        });
        assert_eq!(changed, PAGE);
    }
    assert_eq!(check(&layout), BTreeSet::new());
}
