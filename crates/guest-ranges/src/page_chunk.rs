// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A chunk of adjacent pages, with one bit for each page.

/// The number of pages in a chunk. The bitmap of 512 bytes is large compared to its
/// overhead: a map's entry and an allocation's header.
pub(crate) const PAGES: usize = 4096;

pub(crate) const BITS: usize = 64;

/// A bit for each page of a chunk.
pub(crate) type Bitmap = [u64; PAGES / BITS];

/// The pages of a chunk that are in a set.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    bits: Bitmap,
    /// The number of set bits.
    count: usize,
}

impl Chunk {
    pub(crate) const NONE: Self = Self {
        bits: [0; PAGES / BITS],
        count: 0,
    };
    pub(crate) const ALL: Self = Self {
        bits: [!0; PAGES / BITS],
        count: PAGES,
    };

    pub(crate) fn is_none(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_all(&self) -> bool {
        self.count == PAGES
    }

    /// Whether the recorded number of bits is correct.
    pub(crate) fn is_counted(&self) -> bool {
        self.count == self.bits.iter().map(|&word| ones(word)).sum::<usize>()
    }

    /// Records one page too many.
    #[cfg(test)]
    pub(crate) fn miscount(&mut self) {
        self.count += 1;
    }

    /// Inserts or removes the pages from `first` to `last`.
    pub(crate) fn set(&mut self, first: usize, last: usize, is_in: bool) {
        for word in first / BITS..=last / BITS {
            let from = first.saturating_sub(word * BITS);
            let to = (last - word * BITS).min(BITS - 1);
            let mask = (!0 << from) & (!0 >> (BITS - 1 - to));
            let old = self.bits[word];
            let new = if is_in { old | mask } else { old & !mask };
            self.bits[word] = new;
            // Removed pages were counted, so this cannot go below zero.
            self.count -= ones(old & !new);
            self.count += ones(new & !old);
        }
    }

    /// Adds the pages of a bitmap.
    pub(crate) fn add(&mut self, bitmap: &Bitmap) {
        for (word, more) in self.bits.iter_mut().zip(bitmap) {
            self.count += ones(more & !*word);
            *word |= more;
        }
    }

    /// The bitmap.
    pub(crate) fn bitmap(&self) -> &Bitmap {
        &self.bits
    }

    /// The number of pages in the set.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The first page from `from` on that is in the set, or is not if `is_in` is false.
    /// [`PAGES`] if there is none.
    pub(crate) fn next(&self, from: usize, is_in: bool) -> usize {
        let mut mask = !0 << (from % BITS);
        for word in from / BITS..PAGES / BITS {
            let bits = if is_in {
                self.bits[word]
            } else {
                !self.bits[word]
            };
            if bits & mask != 0 {
                return word * BITS + (bits & mask).trailing_zeros() as usize;
            }
            mask = !0;
        }
        PAGES
    }
}

fn ones(bits: u64) -> usize {
    bits.count_ones() as usize
}
