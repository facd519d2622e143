// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A set of pages of host memory: one bit each, where there are any.

use std::collections::BTreeMap;
use std::ops::Range;

/// Words of one chunk, which so has 4 KiB and tells of 32 768 pages.
const WORDS: usize = 512;
const BITS: u64 = u64::BITS as u64;
const PER_CHUNK: u64 = WORDS as u64 * BITS;

/// Pages of host memory that were written, each at most once.
///
/// It takes a bit for each page of every stretch of 32 768 pages that has one:
/// at most 32 MiB for 1 TiB of pages of 4 KiB, and little more.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyPages {
    page_size: u64,
    /// By page number, in units of `PER_CHUNK`. No chunk is without a page.
    chunks: BTreeMap<u64, Box<[u64; WORDS]>>,
}

/// Pages side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirtyRun {
    /// The host address of the first page.
    pub host: u64,
    /// The number of bytes.
    pub size: u64,
}

impl DirtyPages {
    /// No page; `page_size` in bytes, as in
    /// [`Capabilities`](crate::Capabilities).
    pub(crate) fn new(page_size: u64) -> Self {
        Self {
            page_size: page_size.max(1),
            chunks: BTreeMap::new(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many pages there are.
    pub fn len(&self) -> u64 {
        let words = self.chunks.values().flat_map(|words| words.iter());
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether the page that holds the host address is among them.
    pub fn contains(&self, host: u64) -> bool {
        let page = host / self.page_size;
        let (chunk, word) = place(page / BITS);
        let words = self.chunks.get(&chunk);
        words.is_some_and(|words| words[word] >> (page % BITS) & 1 == 1)
    }

    /// The pages by host address, neighbours joined.
    pub fn runs(&self) -> impl Iterator<Item = DirtyRun> + '_ {
        let page_size = self.page_size;
        joined(self.parts()).map(move |pages| DirtyRun {
            host: pages.start * page_size,
            size: (pages.end - pages.start) * page_size,
        })
    }

    /// The pages as runs that end with each word.
    fn parts(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let words = self.chunks.iter().flat_map(|(chunk, words)| {
            let first = chunk * PER_CHUNK;
            (first..).step_by(64).zip(words.iter().copied())
        });
        words.flat_map(|(first, word)| {
            ones(word).map(move |bits| first + bits.start..first + bits.end)
        })
    }

    /// Adds pages by number.
    pub(crate) fn insert(&mut self, pages: Range<u64>) {
        for (word, mask) in masks(pages) {
            self.or(word, mask);
        }
    }

    /// Adds the pages of a bitmap whose first bit is page `first`. Only
    /// `pages` of its bits count.
    pub(crate) fn insert_bitmap(&mut self, first: u64, bitmap: &[u64], pages: u64) {
        let (mut word, shift) = (first / BITS, first % BITS);
        let mut left = pages;
        for &bits in bitmap {
            let bits = bits & low_ones(left.min(BITS));
            left = left.saturating_sub(BITS);
            if bits != 0 {
                self.or(word, bits << shift);
                if shift != 0 {
                    self.or(word + 1, bits >> (BITS - shift));
                }
            }
            word += 1;
        }
    }

    /// Adds all pages of another set.
    pub(crate) fn append(&mut self, other: &Self) {
        for (chunk, words) in &other.chunks {
            for (word, bits) in (chunk * WORDS as u64..).zip(words.iter()) {
                self.or(word, *bits);
            }
        }
    }

    /// Takes pages out, by number.
    pub(crate) fn take(&mut self, pages: Range<u64>) -> Self {
        let mut taken = Self::new(self.page_size);
        if pages.is_empty() {
            return taken;
        }
        let chunks = pages.start / PER_CHUNK..=(pages.end - 1) / PER_CHUNK;
        let touched: Vec<u64> = self.chunks.range(chunks).map(|(chunk, _)| *chunk).collect();
        for chunk in touched {
            let own = chunk * PER_CHUNK..(chunk + 1) * PER_CHUNK;
            let inside = own.start.max(pages.start)..own.end.min(pages.end);
            if inside == own {
                taken.chunks.extend(self.chunks.remove_entry(&chunk));
                continue;
            }
            for (word, mask) in masks(inside) {
                taken.or(word, self.and_not(word, mask));
            }
        }
        taken
    }

    fn or(&mut self, word: u64, bits: u64) {
        if bits != 0 {
            let (chunk, index) = place(word);
            let words = self.chunks.entry(chunk);
            words.or_insert_with(|| Box::new([0; WORDS]))[index] |= bits;
        }
    }

    /// Clears bits; returns those that were set.
    fn and_not(&mut self, word: u64, mask: u64) -> u64 {
        let (chunk, index) = place(word);
        let Some(words) = self.chunks.get_mut(&chunk) else {
            return 0;
        };
        let were = words[index] & mask;
        words[index] &= !mask;
        if were != 0 && words.iter().all(|word| *word == 0) {
            self.chunks.remove(&chunk);
        }
        were
    }
}

/// As runs: a set can be large.
impl std::fmt::Debug for DirtyPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.runs().take(16)).finish()
    }
}

