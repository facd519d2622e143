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

    /// Puts the pages from `first` to `last` in, or takes them out.
    #[inline]
    pub(crate) fn set(&mut self, first: usize, last: usize, is_in: bool) {
        let (low, high) = (first / BITS, last / BITS);
        let from_first = !0 << (first % BITS);
        let to_last = !0 >> (BITS - 1 - last % BITS);
        let changed = match low == high {
            true => change(&mut self.bits[low], from_first & to_last, is_in),
            false => {
                let between = self.bits[low + 1..high].iter_mut();
                let between = between.map(|word| change(word, !0, is_in));
                let between = between.sum::<usize>();
                let ends = change(&mut self.bits[low], from_first, is_in);
                between + ends + change(&mut self.bits[high], to_last, is_in)
            }
        };
        match is_in {
            true => self.count += changed,
            // They were counted, so this cannot go below zero.
            false => self.count -= changed,
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

    /// The first page from `from` to `to` that is in the set (or, with `is_in`
    /// false, is not); `to + 1` if there is none.
    #[inline]
    pub(crate) fn next(&self, from: usize, to: usize, is_in: bool) -> usize {
        let mut mask = !0 << (from % BITS);
        for word in from / BITS..=to / BITS {
            let bits = if is_in {
                self.bits[word]
            } else {
                !self.bits[word]
            };
            if bits & mask != 0 {
                let page = word * BITS + (bits & mask).trailing_zeros() as usize;
                return page.min(to + 1);
            }
            mask = !0;
        }
        to + 1
    }
}

/// Puts the pages of a mask in, or takes them out; returns how many changed.
#[inline]
fn change(word: &mut u64, mask: u64, is_in: bool) -> usize {
    let change = mask & if is_in { !*word } else { *word };
    *word ^= change;
    match change {
        u64::MAX => BITS,
        some => ones(some),
    }
}

fn ones(bits: u64) -> usize {
    bits.count_ones() as usize
}
