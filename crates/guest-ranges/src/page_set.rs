// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A set of pages in bounded memory.

pub(crate) mod check;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;
use core::fmt;
use core::iter::Peekable;

use crate::addr_range::AddrRange;
use crate::bit_runs::bit_runs;
use crate::page_chunk::{BITS, Bitmap, Chunk, PAGES};
use crate::page_range::PAGE_SIZE;
use crate::page_size::PageSize;
use crate::range_set::RangeSet;
use crate::walk::{coalesce, gaps};

/// The bytes of a chunk of pages.
const CHUNK_SIZE: u64 = PAGE_SIZE * PAGES as u64;

/// The pages of a chunk, and the bits of a word, for arithmetic with addresses.
const CHUNK_PAGES: u64 = PAGES as u64;
const WORD: u64 = BITS as u64;

/// The most bytes that an entry of two words takes in a B-tree, whose nodes are as
/// empty as they may be.
const ENTRY_BYTES: usize = 48;

/// The bytes that a bitmap takes, with the allocator's overhead.
const BITMAP_BYTES: usize = size_of::<Chunk>() + 8;

/// The most bytes that a chunk takes.
const CHUNK_BYTES: usize = ENTRY_BYTES + BITMAP_BYTES;

/// A set of pages, in units of guest page state ([`PAGE_SIZE`](crate::PAGE_SIZE), 4 KiB).
///
/// Methods that take a range apply to every page that the range touches. The set
/// yields ranges of whole pages, unless they are cut to a range with half pages.
///
/// # Size
///
/// The set stores chunks of 16 MiB that it contains as a whole as ranges, and chunks
/// that it contains in part as bitmaps. It takes at most 576 bytes for each chunk that
/// it reaches into, or 36 MiB for each TiB, whichever pages it contains. That is 1.125
/// bits for each page.
///
/// A guest that chooses the addresses of the pages also chooses the number of chunks.
/// [`has_room`](Self::has_room) checks a limit.
///
/// ```
/// use guest_ranges::{AddrRange, PageSet};
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
    /// The chunks that are in the set in part.
    mixed: BTreeMap<u64, Box<Chunk>>,
}

