// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A set of pages that stays small however they are chosen.

mod check;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;
use core::fmt;
use core::iter::Peekable;

use crate::AddrRange;
use crate::pages::page_chunk::{Chunk, PAGES};
use crate::pages::range_set::RangeSet;

/// The bytes of a page: the smallest unit that can be private, or accepted.
pub const PAGE_SIZE: u64 = 4096;

/// The bytes of a chunk of pages.
const CHUNK_SIZE: u64 = PAGE_SIZE * PAGES as u64;

/// What an entry of two words costs at most in a B-tree: when all of its nodes
/// are as empty as they may be.
const ENTRY_BYTES: usize = 48;

/// What a bitmap costs, with what an allocator needs to know of it.
const BITMAP_BYTES: usize = size_of::<Chunk>() + 8;

/// The most that a chunk costs that the set reaches into.
const CHUNK_BYTES: usize = ENTRY_BYTES + BITMAP_BYTES;

/// Which pages have some property.
///
/// A range stands for the pages that it touches. Ranges that come out consist
/// of whole pages, unless cut to a range that does not.
///
/// # How large it gets
///
/// Where pages are alike for long, the set holds ranges. A chunk of 16 MiB in
/// which they are not is a bitmap instead, for as long as that lasts. So no
/// choice of pages makes the set larger than 576 bytes for each chunk that it
/// reaches into, 36 MiB for each TiB: 1.125 bits a page.
///
/// Whoever lets a guest choose where the pages are bounds how many chunks that
/// can be: [`MemoryModel::set_state_limit`](crate::MemoryModel::set_state_limit).
///
/// ```
/// use memory_model::{AddrRange, PageSet};
///
/// let page = |n: u64| AddrRange::new(n * 4096, 4096).unwrap();
/// let mut set = PageSet::new();
/// set.insert(page(7));
/// set.insert(page(8));
/// assert!(set.covers(AddrRange::new(0x7fff, 2).unwrap()));
/// assert!(set.iter().eq([AddrRange::new(0x7000, 0x2000).unwrap()]));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PageSet {
    /// The numbers of the chunks that are in the set as a whole.
    whole: RangeSet,
    /// The chunks that are in it in part.
    mixed: BTreeMap<u64, Box<Chunk>>,
}

impl PageSet {
    /// The most bytes that the set can take for each TiB that it reaches into.
    pub const MAX_BYTES_PER_TIB: usize = 36 << 20;

    /// The set of no page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no page in the set.
    pub fn is_empty(&self) -> bool {
        // A chunk that is in it in part has some page in it.
        self.whole.is_empty() && self.mixed.is_empty()
    }

    /// All pages of the set, as the fewest ranges, by address.
    pub fn iter(&self) -> impl Iterator<Item = AddrRange> + '_ {
        self.within(AddrRange::ALL)
    }

    /// The parts of `range` that are in the set, as the fewest ranges, by
    /// address.
    pub fn within(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        let chunks = chunks_of(range);
        let whole = self.whole.parts(chunks).filter_map(addresses_of_chunks);
        let mixed = self.mixed.range(chunks.start()..=chunks.last());
        let mixed = mixed.flat_map(move |(&number, chunk)| {
            // A search for one page looks at one page, and not at its chunk.
            let from = (number == chunks.start()).then(|| page_in_chunk(range.start()));
            let to = (number == chunks.last()).then(|| page_in_chunk(range.last()));
            runs(number, chunk, from.unwrap_or(0), to.unwrap_or(PAGES - 1))
        });
        let parts = ByAddress {
            one: whole.peekable(),
            other: mixed.peekable(),
        };
        let parts = parts.filter_map(move |part| part.intersect(range));
        Joined {
            parts: parts.peekable(),
        }
    }

    /// Whether every page of `range` is in the set.
    pub fn covers(&self, range: AddrRange) -> bool {
        self.within(range).next() == Some(range)
    }

    /// Puts every page that `range` touches into the set.
    pub fn insert(&mut self, range: AddrRange) {
        self.set(range, true);
    }

    /// Takes every page that `range` touches out of the set.
    pub fn remove(&mut self, range: AddrRange) {
        self.set(range, false);
    }

    /// The set of those pages of this one that `range` touches.
    #[must_use]
    pub fn clipped(&self, range: AddrRange) -> Self {
        let chunks = chunks_of(range);
        let mut clipped = Self::new();
        for part in self.whole.parts(chunks) {
            clipped.whole.insert(part);
        }
        let mixed = self.mixed.range(chunks.start()..=chunks.last());
        clipped.mixed = mixed.map(|(&n, chunk)| (n, chunk.clone())).collect();
        let range = whole_pages(range);
        let below = range.start().checked_sub(1);
        let above = range.last().checked_add(1);
        if let Some(below) = below.and_then(|last| AddrRange::from_bounds(0, last)) {
            clipped.remove(below);
        }
        if let Some(above) = above.and_then(|start| AddrRange::from_bounds(start, u64::MAX)) {
            clipped.remove(above);
        }
        clipped
    }

    /// The bytes that the set takes on the heap, at most.
    pub fn heap_bytes(&self) -> usize {
        self.whole.len() * ENTRY_BYTES + self.mixed.len() * CHUNK_BYTES
    }

    /// Whether the set, with `range` in it, would stay within `limit` bytes on
    /// the heap, whichever of its pages then go.
    pub(crate) fn has_room(&self, range: AddrRange, limit: usize) -> bool {
        let chunks = chunks_of(range);
        let most = (limit / CHUNK_BYTES) as u128;
        let reached = self.whole.count() + self.mixed.len() as u128;
        // What it reaches into already is looked for only if that matters.
        let new = chunks.size();
        reached + new <= most || reached + new - self.reached_of(chunks) <= most
    }

    /// How many of some chunks the set reaches into.
    fn reached_of(&self, chunks: AddrRange) -> u128 {
        let whole = self.whole.parts(chunks).map(AddrRange::size);
        let mixed = self.mixed.range(chunks.start()..=chunks.last());
        whole.sum::<u128>() + mixed.count() as u128
    }

    fn set(&mut self, range: AddrRange, is_in: bool) {
        let chunks = chunks_of(range);
        let (mut first, mut last) = (chunks.start(), chunks.last());
        let from = page_in_chunk(range.start());
        let to = page_in_chunk(range.last());
        if first == last && (from, to) != (0, PAGES - 1) {
            return self.set_in_chunk(first, from, to, is_in);
        }
        if from > 0 {
            self.set_in_chunk(first, from, PAGES - 1, is_in);
            first += 1;
        }
        if to < PAGES - 1 {
            self.set_in_chunk(last, 0, to, is_in);
            last -= 1;
        }
        // Between two neighbours there is nothing.
        if let Some(chunks) = AddrRange::from_bounds(first, last) {
            self.set_chunks(chunks, is_in);
        }
    }

    /// Puts whole chunks in, or takes them out.
    fn set_chunks(&mut self, chunks: AddrRange, is_in: bool) {
        let mixed = self.mixed.range(chunks.start()..=chunks.last());
        let mixed: Vec<u64> = mixed.map(|(&number, _)| number).collect();
        for number in mixed {
            self.mixed.remove(&number);
        }
        match is_in {
            true => self.whole.insert(chunks),
            false => self.whole.remove(chunks),
        }
    }

    /// Puts the pages from `from` to `to` of one chunk in, or takes them out.
    fn set_in_chunk(&mut self, number: u64, from: usize, to: usize, is_in: bool) {
        let Some(only) = AddrRange::from_bounds(number, number) else {
            return;
        };
        let chunk = match self.mixed.entry(number) {
            Entry::Occupied(chunk) => chunk.into_mut(),
            Entry::Vacant(free) => match (self.whole.covers(only), is_in) {
                (true, false) => {
                    self.whole.remove(only);
                    free.insert(Box::new(Chunk::ALL))
                }
                (false, true) => free.insert(Box::new(Chunk::NONE)),
                (true, true) | (false, false) => return,
            },
        };
        chunk.set(from, to, is_in);
        if chunk.is_all() || chunk.is_none() {
            let is_in = chunk.is_all();
            self.set_chunks(only, is_in);
        }
    }
}

