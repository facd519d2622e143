// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of private pages: a set holds exactly the pages that a guest has
//! chosen, in no more memory than promised. Covers the sets of both libraries.

use kvm_slots::convert::{ConvertibleMemory, GuestPages, PageRange, PageState};
use memory_model::{AddrRange, PAGE_SIZE, PageSet};

use crate::input::Input;

const MAX_STEPS: usize = 48;
/// The pages that share a bitmap.
const CHUNK: u64 = 4096;
/// The number of pages at the start that are painted one by one.
const PAINTED: usize = 3 * 4096;
/// The set without ranges of chunks has only low pages: 32 GiB.
const LOW: u64 = 1 << 23;
const LAST: u64 = u64::MAX / PAGE_SIZE;

/// The promised memory for each chunk of 16 MiB with pages in the set.
const BYTES_PER_CHUNK: usize = PageSet::MAX_BYTES_PER_TIB >> 16;

/// A script of pages that become private and shared.
pub fn page_sets(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let mut sets = Sets::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let is_in = input.flag();
        let first = page(&mut input);
        if input.one_in(4) {
            // Scattered pages, as from a guest that wants the sets to be large.
            let stride = 2 + input.below(CHUNK + 2);
            for n in 0..input.below(200) {
                sets.set(first.saturating_add(n * stride), 1, is_in);
            }
        } else {
            sets.set(first, count(&mut input), is_in);
        }
        sets.check(&mut input);
    }
    sets.set(0, LAST + 1, false);
    assert_eq!(sets.of_model.heap_bytes(), 0);
    assert_eq!(sets.of_engine.heap_bytes(), 0);
    true
}

/// The same pages three times.
struct Sets {
    of_model: PageSet,
    of_engine: ConvertibleMemory,
    painted: Vec<bool>,
}

impl Sets {
    fn new() -> Self {
        Self {
            of_model: PageSet::new(),
            of_engine: ConvertibleMemory::new(),
            painted: vec![false; PAINTED],
        }
    }

    fn set(&mut self, first: u64, count: u64, is_in: bool) {
        let first = first.min(LAST);
        let last = first.saturating_add(count - 1).min(LAST);
        let range = pages(first, last);
        match is_in {
            true => self.of_model.insert(range),
            false => self.of_model.remove(range),
        }
        // The engine only handles existing memory, in which no page ends at
        // 2^64.
        let low = PageRange::new(
            first * PAGE_SIZE,
            (last.min(LOW) + 1).saturating_sub(first) * PAGE_SIZE,
        );
        if let (Ok(range), true) = (low, first < LOW) {
            let state = match is_in {
                true => PageState::Private,
                false => PageState::Shared,
            };
            self.of_engine.record(range, state);
        }
        let cell = |page: u64| usize::try_from(page).map_or(PAINTED, |page| page.min(PAINTED));
        self.painted[cell(first)..cell(last + 1)].fill(is_in);
    }

    fn check(&self, input: &mut Input<'_>) {
        assert!(self.of_model.heap_bytes() <= self.reached() * BYTES_PER_CHUNK);
        let all = PageRange::new(0, (LOW + 1) * PAGE_SIZE).expect("whole pages");
        let reached = all.pages().div_ceil(CHUNK);
        let most = usize::try_from(reached).map_or(usize::MAX, |n| n * BYTES_PER_CHUNK);
        assert!(self.of_engine.heap_bytes() <= most);

        let first = input.below(PAINTED as u64);
        let last = (first + input.below(300)).min(PAINTED as u64 - 1);
        let painted = |page: &u64| usize::try_from(*page).is_ok_and(|page| self.painted[page]);
        let painted: Vec<u64> = (first..=last).filter(painted).collect();
        let of_model = self.of_model.within(pages(first, last));
        let starts = |start: u64, size: u64| {
            (start / PAGE_SIZE..).take((size / PAGE_SIZE).try_into().unwrap_or(0))
        };
        let found = of_model.flat_map(|r| starts(r.start(), r.last() - r.start() + 1));
        assert!(found.eq(painted.iter().copied()));
        let range = PageRange::new(first * PAGE_SIZE, (last - first + 1) * PAGE_SIZE);
        let found = self.of_engine.private(range.expect("whole pages"));
        let found = found.flat_map(|r| starts(r.start(), r.size()));
        assert!(found.eq(painted.iter().copied()));
    }

    /// The number of chunks with pages in the model's set. A long range counts
    /// only as far as it matters.
    fn reached(&self) -> usize {
        let chunks = self.of_model.iter().map(|range| {
            let chunk = |address: u64| address / PAGE_SIZE / CHUNK;
            (chunk(range.start()), chunk(range.last()))
        });
        let (mut reached, mut seen) = (0_usize, None);
        for (first, last) in chunks {
            let new = last - first + u64::from(seen != Some(first));
            reached = reached.saturating_add(usize::try_from(new).unwrap_or(usize::MAX));
            seen = Some(last);
        }
        reached
    }
}

fn pages(first: u64, last: u64) -> AddrRange {
    let bounds = AddrRange::from_bounds(first * PAGE_SIZE, last * PAGE_SIZE + (PAGE_SIZE - 1));
    bounds.expect("the first page is not behind the last")
}

/// Mostly near the borders of chunks.
fn page(input: &mut Input<'_>) -> u64 {
    let near = input.below(8);
    match input.below(8) {
        0 => LAST - near,
        1 => input.number() % LAST,
        2 => input.below(LOW),
        3 => input.below(PAINTED as u64),
        n => ((n - 4) * CHUNK + near).saturating_sub(4),
    }
}

/// Mostly few.
fn count(input: &mut Input<'_>) -> u64 {
    match input.below(8) {
        0 => 1 + input.number() % LAST,
        1 => CHUNK,
        2 => 1 + input.below(3 * CHUNK),
        _ => 1 + input.below(70),
    }
}
