// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cuts the address space at every border of the map, and folds series of
//! similar stretches. Folding bounds the size of a picture of thousands of
//! regions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use super::row::Row;
use crate::map::Map;

/// The least number of repetitions that are folded.
const REPEATS: usize = 5;

/// The most stretches of one repetition.
const LONGEST_PERIOD: usize = 12;

/// The number of stretches that are drawn before and after a fold whose only
/// purpose is to limit their number.
const DRAWN: (usize, usize) = (84, 36);

/// A range of addresses without a border inside, or a fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first address.
    pub start: u128,
    /// The end address, exclusive.
    pub end: u128,
    /// Whether the stretch is a fold, whose inner borders are not drawn.
    pub folded: bool,
    /// Whether no region answers here.
    pub empty: bool,
}

/// All stretches, by address and without gaps.
#[derive(Debug)]
pub struct Stretches(pub Vec<Stretch>);

impl Stretches {
    /// Cuts the address space of a map, and folds it.
    pub fn of(map: &Map) -> Self {
        let mut items: Vec<Item> = Vec::new();
        let mut classes = Numbers::default();
        let mut item = |row: &dyn Row, silent| Item {
            start: row.start(),
            end: row.end(),
            class: classes.number(row.class()),
            silent,
        };
        items.extend(map.placed().iter().map(|row| item(row, true)));
        items.extend(map.flat.iter().map(|row| item(row, false)));
        items.extend(map.slots.iter().map(|row| item(row, true)));
        let (cells, patterns) = cells(&items);
        Self(limit(folded(&cells, &patterns)))
    }

    /// Returns the stretches that `start..end` covers, or `None` if all of them
    /// are inside one fold. A range that starts or ends inside a fold is drawn
    /// only outside it.
    pub fn span(&self, start: u128, end: u128) -> Option<Range<usize>> {
        let all = &self.0;
        let mut first = all.partition_point(|stretch| stretch.end <= start);
        if all
            .get(first)
            .is_some_and(|fold| fold.folded && fold.start < start)
        {
            first += 1;
        }
        let mut behind = all.partition_point(|stretch| stretch.start < end);
        if behind > 0 && all[behind - 1].folded && all[behind - 1].end > end {
            behind -= 1;
        }
        (first < behind).then_some(first..behind)
    }

    /// Returns the rows with the stretches that they cover. Rows inside a fold
    /// become one.
    pub fn place<'a, T: Row>(&self, rows: &'a [T]) -> Vec<Placed<'a, T>> {
        let mut placed = Vec::new();
        let mut in_folds: BTreeMap<usize, Vec<&T>> = BTreeMap::new();
        for row in rows {
            match self.span(row.start(), row.end()) {
                Some(span) => placed.push(Placed {
                    span,
                    rows: vec![row],
                }),
                None => {
                    let fold = self.0.partition_point(|stretch| stretch.end <= row.start());
                    in_folds.entry(fold).or_default().push(row);
                }
            }
        }
        placed.extend(in_folds.into_iter().map(|(fold, rows)| Placed {
            span: fold..fold + 1,
            rows,
        }));
        placed.sort_by_key(|placed| placed.span.start);
        placed
    }
}

/// A row, or the rows that a fold hides, and the stretches that they cover.
#[derive(Debug)]
pub struct Placed<'a, T> {
    /// Which stretches.
    pub span: Range<usize>,
    /// One row, or several rows in a fold.
    pub rows: Vec<&'a T>,
}

struct Item {
    start: u128,
    end: u128,
    /// Equal for all items of a series.
    class: usize,
    /// Whether a region answers. Only the flat view determines it.
    silent: bool,
}

/// Returns the stretches between borders, and a pattern number for each.
/// Stretches with the same content have the same number.
fn cells(items: &[Item]) -> (Vec<Stretch>, Vec<usize>) {
    let borders: BTreeSet<u128> = items
        .iter()
        .flat_map(|item| [item.start, item.end])
        .collect();
    let borders: Vec<u128> = borders.into_iter().collect();
    let mut events: BTreeMap<u128, Vec<(usize, bool, bool)>> = BTreeMap::new();
    for item in items {
        let class = item.class;
        events
            .entry(item.start)
            .or_default()
            .push((class, true, item.silent));
        events
            .entry(item.end)
            .or_default()
            .push((class, false, item.silent));
    }

    let mut patterns = Numbers::default();
    let mut here = Here::default();
    let mut answering = 0;
    let mut cells = Vec::new();
    let mut numbers = Vec::new();
    for border in borders.windows(2) {
        for &(class, begins, silent) in events.get(&border[0]).into_iter().flatten() {
            let step = if begins { 1 } else { -1 };
            here.change(class, step);
            answering += if silent { 0 } else { step };
        }
        cells.push(Stretch {
            start: border[0],
            end: border[1],
            folded: false,
            empty: answering == 0,
        });
        numbers.push(patterns.number((border[1] - border[0], here.digest)));
    }
    (cells, numbers)
}