impl fmt::Debug for PageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The numbers of the chunks that `range` touches.
fn chunks_of(range: AddrRange) -> AddrRange {
    let (first, last) = (range.start() / CHUNK_SIZE, range.last() / CHUNK_SIZE);
    // Division keeps the order.
    AddrRange::from_bounds(first, last).unwrap_or(range)
}

/// The addresses of the chunks with these numbers.
fn addresses_of_chunks(chunks: AddrRange) -> Option<AddrRange> {
    let start = chunks.start() * CHUNK_SIZE;
    AddrRange::from_bounds(start, chunks.last() * CHUNK_SIZE + (CHUNK_SIZE - 1))
}

/// The pages that `range` touches.
pub(crate) fn whole_pages(range: AddrRange) -> AddrRange {
    let start = range.start() & !(PAGE_SIZE - 1);
    AddrRange::from_bounds(start, range.last() | (PAGE_SIZE - 1)).unwrap_or(range)
}

/// The number of the address's page in its chunk.
fn page_in_chunk(address: u64) -> usize {
    let page = address / PAGE_SIZE % PAGES as u64;
    // Below `PAGES`, which is a `usize`.
    usize::try_from(page).unwrap_or(PAGES - 1)
}

/// The addresses that chunk `number` has in the set, from page `from` on and
/// up to the end of the run that page `to` is in.
fn runs(
    number: u64,
    chunk: &Chunk,
    mut from: usize,
    to: usize,
) -> impl Iterator<Item = AddrRange> + '_ {
    core::iter::from_fn(move || {
        let first = match from <= to {
            true => chunk.next(from, true),
            false => return None,
        };
        if first > to {
            return None;
        }
        from = chunk.next(first, false);
        let address = |page: usize| number * CHUNK_SIZE + page as u64 * PAGE_SIZE;
        AddrRange::from_bounds(address(first), address(from - 1) + (PAGE_SIZE - 1))
    })
}

/// What two iterators give, by address.
struct ByAddress<A: Iterator, B: Iterator> {
    one: Peekable<A>,
    other: Peekable<B>,
}

impl<A, B> Iterator for ByAddress<A, B>
where
    A: Iterator<Item = AddrRange>,
    B: Iterator<Item = AddrRange>,
{
    type Item = AddrRange;

    fn next(&mut self) -> Option<AddrRange> {
        match (self.one.peek(), self.other.peek()) {
            (Some(one), Some(other)) if one < other => self.one.next(),
            (_, Some(_)) => self.other.next(),
            (_, None) => self.one.next(),
        }
    }
}

/// Joins what is adjacent.
struct Joined<I: Iterator> {
    parts: Peekable<I>,
}

impl<I: Iterator<Item = AddrRange>> Iterator for Joined<I> {
    type Item = AddrRange;

    fn next(&mut self) -> Option<AddrRange> {
        let first = self.parts.next()?;
        let mut last = first.last();
        let follows = |last: u64, part: &AddrRange| last.checked_add(1) == Some(part.start());
        while let Some(part) = self.parts.next_if(|part| follows(last, part)) {
            last = part.last();
        }
        AddrRange::from_bounds(first.start(), last)
    }
}
