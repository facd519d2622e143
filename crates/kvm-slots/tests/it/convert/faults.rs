// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The result of a conversion if a step fails, for every step.

use crate::common;

use std::collections::{BTreeMap, BTreeSet};

use common::PAGE;
use common::layout::{COUNT, HOMES, Layout, lock, pages_of, start};
use common::oracle::Oracle;
use kvm_slots::Errno;
use kvm_slots::convert::{
    ConversionFailure, ConvertError, FailedStep, GuestPages, Home, PageRange, PageState, Request,
};
use proptest::prelude::*;

const ERRNOS: [Errno; 6] = [
    Errno::EINVAL,
    Errno::ENOMEM,
    Errno::EFAULT,
    Errno::EAGAIN,
    Errno::EINTR,
    Errno::EPERM,
];

fn request(first: u64, count: u64, to: PageState) -> Request {
    Request::new(first * PAGE, count * PAGE, to).unwrap()
}

fn state(private: bool) -> PageState {
    match private {
        true => PageState::Private,
        false => PageState::Shared,
    }
}

fn private(layout: &Layout) -> BTreeSet<u64> {
    let all = PageRange::new(0, COUNT * PAGE).unwrap();
    let pages = layout.converter.with_pages(|pages| {
        let private = pages.private(all);
        private.flat_map(pages_of).collect()
    });
    pages.unwrap()
}

/// Whether state, attributes and listeners are those of the oracle.
fn check(layout: &Layout, oracle: &Oracle) {
    assert_eq!(private(layout), oracle.private());
    assert_eq!(layout.vm().private(), oracle.called());
    for mapper in &layout.mappers {
        assert_eq!(mapper.mapped(), oracle.mapped());
    }
}

fn failure(error: ConvertError) -> ConversionFailure {
    match error {
        ConvertError::Failed(failure) => *failure,
        other => panic!("{other}"),
    }
}

/// Pages that were converted before, and a request that can be met.
fn cases() -> impl Strategy<Value = (Vec<(u64, bool)>, Request)> {
    let before = prop::collection::vec((0..COUNT, any::<bool>()), 0..24);
    // Convertible as a whole, or as a whole shareable.
    let to_private = prop_oneof![Just((0_u64, 12_u64)), Just((20, 4)), Just((20, 16))];
    let to_shared = prop_oneof![Just((0_u64, 24_u64)), Just((28, 12))];
    let part = |(first, count): (u64, u64)| {
        (0..count).prop_flat_map(move |skip| {
            (1..=count - skip).prop_map(move |count| (first + skip, count))
        })
    };
    let request = prop_oneof![
        to_private
            .prop_flat_map(part)
            .prop_map(|(f, c)| request(f, c, PageState::Private)),
        to_shared
            .prop_flat_map(part)
            .prop_map(|(f, c)| request(f, c, PageState::Shared)),
    ];
    (before, request)
}

fn begin(home: Home, before: &[(u64, bool)]) -> (Layout, Oracle) {
    let (layout, mut oracle) = (Layout::of(home), Oracle::of(home));
    for &(page, private) in before {
        let converted = layout.converter.convert(request(page, 1, state(private)));
        let expected = oracle.convert(page, 1, state(private));
        assert_eq!(converted.ok().map(|c| c.bytes / PAGE), expected);
    }
    start(&layout.steps, []);
    (layout, oracle)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_failed_step_leaves_everything_as_it_was(
        home in prop::sample::select(&HOMES),
        (before, request) in cases(),
    ) {
        for errno in ERRNOS {
            // Each step fails in turn, until there is none left to fail.
            for step in 0.. {
                let (layout, mut oracle) = begin(home, &before);
                start(&layout.steps, [(step, errno)]);
                match layout.converter.convert(request) {
                    Err(error) => {
                        prop_assert!(failure(error).not_undone.is_empty());
                        check(&layout, &oracle);
                    }
                    Ok(converted) => {
                        let range = request.range();
                        let changed = oracle
                            .convert(range.start() / PAGE, range.pages(), request.to())
                            .unwrap();
                        prop_assert_eq!(converted.bytes, changed * PAGE);
                        // Discards are last, and their failures undo nothing.
                        let failed = layout.log().iter().any(|line| line.ends_with(&errno.to_string()));
                        prop_assert_eq!(!converted.not_discarded.is_empty(), failed);
                        check(&layout, &oracle);
                        if !failed {
                            break;
                        }
                        continue;
                    }
                }
                // And it still works.
                start(&layout.steps, []);
                prop_assert!(layout.converter.convert(request).is_ok());
                let range = request.range();
                oracle.convert(range.start() / PAGE, range.pages(), request.to());
                check(&layout, &oracle);
            }
        }
    }

    #[test]
    fn steps_that_cannot_be_undone_are_named_and_the_state_stays_true(
        home in prop::sample::select(&HOMES),
        (before, request) in cases(),
        fail in prop::collection::vec(any::<bool>(), 40),
    ) {
        let (layout, oracle) = begin(home, &before);
        let numbers = fail.iter().enumerate().filter(|(_, fail)| **fail);
        let fail: BTreeMap<usize, Errno> = numbers.map(|(n, _)| (n, Errno::EIO)).collect();
        start(&layout.steps, fail);
        let result = layout.converter.convert(request);
        let (was, is) = (oracle.private(), private(&layout));
        let mut after = Oracle::of(home);
        for &page in &is {
            after.convert(page, 1, PageState::Private);
        }
        // The state always agrees with KVM.
        prop_assert_eq!(layout.vm().private(), after.called());
        let changed = was.symmetric_difference(&is).count() as u64;
        match result {
            Ok(converted) => prop_assert_eq!(converted.bytes, changed * PAGE),
            Err(error) => {
                let not_undone = failure(error).not_undone;
                prop_assert_eq!(not_undone.pages.bytes, changed * PAGE);
                // Listeners that are not named have followed.
                for (mapper, name) in layout.mappers.iter().zip(["one", "two"]) {
                    if !not_undone.listeners.iter().any(|(known, _)| known == name) {
                        prop_assert_eq!(mapper.mapped(), after.mapped());
                    }
                }
            }
        }
    }
}

