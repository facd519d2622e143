// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of pages: correct, and small whichever pages they contain.

use guest_ranges::{AddrRange, PAGE_SIZE, PageSet};
use proptest::prelude::*;

/// The number of pages that share a bitmap.
const CHUNK: u64 = 4096;

/// The number of the last page.
const LAST: u64 = u64::MAX / PAGE_SIZE;

const TIB: u64 = 1 << 40;

fn pages(first: u64, last: u64) -> AddrRange {
    AddrRange::from_bounds(first * PAGE_SIZE, last * PAGE_SIZE + (PAGE_SIZE - 1)).unwrap()
}

fn page(number: u64) -> AddrRange {
    pages(number, number)
}

/// A naive set to compare with: a bool for each of the first and the last pages.
struct Painted {
    low: Vec<bool>,
    high: Vec<bool>,
}

impl Painted {
    const PAGES: u64 = 3 * CHUNK;
    const HIGH: u64 = LAST - Self::PAGES + 1;

    fn new() -> Self {
        let none = || vec![false; usize::try_from(Self::PAGES).unwrap()];
        Self {
            low: none(),
            high: none(),
        }
    }

    fn set(&mut self, first: u64, last: u64, is_in: bool) {
        for (start, pages) in [(0, &mut self.low), (Self::HIGH, &mut self.high)] {
            for (page, cell) in (start..).zip(pages) {
                if (first..=last).contains(&page) {
                    *cell = is_in;
                }
            }
        }
    }

    /// The pages from `first` to `last` that are in the set, as runs.
    fn runs(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (start, pages) in [(0, &self.low), (Self::HIGH, &self.high)] {
            for (page, _) in (start..).zip(pages).filter(|(_, is_in)| **is_in) {
                match runs.last_mut() {
                    _ if !(first..=last).contains(&page) => {}
                    Some((_, last)) if *last + 1 == page => *last = page,
                    _ => runs.push((page, page)),
                }
            }
        }
        runs
    }
}

/// Near the borders of chunks, at the start and at the end of the space.
fn page_number() -> impl Strategy<Value = u64> {
    let near = |border: u64| border.saturating_sub(4)..border + 4;
    let low = prop_oneof![
        near(0),
        near(64),
        near(CHUNK),
        near(2 * CHUNK),
        0..Painted::PAGES
    ];
    (low, any::<bool>()).prop_map(|(page, low)| if low { page } else { LAST - page })
}

/// Two pages that both lie low or both high, the lower first.
fn two_pages() -> impl Strategy<Value = (u64, u64)> {
    let one = (page_number(), 0_u64..4).prop_map(|(p, more)| {
        // No page is painted between the low and the high ones.
        let end = if p < LAST / 2 {
            Painted::PAGES - 1
        } else {
            LAST
        };
        (p, p.saturating_add(more).min(end))
    });
    let far = (page_number(), page_number()).prop_map(|(a, b)| {
        let b = if (a < LAST / 2) == (b < LAST / 2) {
            b
        } else {
            LAST - b
        };
        (a.min(b), a.max(b))
    });
    prop_oneof![3 => one, 1 => far]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_page_set_agrees_with_painting_every_page(
        steps in prop::collection::vec((any::<bool>(), two_pages(), two_pages()), 0..24)
    ) {
        let (mut set, mut painted) = (PageSet::new(), Painted::new());
        for (is_in, (first, last), (from, to)) in steps {
            let range = pages(first, last);
            if is_in { set.insert(range) } else { set.remove(range) }
            painted.set(first, last, is_in);
            prop_assert_eq!(set.covers(range), is_in);

            let runs = painted.runs(from, to);
            let runs: Vec<AddrRange> = runs.into_iter().map(|(a, b)| pages(a, b)).collect();
            prop_assert_eq!(set.within(pages(from, to)).collect::<Vec<_>>(), runs.clone());
            prop_assert_eq!(set.covers(pages(from, to)), runs == [pages(from, to)]);
            let clipped = set.clipped(pages(from, to));
            prop_assert_eq!(clipped.iter().collect::<Vec<_>>(), runs.clone());
            // Equal sets are equal values, however they were made.
            let mut again = PageSet::new();
            runs.into_iter().for_each(|run| again.insert(run));
            prop_assert_eq!(clipped, again);
        }
        let all: Vec<_> = painted.runs(0, LAST).into_iter().map(|(a, b)| pages(a, b)).collect();
        prop_assert_eq!(set.is_empty(), all.is_empty());
        prop_assert_eq!(set.iter().collect::<Vec<_>>(), all);
        set.remove(AddrRange::ALL);
        prop_assert_eq!(set.heap_bytes(), 0);
    }
}

