// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A hostile guest's conversions: any numbers in hypercalls, memory faults and
//! acceptances, while some steps on the host fail.

use kvm_slots::Errno;
use kvm_slots::convert::{ConvertError, Converted, PageRange, PageState, Request};

use crate::input::Input;
use support::slots::PAGE;
use support::slots::compare::{UnansweredExits, check, host_offset};
use support::slots::layout::{At, COUNT, Layout, at, start};
use support::slots::oracle::Oracle;

/// All pages are checked after each step, so long scripts are slow.
const MAX_STEPS: usize = 32;

/// A script of a guest's actions.
pub fn conversions(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (layout, mut oracle) = (Layout::new(), Oracle::new());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        if !step(&mut input, &layout, &mut oracle) {
            // Stale bytes are left, which the oracle does not have.
            return false;
        }
        check(&layout, &mut oracle);
    }
    true
}

/// Makes one step in the layout and the oracle. Returns whether they can still
/// be compared.
fn step(input: &mut Input<'_>, layout: &Layout, oracle: &mut Oracle) -> bool {
    match input.below(8) {
        0..5 => return convert(input, layout, oracle),
        5 => {
            let (page, value) = (input.below(COUNT), 1 + input.below(255));
            if let Some(there) = oracle.guest(page) {
                *there = value;
                let (gpa, data) = (page * PAGE + 8, value.to_le_bytes());
                let stored = layout.vm().vm.guest_store(gpa, &data, &mut UnansweredExits);
                stored.expect("the page is there");
            }
        }
        6 => {
            let (page, value) = (input.below(COUNT), 1 + input.below(255));
            if let Some(there) = oracle.host(page) {
                *there = value;
                layout.host.write(host_offset(page), &value.to_le_bytes());
            }
        }
        _ => revoke(input, layout, oracle),
    }
    true
}

/// What the guest requests.
struct Asked {
    gpa: u64,
    size: Option<u64>,
    to: PageState,
    mmio_only: bool,
    /// Whether the reserved bits are clear.
    clean: bool,
}

fn convert(input: &mut Input<'_>, layout: &Layout, oracle: &mut Oracle) -> bool {
    let fail = input.one_in(4).then(|| {
        let errnos = [Errno::EIO, Errno::ENOMEM, Errno::EINVAL];
        (input.index(10), input.pick(&errnos))
    });
    start(&layout.steps, fail);
    let (asked, result) = ask(input, layout);
    start(&layout.steps, []);

    let requested = requested(&asked);
    let can = |&(first, count): &(u64, u64)| {
        let mmio = |page| !asked.mmio_only || at(page) == At::Mmio;
        let inside = count.min(COUNT - first.min(COUNT));
        let beyond = inside == count || (asked.to == PageState::Shared && !asked.mmio_only);
        beyond && oracle.can(first, inside, asked.to) && (first..first + inside).all(mmio)
    };
    match (result, requested.filter(can)) {
        (Ok(converted), Some((first, count))) => {
            let inside = count.min(COUNT - first.min(COUNT));
            let changed = oracle.convert(first, inside, asked.to);
            assert_eq!(changed, Some(converted.bytes / PAGE));
            assert!(fail.is_some() || converted.not_discarded.is_empty());
            converted.not_discarded.is_empty()
        }
        (Err(ConvertError::Failed(failure)), Some(_)) => {
            assert!(fail.is_some(), "{failure}");
            // Only one step failed, so undoing the others succeeded.
            assert!(failure.not_undone.is_empty(), "{failure}");
            true
        }
        (Err(error), None) => {
            assert!(error.hypercall_return() < 0 && !error.to_string().is_empty());
            assert!(!matches!(error, ConvertError::Failed(_)), "{error}");
            true
        }
        (Ok(converted), None) => panic!("{converted:?} of what cannot be"),
        (Err(error), Some(requested)) => panic!("{error} at {requested:?}"),
    }
}