#[test]
fn a_listener_that_refuses_is_named_with_its_reason() {
    let (layout, oracle) = begin(Home::VmAttributes, &[]);
    start(&layout.steps, [(1, Errno::ENOMEM)]);
    let error = layout.converter.hypercall(0, 2, 1 << 4).unwrap_err();
    assert_eq!(error.hypercall_return(), -22);
    let failure = failure(error);
    assert_eq!(
        failure.to_string(),
        "conversion of 0x0..0x2000: listener 'two': ENOMEM"
    );
    let FailedStep::Listener { source, .. } = &failure.cause else {
        panic!("{failure:?}");
    };
    assert_eq!(source.downcast_ref(), Some(&Errno::ENOMEM));
    check(&layout, &oracle);
}

#[test]
fn the_errors_text_lists_what_was_not_undone() {
    let (layout, mut oracle) = begin(Home::VmAttributes, &[(0, true), (2, true)]);
    // Both pages become shared. `one` maps them and `two` refuses. `one` unmaps them.
    // The first page becomes private again and the other does not. `one` maps it
    // again, and `two` still refuses.
    start(
        &layout.steps,
        [(2, Errno::ENOMEM), (5, Errno::EIO), (7, Errno::EBUSY)],
    );
    let error = layout.converter.hypercall(0, 3, 0).unwrap_err();
    assert_eq!(
        layout.log(),
        [
            "shared 0-2",
            "one prepare 0,2",
            "two prepare 0,2: ENOMEM",
            "one abort 0,2",
            "private 0-0",
            "private 2-2: EIO",
            "one prepare 2",
            "two prepare 2: EBUSY",
        ]
    );
    assert_eq!(
        error.to_string(),
        "conversion of 0x0..0x3000: listener 'two': ENOMEM; not undone: state of 0x1000 \
         bytes, first 0x2000..0x3000: EIO; listener 'two': EBUSY"
    );
    oracle.convert(2, 1, PageState::Shared);
    assert_eq!(private(&layout), oracle.private());
    assert_eq!(layout.mappers[0].mapped(), oracle.mapped());
}

#[test]
fn a_discard_that_fails_is_reported_and_the_conversion_holds() {
    let (layout, mut oracle) = begin(Home::VmAttributes, &[]);
    // Two slots: the first one's bytes stay.
    start(&layout.steps, [(3, Errno::EPERM)]);
    let converted = layout.converter.hypercall(6 * PAGE, 4, 1 << 4).unwrap();
    assert_eq!(converted.bytes, 4 * PAGE);
    assert_eq!(
        converted.not_discarded.to_string(),
        "0x2000 bytes, first 0x6000..0x8000: EPERM"
    );
    oracle.convert(6, 4, PageState::Private);
    check(&layout, &oracle);
}

#[test]
fn a_revocation_holds_even_if_kvm_keeps_the_pages_private() {
    let (layout, _) = begin(Home::VmAttributes, &[(20, true), (22, true)]);
    start(&layout.steps, [(0, Errno::EIO)]);
    let bar = PageRange::new(20 * PAGE, 4 * PAGE).unwrap();
    let revoked = layout.converter.revoke(bar).unwrap();
    assert_eq!(revoked.bytes, 2 * PAGE);
    assert_eq!(
        revoked.not_shared.to_string(),
        "0x1000 bytes, first 0x14000..0x15000: EIO"
    );
    let accepted = layout
        .converter
        .with_pages(|pages| pages.accepted(bar).count());
    assert_eq!(accepted.unwrap(), 0);
    assert_eq!(private(&layout), BTreeSet::from([20]));
    assert_eq!(layout.vm().private(), BTreeSet::from([20]));
    // The guest accepts it again, which KVM need not be asked for.
    let accept = Request::accept(20 * PAGE, PAGE).unwrap();
    assert_eq!(layout.converter.convert(accept).unwrap().bytes, 0);
    let accepted = layout.converter.with_pages(|pages| {
        let accepted: Vec<PageRange> = pages.accepted(bar).collect();
        accepted
    });
    assert_eq!(
        accepted.unwrap(),
        [PageRange::new(20 * PAGE, PAGE).unwrap()]
    );
}

#[test]
fn after_a_panic_in_a_listener_nothing_is_converted_any_more() {
    let (layout, _) = begin(Home::VmAttributes, &[]);
    // The mapper finds a page unmapped that it should have.
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        layout.converter.with_pages(|_| panic!("in the middle"))
    }));
    assert!(again.is_err());
    let error = layout.converter.hypercall(0, 1, 1 << 4).unwrap_err();
    assert!(matches!(error, ConvertError::CutShort));
    assert!(lock(&layout.steps).log.is_empty());
}
