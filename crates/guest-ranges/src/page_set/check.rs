// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Consistency check of a set of pages.

use super::{CHUNK_SIZE, PageSet};
use core::fmt;

use crate::addr_range::AddrRange;

/// The number of the last chunk.
const LAST_CHUNK: u64 = u64::MAX / CHUNK_SIZE;

/// An inconsistency of a set, which is a bug in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidSet {
    /// An address near the inconsistency.
    pub at: u64,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for InvalidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x}: {}", self.at, self.what)
    }
}

impl core::error::Error for InvalidSet {}

impl PageSet {
    /// Checks every range and every bitmap of the set, for tests.
    ///
    /// # Errors
    /// [`InvalidSet`]. No use of the set makes the check fail.
    pub fn check(&self) -> Result<(), InvalidSet> {
        let address = |chunk: u64| chunk.saturating_mul(CHUNK_SIZE);
        if let Some(chunk) = self.whole.first_wrong() {
            let what = "ranges of chunks overlap, touch, or are not counted";
            return Err(invalid(address(chunk), what));
        }
        let behind = AddrRange::from_bounds(LAST_CHUNK + 1, u64::MAX);
        let behind = behind.and_then(|behind| self.whole.within(behind).next());
        let last = self.mixed.keys().next_back();
        if behind.is_some() || last.is_some_and(|&last| last > LAST_CHUNK) {
            return Err(invalid(u64::MAX, "a chunk behind the last one"));
        }
        for (&number, chunk) in &self.mixed {
            let only = AddrRange::from_bounds(number, number);
            let what = match only.is_some_and(|only| self.whole.covers(only)) {
                true => "a chunk is in it as a whole and in part",
                false if !chunk.is_counted() => "a bitmap's pages are not as many as is recorded",
                false if chunk.is_none() => "a bitmap of no page",
                false if chunk.is_all() => "a bitmap of all pages of a chunk",
                false => continue,
            };
            return Err(invalid(address(number), what));
        }
        Ok(())
    }
}

fn invalid(at: u64, what: &'static str) -> InvalidSet {
    InvalidSet { at, what }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use super::*;
    use crate::page_chunk::{Chunk, PAGES};
    use crate::page_range::PAGE_SIZE;

    /// The chunks 2 and 3 as a whole, and a page of chunk 7.
    fn set() -> PageSet {
        let mut set = PageSet::new();
        set.insert(AddrRange::new(2 * CHUNK_SIZE, 2 * u128::from(CHUNK_SIZE)).unwrap());
        set.insert(AddrRange::new(7 * CHUNK_SIZE, PAGE_SIZE.into()).unwrap());
        set
    }

    #[track_caller]
    fn wrong(set: &PageSet, chunk: u64, what: &str) {
        let broken = set.check().unwrap_err();
        assert_eq!(broken.at, chunk * CHUNK_SIZE);
        assert!(broken.what.contains(what), "{broken:?}");
    }

    #[test]
    fn a_set_that_is_as_it_should_be_passes() {
        assert_eq!(set().check(), Ok(()));
        let mut all = PageSet::new();
        all.insert(AddrRange::ALL);
        assert_eq!(all.check(), Ok(()));
        all.remove(AddrRange::new(0, 1).unwrap());
        assert_eq!(all.check(), Ok(()));
    }

    #[test]
    fn a_chunk_that_is_held_twice_is_found() {
        let mut set = set();
        let half = |chunk: &mut Chunk| chunk.set(0, 7, true);
        let mut chunk = Chunk::NONE;
        half(&mut chunk);
        set.mixed.insert(3, Box::new(chunk));
        wrong(&set, 3, "as a whole and in part");
    }

    #[test]
    fn a_bitmap_that_should_be_none_is_found() {
        for (chunk, what) in [(Chunk::NONE, "no page"), (Chunk::ALL, "all pages")] {
            let mut set = set();
            set.mixed.insert(9, Box::new(chunk));
            wrong(&set, 9, what);
        }
    }

    #[test]
    fn a_bitmap_that_is_miscounted_is_found() {
        let mut set = set();
        let mut chunk = Chunk::ALL;
        chunk.set(1, PAGES - 1, false);
        chunk.miscount();
        set.mixed.insert(8, Box::new(chunk));
        wrong(&set, 8, "not as many as is recorded");
    }

    #[test]
    fn a_chunk_that_there_is_not_is_found() {
        let mut set = set();
        set.whole
            .insert(AddrRange::from_bounds(LAST_CHUNK, LAST_CHUNK + 1).unwrap());
        assert!(set.check().unwrap_err().what.contains("behind the last"));
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_found() {
        for (start, last) in [(4, 5), (3, 4), (2, 2)] {
            let mut set = set();
            set.whole.insert_unjoined(start, last);
            assert!(set.check().unwrap_err().what.contains("ranges of chunks"));
        }
    }
}
