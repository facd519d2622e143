// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of written pages of host memory.

use std::fmt;
use std::ops::Range;

use guest_ranges::{AddrRange, PAGE_SIZE, PageSet, PageSize};

/// A set of written pages of host memory.
///
/// It uses as much memory as a [`PageSet`]: at most 36 MiB for 1 TiB of pages of
/// 4 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyPages {
    page_size: PageSize,
    /// Whole host pages, by host address.
    set: PageSet,
}

impl DirtyPages {
    /// The empty set of pages of this size, as in
    /// [`Capabilities`](crate::Capabilities).
    pub(crate) fn new(page_size: PageSize) -> Self {
        Self {
            page_size,
            set: PageSet::new(),
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The number of host pages.
    pub fn len(&self) -> u64 {
        let pages = self.set.pages() / u128::from(self.page_size.bytes() / PAGE_SIZE);
        u64::try_from(pages).unwrap_or(u64::MAX)
    }

    /// Whether the set has the page of this host address.
    pub fn contains(&self, host: u64) -> bool {
        self.set.contains(host)
    }

    /// The host addresses of the pages, as the fewest ranges, by address.
    pub fn runs(&self) -> impl Iterator<Item = AddrRange> + '_ {
        self.set.iter()
    }

    /// The parts of a range of host addresses on these pages.
    pub(crate) fn within(&self, host: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        self.set.within(host)
    }

    /// Adds pages by number.
    pub(crate) fn insert(&mut self, pages: Range<u64>) {
        if let Some(bytes) = self.bytes(pages) {
            self.set.insert(bytes);
        }
    }

    /// Adds the pages of a bitmap of `pages` bits, whose first bit is page `first`.
    pub(crate) fn insert_bitmap(&mut self, first: u64, bitmap: &[u64], pages: u64) {
        // What starts beyond 2^64 is nothing.
        if let Some(address) = first.checked_mul(self.page_size.bytes()) {
            self.set
                .insert_bitmap(address, bitmap, pages, self.page_size);
        }
    }

    /// Adds all pages of another set.
    pub(crate) fn append(&mut self, other: &Self) {
        self.set.insert_all(&other.set);
    }

    /// Removes and returns pages, by number.
    pub(crate) fn take(&mut self, pages: Range<u64>) -> Self {
        let mut taken = Self::new(self.page_size);
        if let Some(bytes) = self.bytes(pages) {
            taken.set = self.set.take(bytes);
        }
        taken
    }

    /// The bytes of the pages with these numbers.
    fn bytes(&self, pages: Range<u64>) -> Option<AddrRange> {
        let size = self.page_size.bytes();
        let last = pages.end.checked_sub(1)?.checked_mul(size)?;
        AddrRange::from_bounds(pages.start.checked_mul(size)?, last + (size - 1))
            .filter(|_| !pages.is_empty())
    }
}

/// Shows ranges, because a set can be large.
impl fmt::Debug for DirtyPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs().take(16)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The number of units of 4 KiB in a chunk of a set.
    const PER_CHUNK: u64 = 4096;

    /// The number of host pages in a chunk.
    fn per_chunk(page: PageSize) -> u64 {
        PER_CHUNK * PAGE_SIZE / page.bytes()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>),
        Bitmap(u64, Vec<u64>, u64),
        Take(Range<u64>),
    }

    fn pages(page: PageSize) -> impl Strategy<Value = Range<u64>> {
        // Around the boundary of two chunks.
        let middle = per_chunk(page);
        let start = middle.saturating_sub(300)..middle + 300;
        (start, 0..200_u64).prop_map(|(start, len)| start..start + len)
    }

    fn step(page: PageSize) -> impl Strategy<Value = Step> {
        let pages = move || pages(page);
        let words = prop::collection::vec(any::<u64>(), 1..4);
        prop_oneof![
            pages().prop_map(Step::Insert),
            (pages(), words, 0_u64..256).prop_map(|(pages, words, bits)| Step::Bitmap(
                pages.start,
                words,
                bits
            )),
            pages().prop_map(Step::Take),
        ]
    }

    /// A page size, and steps with numbers of such pages.
    fn steps() -> impl Strategy<Value = (PageSize, Vec<Step>)> {
        let page = prop::sample::select(PageSize::ALL.to_vec());
        page.prop_flat_map(|page| (Just(page), prop::collection::vec(step(page), 0..24)))
    }

    fn all(pages: &DirtyPages) -> BTreeSet<u64> {
        let size = pages.page_size.bytes();
        let pages = pages.runs().flat_map(|run| {
            assert_eq!((run.start() % size, run.last() % size), (0, size - 1));
            run.start() / size..run.last() / size + 1
        });
        pages.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn dirty_pages_agree_with_a_set_of_every_page(
            (size, steps) in steps()
        ) {
            let (mut set, mut dumb) = (DirtyPages::new(size), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Insert(pages) => {
                        set.insert(pages.clone());
                        dumb.extend(pages);
                    }
                    Step::Bitmap(first, words, bits) => {
                        set.insert_bitmap(first, &words, bits);
                        let bits = bits.min(words.len() as u64 * 64);
                        let word = |n: u64| words[usize::try_from(n / 64).unwrap()];
                        let is_set = |n: &u64| word(*n) >> (n % 64) & 1 == 1;
                        dumb.extend((0..bits).filter(is_set).map(|n| first + n));
                    }
                    Step::Take(pages) => {
                        let taken = set.take(pages.clone());
                        let (removed, stays) = dumb.iter().partition(|page| pages.contains(page));
                        prop_assert_eq!(all(&taken), removed);
                        dumb = stays;
                    }
                }
                prop_assert_eq!(all(&set), dumb.clone());
                prop_assert_eq!(set.len(), dumb.len() as u64);
                prop_assert_eq!(set.is_empty(), dumb.is_empty());
                let middle = per_chunk(size);
                for page in (middle.saturating_sub(300)..middle + 700).step_by(7) {
                    let last = page * size.bytes() + (size.bytes() - 1);
                    prop_assert_eq!(set.contains(last - 5), dumb.contains(&page));
                }
                // Runs are never adjacent.
                let runs: Vec<_> = set.runs().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].last() + 1 < w[1].start()));
            }
        }
    }

    #[test]
    fn a_chunk_that_is_taken_whole_leaves_nothing_behind() {
        for size in PageSize::ALL {
            let mut set = DirtyPages::new(size);
            let end = 3 * per_chunk(size);
            set.insert(10..end);
            let taken = set.take(0..size.number(u64::MAX));
            assert_eq!(taken.len(), end - 10);
            assert!(set.is_empty());
            assert_eq!(taken.runs().count(), 1);
        }
    }
}
