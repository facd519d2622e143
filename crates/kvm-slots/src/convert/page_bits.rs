// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages are private, for those who have no memory model to ask.

use std::collections::BTreeMap;

use super::range::{PAGE, PageRange};

/// The pages of a chunk: 16 MiB.
const PAGES: u64 = 4096;
const CHUNK: u64 = PAGES * PAGE;
const BITS: u64 = 64;

type Bits = [u64; 64];

/// What an entry of the tree costs at most: when its nodes are as empty as they
/// may be.
const ENTRY_BYTES: usize = 48;

/// What a bitmap costs, with what an allocator needs to know of it.
const BITMAP_BYTES: usize = size_of::<Bits>() + 16;

/// The pages of a chunk, of which at least one is in the set.
#[derive(Debug)]
enum Chunk {
    All,
    Part(Box<Bits>),
}

/// A set of pages: a bit for each in chunks where they differ, none where they
/// are alike. At most 576 bytes a chunk, 36 MiB for each TiB that the set
/// reaches into, whatever the choice.
#[derive(Debug, Default)]
pub(super) struct PageBits {
    chunks: BTreeMap<u64, Chunk>,
}

impl PageBits {
    pub(super) fn insert(&mut self, range: PageRange) {
        for number in first_chunk(range)..=last_chunk(range) {
            let pages = part(range, number);
            if pages == (0, PAGES - 1) {
                self.chunks.insert(number, Chunk::All);
                continue;
            }
            let none = || Chunk::Part(Box::new([0; 64]));
            let chunk = self.chunks.entry(number).or_insert_with(none);
            let Chunk::Part(bits) = chunk else { continue };
            change(bits, pages, |word, mask| word | mask);
            if bits.iter().all(|&word| word == !0) {
                *chunk = Chunk::All;
            }
        }
    }

    pub(super) fn remove(&mut self, range: PageRange) {
        let (first, last) = (first_chunk(range), last_chunk(range));
        if first == last {
            return self.remove_from(first, range);
        }
        let held = self.chunks.range(first..=last);
        let held: Vec<u64> = held.map(|(&number, _)| number).collect();
        for number in held {
            self.remove_from(number, range);
        }
    }

    fn remove_from(&mut self, number: u64, range: PageRange) {
        let Some(chunk) = self.chunks.get_mut(&number) else {
            return;
        };
        if let Chunk::All = chunk {
            *chunk = Chunk::Part(Box::new([!0; 64]));
        }
        let Chunk::Part(bits) = chunk else { return };
        change(bits, part(range, number), |word, mask| word & !mask);
        if bits.iter().all(|&word| word == 0) {
            self.chunks.remove(&number);
        }
    }

    /// The parts of `range` that are in the set, by address. Parts of
    /// different chunks are not joined.
    pub(super) fn within(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        let (first, last) = (first_chunk(range), last_chunk(range));
        // Most requests are about one page, and so about one chunk.
        let only = match first == last {
            true => self.chunks.get(&first).map(|chunk| (first, chunk)),
            false => None,
        };
        let several = (first != last).then(|| self.chunks.range(first..=last));
        let several = several.into_iter().flatten().map(|(&n, chunk)| (n, chunk));
        let held = only.into_iter().chain(several);
        held.flat_map(move |(number, chunk)| runs(number, chunk, part(range, number)))
    }

    /// The bytes that the set takes on the heap, at most.
    pub(super) fn heap_bytes(&self) -> usize {
        let bitmaps = self.chunks.values().filter(|c| matches!(c, Chunk::Part(_)));
        self.chunks.len() * ENTRY_BYTES + bitmaps.count() * BITMAP_BYTES
    }

    /// Whether the set, with `range` in it, would stay within `limit` bytes on
    /// the heap, whichever of its pages then go.
    pub(super) fn has_room(&self, range: PageRange, limit: usize) -> bool {
        let most = (limit / (ENTRY_BYTES + BITMAP_BYTES)) as u64;
        let (first, last) = (first_chunk(range), last_chunk(range));
        let all = self.chunks.len() as u64 + (last - first + 1);
        // Which of them there are already is looked at only if that matters.
        all <= most || all - self.chunks.range(first..=last).count() as u64 <= most
    }
}

fn first_chunk(range: PageRange) -> u64 {
    range.start() / CHUNK
}

fn last_chunk(range: PageRange) -> u64 {
    (range.end() - PAGE) / CHUNK
}

/// The first and the last page that `range` has of a chunk that it touches.
fn part(range: PageRange, number: u64) -> (u64, u64) {
    let page = |address: u64| address / PAGE % PAGES;
    let first = match number == first_chunk(range) {
        true => page(range.start()),
        false => 0,
    };
    let last = match number == last_chunk(range) {
        true => page(range.end() - PAGE),
        false => PAGES - 1,
    };
    (first, last)
}