/// The first page and the number of pages, if the request is well-formed.
fn requested(asked: &Asked) -> Option<(u64, u64)> {
    let size = asked.size.filter(|_| asked.clean)?;
    let whole = asked.gpa.is_multiple_of(PAGE) && size.is_multiple_of(PAGE) && size > 0;
    asked.gpa.checked_add(size).filter(|_| whole)?;
    Some((asked.gpa / PAGE, size / PAGE))
}

/// Makes a request in one of the ways in which a guest can.
fn ask(input: &mut Input<'_>, layout: &Layout) -> (Asked, Result<Converted, ConvertError>) {
    let (gpa, pages) = (address(input), count(input));
    let size = pages.checked_mul(PAGE);
    let private = input.flag();
    let asked = |to, size, clean| Asked {
        gpa,
        size,
        to,
        mmio_only: false,
        clean,
    };
    let to = match private {
        true => PageState::Private,
        false => PageState::Shared,
    };
    let converter = &layout.converter;
    match input.below(4) {
        0 => {
            let attributes = attributes(input, u64::from(private) << 4, 0xf);
            let clean = attributes & !0x1f == 0;
            let to = match attributes & 0x10 {
                0 => PageState::Shared,
                _ => PageState::Private,
            };
            let result = converter.hypercall(gpa, pages, attributes);
            (asked(to, size, clean), result)
        }
        1 => {
            let size = bytes(input, size);
            let flags = attributes(input, u64::from(private) << 3, 0);
            let clean = flags & !8 == 0;
            let to = match flags & 8 {
                0 => PageState::Shared,
                _ => PageState::Private,
            };
            let result = converter.memory_fault(flags, gpa, size);
            (asked(to, Some(size), clean), result)
        }
        2 => {
            let size = bytes(input, size);
            let request = Request::new(gpa, size, to);
            let result = request.map_err(ConvertError::from);
            let result = result.and_then(|request| converter.convert(request));
            (asked(to, Some(size), true), result)
        }
        _ => {
            let size = bytes(input, size);
            let request = Request::accept(gpa, size).map_err(ConvertError::from);
            let result = request.and_then(|request| converter.convert(request));
            let asked = Asked {
                mmio_only: true,
                ..asked(PageState::Private, Some(size), true)
            };
            (asked, result)
        }
    }
}

fn revoke(input: &mut Input<'_>, layout: &Layout, oracle: &mut Oracle) {
    let pages = count(input);
    let size = bytes(input, pages.checked_mul(PAGE));
    let Ok(range) = PageRange::new(address(input), size) else {
        return;
    };
    let accepted = oracle.accepted().into_iter();
    let lost: Vec<u64> = accepted.filter(|p| range.contains(p * PAGE)).collect();
    for &page in &lost {
        oracle.convert(page, 1, PageState::Shared);
    }
    let revoked = layout.converter.revoke(range).expect("nothing panicked");
    assert_eq!(revoked.bytes, lost.len() as u64 * PAGE);
    assert!(revoked.not_shared.is_empty());
}

/// Mostly a page of the layout.
fn address(input: &mut Input<'_>) -> u64 {
    match input.below(16) {
        0 => input.number(),
        1 => input.number() & !(PAGE - 1),
        2 => u64::MAX - input.below(4 * PAGE),
        _ => input.below(COUNT + 4) * PAGE,
    }
}

/// Mostly few pages.
fn count(input: &mut Input<'_>) -> u64 {
    match input.below(16) {
        0 => input.number(),
        1 => input.number() >> 12,
        2 => 0,
        3 => COUNT,
        _ => 1 + input.below(9),
    }
}

/// Mostly whole pages.
fn bytes(input: &mut Input<'_>, pages: Option<u64>) -> u64 {
    match input.one_in(16) {
        true => input.number(),
        false => pages.unwrap_or(u64::MAX),
    }
}

/// Mostly the given flags, sometimes with other valid bits, or any bits.
fn attributes(input: &mut Input<'_>, asked: u64, may: u64) -> u64 {
    match input.below(16) {
        0 => input.number(),
        1 => asked | (input.number() & may),
        2 => asked | 1 << input.below(64),
        _ => asked,
    }
}