/// The chunk of a word, and its place there.
fn place(word: u64) -> (u64, usize) {
    let index = usize::try_from(word % WORDS as u64).unwrap_or_default();
    (word / WORDS as u64, index)
}

/// The words that hold some pages, and their bits there.
fn masks(pages: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let words = pages.start / BITS..pages.end.div_ceil(BITS);
    words.map(move |word| {
        let from = pages.start.saturating_sub(word * BITS);
        let to = (pages.end - word * BITS).min(BITS);
        (word, low_ones(to) & !low_ones(from))
    })
}

/// A word with its `n` lowest bits set, `n` from 0 to 64.
fn low_ones(n: u64) -> u64 {
    match n {
        0 => 0,
        n => u64::MAX >> (BITS - n),
    }
}

/// The runs of ones in a word.
fn ones(mut word: u64) -> impl Iterator<Item = Range<u64>> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let start = u64::from(word.trailing_zeros());
        let end = start + u64::from((word >> start).trailing_ones());
        word &= !low_ones(end);
        Some(start..end)
    })
}

/// Joins ranges that meet.
fn joined(parts: impl Iterator<Item = Range<u64>>) -> impl Iterator<Item = Range<u64>> {
    let mut parts = parts.peekable();
    std::iter::from_fn(move || {
        let mut run = parts.next()?;
        while let Some(next) = parts.next_if(|next| next.start == run.end) {
            run.end = next.end;
        }
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PAGE: u64 = 4096;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>),
        Bitmap(u64, Vec<u64>, u64),
        Take(Range<u64>),
    }

    fn pages() -> impl Strategy<Value = Range<u64>> {
        // Around the border of two chunks.
        let start = PER_CHUNK - 300..PER_CHUNK + 300;
        (start, 0..200_u64).prop_map(|(start, len)| start..start + len)
    }

    fn step() -> impl Strategy<Value = Step> {
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

    fn all(pages: &DirtyPages) -> BTreeSet<u64> {
        let pages = pages
            .runs()
            .flat_map(|run| run.host / PAGE..(run.host + run.size) / PAGE);
        pages.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn dirty_pages_agree_with_a_set_of_every_page(
            steps in prop::collection::vec(step(), 0..24)
        ) {
            let (mut set, mut dumb) = (DirtyPages::new(PAGE), BTreeSet::new());
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
                        let (gone, stays) = dumb.iter().partition(|page| pages.contains(page));
                        prop_assert_eq!(all(&taken), gone);
                        dumb = stays;
                    }
                }
                prop_assert_eq!(all(&set), dumb.clone());
                prop_assert_eq!(set.len(), dumb.len() as u64);
                prop_assert_eq!(set.is_empty(), dumb.is_empty());
                for page in (PER_CHUNK - 300..PER_CHUNK + 700).step_by(7) {
                    prop_assert_eq!(set.contains(page * PAGE + 5), dumb.contains(&page));
                }
                // Runs never meet: what could be one is one.
                let runs: Vec<_> = set.runs().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].host + w[0].size < w[1].host));
            }
        }
    }

    #[test]
    fn a_chunk_that_is_taken_whole_leaves_nothing_behind() {
        let mut set = DirtyPages::new(PAGE);
        set.insert(10..3 * PER_CHUNK);
        let taken = set.take(0..u64::MAX / PAGE);
        assert_eq!(taken.len(), 3 * PER_CHUNK - 10);
        assert!(set.is_empty());
        assert_eq!(taken.runs().count(), 1);
    }
}
