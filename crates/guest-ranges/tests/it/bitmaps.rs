// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bitmaps, unions and counts of page sets, beside a set of every page.

use std::collections::BTreeSet;

use guest_ranges::{AddrRange, PAGE_SIZE, PageSet, PageSize};
use proptest::prelude::*;

/// The pages of a chunk.
const CHUNK: u64 = 4096;

/// The number of the last page.
const LAST: u64 = u64::MAX / PAGE_SIZE;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    Bitmap(u64, Vec<u64>, u64),
    Take(u64, u64),
    Union(u64, Vec<u64>),
}

/// Around the border of two chunks, or at the end of the space.
fn first_page() -> impl Strategy<Value = u64> {
    prop_oneof![CHUNK - 300..CHUNK + 300, LAST - 300..=LAST]
}

fn bitmap() -> impl Strategy<Value = Vec<u64>> {
    let word = prop_oneof![any::<u64>(), Just(0), Just(!0)];
    prop::collection::vec(word, 0..70)
}

fn step() -> impl Strategy<Value = Step> {
    let pages = || (first_page(), 0..5000_u64);
    prop_oneof![
        pages().prop_map(|(first, more)| Step::Insert(first, more)),
        (first_page(), bitmap(), 0..5000_u64)
            .prop_map(|(first, bits, n)| Step::Bitmap(first, bits, n)),
        pages().prop_map(|(first, more)| Step::Take(first, more)),
        (first_page(), bitmap()).prop_map(|(first, bits)| Step::Union(first, bits)),
    ]
}

fn range(first: u64, more: u64) -> AddrRange {
    let last = first.saturating_add(more).min(LAST);
    AddrRange::from_bounds(first * PAGE_SIZE, last * PAGE_SIZE + (PAGE_SIZE - 1)).unwrap()
}

fn numbers(set: &PageSet) -> BTreeSet<u64> {
    let pages = |range: AddrRange| range.start() / PAGE_SIZE..=range.last() / PAGE_SIZE;
    set.iter().flat_map(pages).collect()
}

/// The pages that a bitmap names, bit by bit.
fn named(first: u64, bitmap: &[u64], pages: u64) -> impl Iterator<Item = u64> + '_ {
    let bits = pages.min(bitmap.len() as u64 * 64);
    let is_set = |n: &u64| bitmap[usize::try_from(n / 64).unwrap()] >> (n % 64) & 1 == 1;
    let pages = (0..bits).filter(is_set);
    pages.filter_map(move |n| first.checked_add(n).filter(|&page| page <= LAST))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bitmaps_and_unions_agree_with_a_set_of_every_page(
        steps in prop::collection::vec(step(), 0..16)
    ) {
        let (mut set, mut dumb) = (PageSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Insert(first, more) => {
                    set.insert(range(first, more));
                    dumb.extend(first..=first.saturating_add(more).min(LAST));
                }
                Step::Bitmap(first, bitmap, pages) => {
                    set.insert_bitmap(first * PAGE_SIZE, &bitmap, pages, PageSize::Size4K);
                    dumb.extend(named(first, &bitmap, pages));
                }
                Step::Take(first, more) => {
                    let taken = set.take(range(first, more));
                    let all = first..=first.saturating_add(more).min(LAST);
                    let (out, rest) = dumb.into_iter().partition(|page| all.contains(page));
                    prop_assert_eq!(numbers(&taken), out);
                    prop_assert_eq!(taken.check(), Ok(()));
                    dumb = rest;
                }
                Step::Union(first, bitmap) => {
                    let mut other = PageSet::new();
                    other.insert_bitmap(first * PAGE_SIZE, &bitmap, u64::MAX, PageSize::Size4K);
                    set.insert_all(&other);
                    dumb.extend(named(first, &bitmap, u64::MAX));
                }
            }
            prop_assert_eq!(set.check(), Ok(()));
            prop_assert_eq!(set.pages(), dumb.len() as u128);
            prop_assert_eq!(numbers(&set), dumb.clone());
            for page in (CHUNK - 300..CHUNK + 700).step_by(7) {
                prop_assert_eq!(set.contains(page * PAGE_SIZE + 5), dumb.contains(&page));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_bit_is_a_whole_host_page_of_any_size(
        page in prop::sample::select(PageSize::ALL.to_vec()),
        first in prop_oneof![0..600_u64, Just(u64::MAX)],
        offset in 0..0x1000_u64,
        bitmap in prop::collection::vec(prop_oneof![any::<u64>(), Just(!0)], 0..8),
        pages in prop_oneof![0..600_u64, Just(u64::MAX)],
    ) {
        // Near the start, or the last 100 host pages below 2^64.
        let number = first.min(u64::MAX / page.bytes() - 100);
        let mut set = PageSet::new();
        set.insert_bitmap(number * page.bytes() + offset, &bitmap, pages, page);
        prop_assert_eq!(set.check(), Ok(()));
        let units = page.bytes() / PAGE_SIZE;
        let last = u64::MAX / page.bytes();
        let named = named(number, &bitmap, pages).filter(|number| *number <= last);
        let dumb: BTreeSet<u64> = named.flat_map(|n| n * units..(n + 1) * units).collect();
        prop_assert_eq!(numbers(&set), dumb);
    }
}