impl PageSet {
    /// The most bytes that the set can take for each TiB that it reaches into.
    pub const MAX_BYTES_PER_TIB: usize = 36 << 20;

    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        // A mixed chunk has at least one page in the set.
        self.whole.is_empty() && self.mixed.is_empty()
    }

    /// All pages of the set, as the fewest ranges, by address.
    pub fn iter(&self) -> impl Iterator<Item = AddrRange> + '_ {
        self.within(AddrRange::ALL)
    }

    /// The parts of `range` that are in the set, as the fewest ranges, by
    /// address.
    pub fn within(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        // Most ranges are of few pages, and so inside one chunk. The iterator over
        // several is large: in a box, it costs nothing where it is not needed.
        let chunks = chunks_of(range);
        let number = chunks.start();
        if number != chunks.last() {
            return Parts::Several(Box::new(self.within_chunks(range)));
        }
        match self.mixed.get(&number) {
            Some(chunk) => Parts::Chunk(Runs {
                chunk,
                number,
                from: page_in_chunk(range.start()),
                to: page_in_chunk(range.last()),
                clip: range,
            }),
            None => Parts::Whole(self.whole.contains(number).then_some(range)),
        }
    }

    fn within_chunks(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        let chunks = chunks_of(range);
        let whole = self.whole.within(chunks).filter_map(addresses_of_chunks);
        let mixed = self.mixed.range(chunks.start()..=chunks.last());
        let mixed = mixed.flat_map(move |(&number, chunk)| {
            let from = (number == chunks.start()).then(|| page_in_chunk(range.start()));
            let to = (number == chunks.last()).then(|| page_in_chunk(range.last()));
            Runs {
                chunk,
                number,
                from: from.unwrap_or(0),
                to: to.unwrap_or(PAGES - 1),
                clip: range,
            }
        });
        let parts = ByAddress {
            one: whole
                .filter_map(move |part| part.intersect(range))
                .peekable(),
            other: mixed.peekable(),
        };
        coalesce(parts)
    }

    /// The number of pages in the set, in units of 4 KiB.
    pub fn pages(&self) -> u128 {
        let mixed = self.mixed.values().map(|chunk| chunk.count() as u128);
        self.whole.count() * PAGES as u128 + mixed.sum::<u128>()
    }

    /// Whether the page at `address` is in the set.
    pub fn contains(&self, address: u64) -> bool {
        AddrRange::from_bounds(address, address).is_some_and(|only| self.covers(only))
    }

    /// Whether every page of `range` is in the set.
    pub fn covers(&self, range: AddrRange) -> bool {
        self.within(range).next() == Some(range)
    }

    /// Inserts every page that `range` touches.
    pub fn insert(&mut self, range: AddrRange) {
        self.set(range, true);
    }

    /// Removes every page that `range` touches.
    pub fn remove(&mut self, range: AddrRange) {
        self.set(range, false);
    }

    /// Inserts every page of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        for chunks in other.whole.iter() {
            self.set_chunks(chunks, true);
        }
        for (&number, chunk) in &other.mixed {
            self.insert_chunk(number, chunk.bitmap());
        }
    }

    /// Inserts the pages of a bitmap, such as a KVM dirty log, whose bits stand for host
    /// pages. Bit `n` is the page `n` pages of size `page` above the one that holds
    /// `first`. Only the first `pages` bits count, and only pages below 2^64.
    pub fn insert_bitmap(&mut self, first: u64, bitmap: &[u64], pages: u64, page: PageSize) {
        if page.bytes() == PAGE_SIZE {
            return self.insert_units(page.number(first), bitmap, pages);
        }
        let address = |number: u64| number.checked_mul(page.bytes());
        for run in bit_runs(bitmap, pages) {
            let start = page.number(first).checked_add(run.start).and_then(address);
            let Some(start) = start else { return };
            let size = u128::from(run.end - run.start) * u128::from(page.bytes());
            let more = u64::try_from(size - 1).unwrap_or(u64::MAX);
            let last = start.saturating_add(more);
            if let Some(range) = AddrRange::from_bounds(start, last) {
                self.insert(range);
            }
        }
    }

    /// Inserts the pages of a bitmap with a bit for each unit, from number `first` on.
    fn insert_units(&mut self, first: u64, bitmap: &[u64], pages: u64) {
        let bits = bitmap.len() as u64 * WORD;
        let Some(more) = pages.min(bits).checked_sub(1) else {
            return;
        };
        let last = first.saturating_add(more).min(u64::MAX / PAGE_SIZE);
        let source = Bits { bitmap, pages };
        for number in first / CHUNK_PAGES..=last / CHUNK_PAGES {
            let mut words: Bitmap = [0; PAGES / BITS];
            for (word, at) in words.iter_mut().zip((number * CHUNK_PAGES..).step_by(BITS)) {
                *word = match at.checked_sub(first) {
                    Some(from) => source.word_from(from),
                    // Pages below the first have no bits.
                    None if first - at < WORD => source.word_from(0) << (first - at),
                    None => 0,
                };
            }
            self.insert_chunk(number, &words);
        }
    }

    /// Removes every page that `range` touches. Returns the removed pages.
    pub fn take(&mut self, range: AddrRange) -> Self {
        let chunks = chunks_of(range);
        let mut taken = Self::new();
        for part in self.whole.within(chunks) {
            taken.whole.insert(part);
        }
        self.whole.remove(chunks);
        let mixed = self.mixed.range(chunks.start()..=chunks.last());
        let mixed: Vec<u64> = mixed.map(|(&number, _)| number).collect();
        for number in mixed {
            taken.mixed.extend(self.mixed.remove_entry(&number));
        }
        // Chunks move as a whole. The pages of the outer two that are outside the
        // range go back.
        let first = AddrRange::from_bounds(chunks.start(), chunks.start());
        let last = AddrRange::from_bounds(chunks.last(), chunks.last());
        let outer = [first, last].into_iter().flatten();
        let outer = outer.filter_map(addresses_of_chunks);
        for outside in outer.flat_map(|chunk| gaps(chunk, [whole_pages(range)])) {
            let kept = taken.clipped(outside);
            taken.remove(outside);
            self.insert_all(&kept);
        }
        taken
    }

    /// The set of the pages of this set that `range` touches.
    #[must_use]
    pub fn clipped(&self, range: AddrRange) -> Self {
        let chunks = chunks_of(range);
        let mut clipped = Self::new();
        for part in self.whole.within(chunks) {
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

    /// The most bytes that the set takes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.whole.len() * ENTRY_BYTES + self.mixed.len() * CHUNK_BYTES
    }

    /// Whether the set with `range` inserted would take at most `limit` bytes on the
    /// heap, whichever pages are removed later.
    pub fn has_room(&self, range: AddrRange, limit: usize) -> bool {
        let chunks = chunks_of(range);
        let most = (limit / CHUNK_BYTES) as u128;
        let reached = self.whole.count() + self.mixed.len() as u128;
        // Chunks that are in the set already are counted only if that matters.
        let new = chunks.size();
        reached + new <= most || reached + new - self.reached_of(chunks) <= most
    }

    /// The number of given chunks that the set reaches into.
    fn reached_of(&self, chunks: AddrRange) -> u128 {
        let whole = self.whole.within(chunks).map(AddrRange::size);
        let mixed = self.mixed.range(chunks.start()..=chunks.last());
        whole.sum::<u128>() + mixed.count() as u128
    }

    fn set(&mut self, range: AddrRange, is_in: bool) {
        if !is_in && self.is_empty() {
            return;
        }
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
        // There is no chunk between two neighbours.
        if let Some(chunks) = AddrRange::from_bounds(first, last) {
            self.set_chunks(chunks, is_in);
        }
    }

    /// Inserts or removes whole chunks.
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

    /// Inserts pages of one chunk.
    fn insert_chunk(&mut self, number: u64, bitmap: &Bitmap) {
        if self.whole.contains(number) || bitmap.iter().all(|&word| word == 0) {
            return;
        }
        let chunk = self.mixed.entry(number);
        let chunk = chunk.or_insert_with(|| Box::new(Chunk::NONE));
        chunk.add(bitmap);
        let only = AddrRange::from_bounds(number, number);
        if let (true, Some(only)) = (chunk.is_all(), only) {
            self.set_chunks(only, true);
        }
    }

    /// Inserts or removes the pages from `from` to `to` of one chunk.
    fn set_in_chunk(&mut self, number: u64, from: usize, to: usize, is_in: bool) {
        let Some(only) = AddrRange::from_bounds(number, number) else {
            return;
        };
        let chunk = match self.mixed.entry(number) {
            Entry::Occupied(chunk) => chunk.into_mut(),
            Entry::Vacant(free) => match (self.whole.contains(number), is_in) {
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

/// A bitmap of which only the first bits count.
struct Bits<'a> {
    bitmap: &'a [u64],
    /// The number of bits that count.
    pages: u64,
}

impl Bits<'_> {
    /// 64 bits from bit `from` on.
    fn word_from(&self, from: u64) -> u64 {
        let (word, shift) = (from / WORD, from % WORD);
        match shift {
            0 => self.word(word),
            shift => self.word(word) >> shift | self.word(word + 1) << (WORD - shift),
        }
    }

    fn word(&self, number: u64) -> u64 {
        let word = usize::try_from(number).ok();
        let word = word.and_then(|number| self.bitmap.get(number));
        let counts = match self.pages.saturating_sub(number * WORD) {
            0 => 0,
            left => u64::MAX >> (WORD - left.min(WORD)),
        };
        word.copied().unwrap_or(0) & counts
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
fn whole_pages(range: AddrRange) -> AddrRange {
    let start = range.start() & !(PAGE_SIZE - 1);
    AddrRange::from_bounds(start, range.last() | (PAGE_SIZE - 1)).unwrap_or(range)
}

/// The number of the address's page in its chunk.
fn page_in_chunk(address: u64) -> usize {
    let page = address / PAGE_SIZE % PAGES as u64;
    // Below `PAGES`, which is a `usize`.
    usize::try_from(page).unwrap_or(PAGES - 1)
}

/// The parts of a range that are in a set.
enum Parts<'a, S> {
    /// Of a chunk that is in the set as a whole, or not at all.
    Whole(Option<AddrRange>),
    /// Of one chunk that is in it in part.
    Chunk(Runs<'a>),
    /// Of several chunks.
    Several(Box<S>),
}

impl<S: Iterator<Item = AddrRange>> Iterator for Parts<'_, S> {
    type Item = AddrRange;

    #[inline]
    fn next(&mut self) -> Option<AddrRange> {
        match self {
            Self::Whole(range) => range.take(),
            Self::Chunk(runs) => runs.next(),
            Self::Several(parts) => parts.next(),
        }
    }
}

/// The addresses that a chunk has in the set.
struct Runs<'a> {
    chunk: &'a Chunk,
    number: u64,
    /// The first and the last page that are still to be looked at.
    from: usize,
    to: usize,
    /// Runs are cut to this range.
    clip: AddrRange,
}

impl Iterator for Runs<'_> {
    type Item = AddrRange;

    #[inline]
    fn next(&mut self) -> Option<AddrRange> {
        if self.from > self.to {
            return None;
        }
        let first = self.chunk.next(self.from, self.to, true);
        if first > self.to {
            self.from = first;
            return None;
        }
        self.from = self.chunk.next(first, self.to, false);
        let address = |page: usize| self.number * CHUNK_SIZE + page as u64 * PAGE_SIZE;
        let last = address(self.from - 1) + (PAGE_SIZE - 1);
        AddrRange::from_bounds(address(first), last)?.intersect(self.clip)
    }
}

/// Merges two iterators by address.
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