/// Changes the bits of the pages from `first` to `last`, word by word.
fn change(bits: &mut Bits, (first, last): (u64, u64), change: impl Fn(u64, u64) -> u64) {
    let words = index(first / BITS)..index(last / BITS) + 1;
    for (word, n) in bits[words].iter_mut().zip(first / BITS..) {
        let from = first.saturating_sub(n * BITS);
        let to = (last - n * BITS).min(BITS - 1);
        *word = change(*word, (!0 << from) & (!0 >> (BITS - 1 - to)));
    }
}

/// The index of a word, of which there are 64.
fn index(word: u64) -> usize {
    usize::try_from(word % BITS).unwrap_or(0)
}

/// The addresses of the pages from `first` to `last` of a chunk that are in
/// the set.
fn runs(number: u64, chunk: &Chunk, pages: (u64, u64)) -> impl Iterator<Item = PageRange> + '_ {
    let (mut from, last) = pages;
    std::iter::from_fn(move || {
        let first = next(chunk, from, last, true)?;
        from = next(chunk, first, last, false).unwrap_or(last + 1);
        // The set's pages lie below 2^64, and so does where they end.
        let start = number * CHUNK;
        PageRange::between(start + first * PAGE, start + (from - 1) * PAGE + PAGE)
    })
}

/// The first page from `from` to `last` that is in the set, or is not.
fn next(chunk: &Chunk, from: u64, last: u64, is_in: bool) -> Option<u64> {
    let bits = match chunk {
        _ if from > last => return None,
        Chunk::All => return is_in.then_some(from),
        Chunk::Part(bits) => bits,
    };
    let mut mask = !0 << (from % BITS);
    for n in from / BITS..=last / BITS {
        let word = bits[index(n)];
        let found = mask & if is_in { word } else { !word };
        if found != 0 {
            let page = n * BITS + u64::from(found.trailing_zeros());
            return (page <= last).then_some(page);
        }
        mask = !0;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, pages: u64) -> PageRange {
        PageRange::new(first * PAGE, pages * PAGE).unwrap()
    }

    fn pages(set: &PageBits, within: PageRange) -> Vec<u64> {
        let runs = set.within(within);
        runs.flat_map(|run| run.start() / PAGE..run.end() / PAGE)
            .collect()
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_a_set_of_every_page(
            // Around two borders of chunks, and in units that make whole ones.
            steps in prop::collection::vec(
                (any::<bool>(), 0_u64..6, 0_u64..70, 1_u64..6, 0_u64..70), 0..24),
            window in (0_u64..12000, 1_u64..9000),
        ) {
            let (mut set, mut all) = (PageBits::default(), BTreeSet::new());
            for (insert, start, more, size, extra) in steps {
                let (first, pages) = (start * 2048 + more, size * 2048 - 70 + extra);
                if insert {
                    set.insert(range(first, pages));
                    all.extend(first..first + pages);
                } else {
                    set.remove(range(first, pages));
                    all.retain(|page| !(first..first + pages).contains(page));
                }
            }
            let window = range(window.0, window.1);
            let chunks: BTreeSet<u64> = all.iter().map(|page| page / PAGES).collect();
            let with: BTreeSet<u64> = (first_chunk(window)..=last_chunk(window)).collect();
            let bytes = chunks.union(&with).count() * 576;
            prop_assert!(set.has_room(window, bytes) && !set.has_room(window, bytes - 1));
            prop_assert!(set.heap_bytes() <= chunks.len() * 576);
            let held = all.range(window.start() / PAGE..window.end() / PAGE);
            prop_assert_eq!(pages(&set, window), held.copied().collect::<Vec<_>>());
            let every: Vec<u64> = all.into_iter().collect();
            prop_assert_eq!(pages(&set, range(0, 40_000)), every);
        }
    }

    #[test]
    fn the_last_pages_of_the_space_can_be_in_the_set() {
        let mut set = PageBits::default();
        let last = PageRange::new(0_u64.wrapping_sub(4 * PAGE), 3 * PAGE).unwrap();
        set.insert(last);
        let everything = PageRange::between(0, last.end()).unwrap();
        assert!(set.within(everything).eq([last]));
        set.remove(everything);
        assert_eq!(set.heap_bytes(), 0);
    }

    #[test]
    fn alternating_pages_take_no_more_than_the_bound() {
        let mut set = PageBits::default();
        // 1 GiB: a thousandth of what the bound is said for.
        for page in (0..1 << 18).step_by(2) {
            set.insert(range(page, 1));
        }
        assert!(
            set.heap_bytes() <= (36 << 20) / 1024,
            "{}",
            set.heap_bytes()
        );
        set.insert(range(0, 1 << 18));
        assert!(set.heap_bytes() <= 64 * 48);
        assert_eq!(set.within(range(0, 1 << 18)).count(), 64);
    }
}