/// The number of items of each class at an address.
#[derive(Default)]
struct Here {
    counts: HashMap<usize, i64>,
    /// The sum of a hash of each class with its count. Equal items have the
    /// same sum; different items have the same sum with a probability of
    /// 2^-128. Storing the items of each border would take quadratic memory.
    digest: u128,
}

impl Here {
    fn change(&mut self, class: usize, step: i64) {
        let count = self.counts.entry(class).or_default();
        self.digest = self.digest.wrapping_sub(digest(class, *count));
        *count += step;
        self.digest = self.digest.wrapping_add(digest(class, *count));
    }
}

/// Returns 0 for a class without items.
fn digest(class: usize, count: i64) -> u128 {
    let half = |which: u8| {
        let mut hasher = DefaultHasher::new();
        (which, class, count).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    match count > 0 {
        true => half(0) << 64 | half(1),
        false => 0,
    }
}

/// Assigns a number to each value. Equal values have the same number.
struct Numbers<T>(HashMap<T, usize>);

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Numbers<T> {
    fn number(&mut self, thing: T) -> usize {
        let next = self.0.len();
        *self.0.entry(thing).or_insert(next)
    }
}

/// Folds repetitions, except for those at the beginning and at the end.
fn folded(cells: &[Stretch], patterns: &[usize]) -> Vec<Stretch> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < cells.len() {
        let series = (1..=LONGEST_PERIOD).map(|period| (period, repeats(&patterns[at..], period)));
        let series = series.filter(|(_, repeats)| *repeats >= REPEATS);
        // The longest series wins; among equals, the one with the shortest
        // period.
        let longest = series.max_by_key(|&(period, repeats)| (period * repeats, repeats));
        let Some((period, repeats)) = longest else {
            out.push(cells[at]);
            at += 1;
            continue;
        };
        let before = match period {
            1 => 2,
            _ => period,
        };
        let end = at + period * repeats;
        out.extend(&cells[at..at + before]);
        out.push(merged(&cells[at + before..end - period]));
        out.extend(&cells[end - period..end]);
        at = end;
    }
    out
}

/// Returns how often the first `period` patterns repeat in a row.
fn repeats(patterns: &[usize], period: usize) -> usize {
    let shifted = patterns.iter().skip(period);
    let same = patterns
        .iter()
        .zip(shifted)
        .take_while(|(a, b)| a == b)
        .count();
    match patterns.len() < period {
        true => 0,
        false => same / period + 1,
    }
}

/// Limits the number of stretches to what a reader can take in.
fn limit(stretches: Vec<Stretch>) -> Vec<Stretch> {
    let (before, behind) = DRAWN;
    if stretches.len() <= before + behind + 1 {
        return stretches;
    }
    let end = stretches.len() - behind;
    let mut out = stretches[..before].to_vec();
    out.push(merged(&stretches[before..end]));
    out.extend(&stretches[end..]);
    out
}

fn merged(stretches: &[Stretch]) -> Stretch {
    Stretch {
        start: stretches.first().map_or(0, |first| first.start),
        end: stretches.last().map_or(0, |last| last.end),
        folded: true,
        empty: stretches.iter().all(|stretch| stretch.empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(count: u32) -> Vec<Stretch> {
        let stretch = |n| Stretch {
            start: u128::from(n) * 16,
            end: u128::from(n + 1) * 16,
            folded: false,
            empty: false,
        };
        (0..count).map(stretch).collect()
    }

    #[test]
    fn a_series_keeps_its_beginning_and_its_end() {
        let out = folded(&plain(12), &[7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8]);
        let folds: Vec<_> = out
            .iter()
            .filter(|s| s.folded)
            .map(|s| (s.start, s.end))
            .collect();
        assert_eq!(folds, [(3 * 16, 10 * 16)]);
        assert_eq!(out.len(), 6);
    }

    #[test]
    fn a_pattern_of_several_stretches_is_a_series_too() {
        let patterns: Vec<usize> = (0..31).map(|n| n % 3).collect();
        let out = folded(&plain(31), &patterns);
        let folds: Vec<_> = out
            .iter()
            .filter(|s| s.folded)
            .map(|s| (s.start, s.end))
            .collect();
        assert_eq!(folds, [(3 * 16, 27 * 16)]);
    }

    #[test]
    fn irregular_stretches_are_drawn_up_to_a_limit() {
        let patterns: Vec<usize> = (0..1000).collect();
        let out = limit(folded(&plain(1000), &patterns));
        assert_eq!(out.len(), DRAWN.0 + DRAWN.1 + 1);
        assert_eq!((out[0].start, out[out.len() - 1].end), (0, 16_000));
        assert!(out.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn a_range_that_begins_inside_a_fold_is_drawn_outside_it() {
        let mut all = plain(5);
        all[2].folded = true;
        let all = Stretches(all);
        assert_eq!(all.span(16, 64), Some(1..4));
        assert_eq!(all.span(40, 64), Some(3..4));
        assert_eq!(all.span(16, 40), Some(1..2));
        assert_eq!(all.span(36, 40), None);
        assert_eq!(all.span(32, 40), None);
    }
}