#[test]
fn the_set_of_all_pages_is_one_range() {
    let mut set = PageSet::new();
    set.insert(AddrRange::ALL);
    assert!(set.covers(AddrRange::ALL) && set.covers(page(LAST)));
    assert!(set.iter().eq([AddrRange::ALL]));
    set.remove(page(LAST));
    assert!(set.iter().eq([pages(0, LAST - 1)]));
    set.insert(page(LAST));
    set.remove(page(0));
    assert!(set.iter().eq([pages(1, LAST)]));
}

#[test]
fn a_range_stands_for_the_pages_that_it_touches() {
    let byte = |address| AddrRange::new(address, 1).unwrap();
    let mut set = PageSet::new();
    set.insert(AddrRange::new(0x1fff, 2).unwrap());
    assert!(set.iter().eq([pages(1, 2)]));
    assert!(set.covers(byte(0x1234)) && !set.covers(byte(0x3000)));
    assert!(set.within(byte(0x1234)).eq([byte(0x1234)]));
    assert!(set.clipped(byte(0x1234)).iter().eq([page(1)]));
    set.remove(byte(0x2abc));
    assert!(set.iter().eq([page(1)]));
}

#[test]
fn uniform_pages_take_next_to_nothing() {
    let mut set = PageSet::new();
    set.insert(AddrRange::new(0, TIB.into()).unwrap());
    let uniform = set.heap_bytes();
    assert!(uniform < 64, "{uniform}");
    set.remove(page(77));
    assert!(set.heap_bytes() > uniform);
    // A set that becomes uniform again shrinks again.
    set.insert(page(77));
    assert_eq!(set.heap_bytes(), uniform);
}

#[test]
fn no_choice_of_pages_in_a_tib_takes_more_than_the_bound() {
    // The size of a bitmap does not depend on its bits. A page in every chunk is the
    // worst case, since a chunk without one takes less.
    let mut set = PageSet::new();
    for first in (0..TIB / PAGE_SIZE).step_by(usize::try_from(CHUNK).unwrap()) {
        set.insert(page(first));
    }
    let (size, bound) = (set.heap_bytes(), PageSet::MAX_BYTES_PER_TIB);
    assert!(bound / 2 < size && size <= bound, "{size}");

    // Every other chunk as a whole takes far less.
    let mut set = PageSet::new();
    for first in (0..TIB / PAGE_SIZE).step_by(2 * usize::try_from(CHUNK).unwrap()) {
        set.insert(pages(first, first + CHUNK - 1));
    }
    assert!(set.heap_bytes() < bound / 16);
}

#[test]
fn every_other_page_of_16_gib_stays_below_a_64th_of_the_bound() {
    every_other_page_of_a_part_of_a_tib(64);
}

/// Takes more than a minute without optimisation.
#[cfg(not(debug_assertions))]
#[test]
fn every_other_page_of_a_tib_stays_below_the_bound() {
    every_other_page_of_a_part_of_a_tib(1);
}

fn every_other_page_of_a_part_of_a_tib(part: u64) {
    let mut set = PageSet::new();
    let all = TIB / PAGE_SIZE / part;
    for number in (0..all).step_by(2) {
        set.insert(page(number));
    }
    let bound = PageSet::MAX_BYTES_PER_TIB / usize::try_from(part).unwrap();
    assert!(set.heap_bytes() <= bound, "{}", set.heap_bytes());
    assert!(!set.covers(pages(0, 1)) && set.covers(page(all - 2)));

    for number in (1..all).step_by(2) {
        set.insert(page(number));
    }
    assert!(set.iter().eq([pages(0, all - 1)]));
    assert!(set.heap_bytes() < 64);
}
