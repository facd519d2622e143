// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stacks the regions of the tree. The picture shows the stack from the side:
//! each box covers the boxes to its left, and the guest sees the rightmost box.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use super::row::Row;
use super::stretch::{Placed, Stretches};
use crate::map::Map;
use crate::rows::{FlatRow, TreeRow};

/// The visible width of a container's edge. Its name is written upright there.
pub const CONTAINER_EDGE: i32 = 19;

/// The visible width of the edge of any other region under the box that covers
/// it.
const EDGE: i32 = 84;

/// The minimum width of the topmost box.
const TOPMOST: i32 = 130;

/// The most hidden regions that are drawn for the same addresses.
const HIDDEN: usize = 5;

/// The most hidden regions that are drawn in total.
const ALL_HIDDEN: usize = 400;

/// The drawing of a region, or of several in a fold.
#[derive(Debug)]
pub struct Sheet<'a> {
    /// The region, or several regions in a fold.
    pub rows: Vec<&'a TreeRow>,
    /// The stretches it covers.
    pub span: Range<usize>,
    /// The left edge.
    pub left: i32,
    /// The visible width of its edge.
    pub edge: i32,
    /// Whether the region and its ancestors are enabled.
    pub enabled: bool,
    /// The box in each stretch.
    pub reach: Vec<Reach>,
}

/// A box in one stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The right edge.
    pub right: i32,
    /// The left edge of the first box above it.
    pub clear: i32,
    /// Whether the guest reaches the region here.
    pub seen: bool,
}

/// All sheets, the lowest first.
#[derive(Debug)]
pub struct Stack<'a> {
    /// The boxes.
    pub sheets: Vec<Sheet<'a>>,
    /// The number of regions that are omitted because too many are hidden in
    /// the same place.
    pub left_out: usize,
}

impl Sheet<'_> {
    /// Whether the region is a container.
    pub fn is_container(&self) -> bool {
        matches!(*self.rows, [row] if row.kind == "container")
    }

    /// Returns neighbouring stretches in which the box has the same right edge.
    pub fn runs(&self) -> Vec<(Range<usize>, Reach)> {
        let mut runs: Vec<(Range<usize>, Reach)> = Vec::new();
        for (index, &reach) in self.span.clone().zip(&self.reach) {
            match runs.last_mut() {
                Some((run, same)) if *same == reach => run.end = index + 1,
                _ => runs.push((index..index + 1, reach)),
            }
        }
        runs
    }
}

impl<'a> Stack<'a> {
    /// Stacks the regions in a column `width` pixels wide.
    pub fn of(
        map: &'a Map,
        stretches: &Stretches,
        flat: &[Placed<'_, FlatRow>],
        width: i32,
    ) -> Self {
        let painted = painters_order(map.placed());
        let owners = owners(&painted, flat, stretches.0.len());
        let (mut sheets, left_out) = sheets(&painted, &owners, stretches);
        spread(&mut sheets, width);
        for index in 0..sheets.len() {
            sheets[index].reach = reach(&sheets, index, &owners, width);
        }
        Self { sheets, left_out }
    }
}

/// A region, and whether it and its ancestors are enabled.
#[derive(Clone, Copy)]
struct Painted<'a> {
    /// The index in [`Map::tree`].
    index: usize,
    row: &'a TreeRow,
    enabled: bool,
}

/// Returns the regions in painting order: parents before their children, and
/// each sibling after those that it hides. Disabled regions precede the enabled
/// siblings that they would cover.
fn painters_order(rows: &[TreeRow]) -> Vec<Painted<'_>> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
    let mut path: Vec<usize> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        path.truncate(row.depth);
        if let Some(&parent) = path.last() {
            children[parent].push(index);
        }
        path.push(index);
    }
    let mut out = Vec::new();
    let mut stack = Vec::from_iter((!rows.is_empty()).then_some((0, true)));
    while let Some((index, around)) = stack.pop() {
        let row = &rows[index];
        let enabled = around && row.enabled;
        out.push(Painted {
            index,
            row,
            enabled,
        });
        let mut inside = children[index].clone();
        inside.sort_by_key(|&child| (rows[child].priority, Reverse(rows[child].rank)));
        disabled_below(&mut inside, rows);
        stack.extend(inside.into_iter().rev().map(|child| (child, enabled)));
    }
    out
}

/// Moves disabled regions below the first enabled sibling that they would
/// cover. Containers do not count, because only their edges are visible.
fn disabled_below(siblings: &mut [usize], rows: &[TreeRow]) {
    for at in 0..siblings.len() {
        let row = &rows[siblings[at]];
        if row.enabled {
            continue;
        }
        let would_cover = |&other: &usize| {
            let other = &rows[other];
            let apart = other.last < row.start || row.last < other.start;
            other.enabled && other.kind != "container" && !apart
        };
        if let Some(to) = siblings[..at].iter().position(would_cover) {
            siblings[to..=at].rotate_right(1);
        }
    }
}

/// Returns the region that the flat view shows, per stretch.
fn owners<'a>(
    painted: &[Painted<'a>],
    flat: &[Placed<'_, FlatRow>],
    stretches: usize,
) -> Vec<Option<&'a TreeRow>> {
    let enabled = || painted.iter().filter(|painted| painted.enabled);
    let by_index: HashMap<usize, &TreeRow> = enabled()
        .map(|painted| (painted.index, painted.row))
        .collect();
    let aliases: Vec<&TreeRow> = enabled()
        .map(|painted| painted.row)
        .filter(|row| row.kind == "alias")
        .collect();
    let mut owners = vec![None; stretches];
    for placed in flat {
        let run = placed.rows[0];
        // If the region itself is not placed here, an alias shows it.
        let itself = run.tree_row.and_then(|index| by_index.get(&index).copied());
        let itself = itself.filter(|row| row.start + u128::from(run.offset) == run.start());
        let alias = aliases
            .iter()
            .rev()
            .find(|row| row.start <= run.start() && run.end() <= row.end());
        for stretch in placed.span.clone() {
            owners[stretch] = itself.or(alias.copied());
        }
    }
    owners
}

/// Returns the regions that are drawn, and the number of omitted ones.
fn sheets<'a>(
    painted: &[Painted<'a>],
    owners: &[Option<&TreeRow>],
    stretches: &Stretches,
) -> (Vec<Sheet<'a>>, usize) {
    let mut sheets: Vec<Sheet<'a>> = Vec::new();
    let mut folds: HashMap<usize, usize> = HashMap::new();
    let mut hidden: HashMap<Range<usize>, usize> = HashMap::new();
    let mut left_out = 0;
    for &Painted { row, enabled, .. } in painted {
        let Some(span) = stretches.span(row.start(), row.end()) else {
            let fold = stretches
                .0
                .partition_point(|stretch| stretch.end <= row.start());
            let sheet = *folds.entry(fold).or_insert(sheets.len());
            match sheets.get_mut(sheet) {
                Some(sheet) => sheet.rows.push(row),
                None => sheets.push(sheet_of(row, fold..fold + 1, enabled)),
            }
            continue;
        };
        let seen = owners[span.clone()]
            .iter()
            .flatten()
            .any(|owner| std::ptr::eq(*owner, row));
        let others = hidden.entry(span.clone()).or_default();
        *others += usize::from(!seen);
        match seen || *others <= HIDDEN && sheets.len() < ALL_HIDDEN {
            true => sheets.push(sheet_of(row, span, enabled)),
            false => left_out += 1,
        }
    }
    (sheets, left_out)
}

fn sheet_of(row: &TreeRow, span: Range<usize>, enabled: bool) -> Sheet<'_> {
    let edge = match row.kind {
        "container" => CONTAINER_EDGE,
        _ => EDGE,
    };
    Sheet {
        rows: vec![row],
        span,
        left: 0,
        edge,
        enabled,
        reach: Vec::new(),
    }
}

/// Moves each box to the right, so that the edges of all boxes below it are
/// visible.
fn spread(sheets: &mut [Sheet<'_>], width: i32) {
    for index in 0..sheets.len() {
        let (below, rest) = sheets.split_at_mut(index);
        let below = below
            .iter()
            .filter(|sheet| overlap(&sheet.span, &rest[0].span));
        rest[0].left = below
            .map(|sheet| sheet.left + sheet.edge)
            .max()
            .unwrap_or(0);
    }
    let furthest = sheets.iter().map(|sheet| sheet.left).max().unwrap_or(0);
    let room = width - TOPMOST;
    if furthest > room {
        for sheet in sheets {
            sheet.left = sheet.left * room / furthest;
            sheet.edge = sheet.edge * room / furthest;
        }
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Returns the extent of a box. A visible box extends to the end of the column,
/// and any other box to the box that covers it.
fn reach(
    sheets: &[Sheet<'_>],
    index: usize,
    owners: &[Option<&TreeRow>],
    width: i32,
) -> Vec<Reach> {
    let sheet = &sheets[index];
    let of = |stretch: usize| {
        let above = sheets[index + 1..]
            .iter()
            .filter(|above| above.span.contains(&stretch));
        let clear = above.map(|above| above.left).min().unwrap_or(width);
        let owned = owners[stretch]
            .is_some_and(|owner| sheet.rows.iter().any(|row| std::ptr::eq(*row, owner)));
        match owned {
            true => Reach {
                right: width,
                clear,
                seen: true,
            },
            false => Reach {
                right: clear,
                clear,
                seen: false,
            },
        }
    };
    sheet.span.clone().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::tests::{flat_row, map, tree_row};

    fn stacked(map: &Map) -> Vec<(String, i32, Vec<Reach>)> {
        let stretches = Stretches::of(map);
        let flat = stretches.place(&map.flat);
        let stack = Stack::of(map, &stretches, &flat, 300);
        let sheets = stack.sheets.into_iter();
        sheets
            .map(|sheet| (sheet.rows[0].name.clone(), sheet.left, sheet.reach))
            .collect()
    }

    #[test]
    fn the_winner_lies_furthest_right_and_covers_what_is_below() {
        let mut vga = tree_row(1, "vga", "mmio", 0x1000..0x2000);
        vga.priority = 1;
        let map = map(
            vec![
                tree_row(0, "system", "container", 0..0x4000),
                vga,
                tree_row(1, "ram", "ram", 0..0x4000),
            ],
            vec![
                flat_row("ram", 0, 0..0x1000),
                flat_row("vga", 0, 0x1000..0x2000),
                flat_row("ram", 0x2000, 0x2000..0x4000),
            ],
        );
        let seen = |right| Reach {
            right,
            clear: right,
            seen: true,
        };
        let under = |right| Reach {
            right,
            clear: right,
            seen: false,
        };
        let edge = CONTAINER_EDGE;
        let rows = stacked(&map);
        assert_eq!(rows[0], ("system".into(), 0, vec![under(edge); 3]));
        assert_eq!(
            rows[1],
            (
                "ram".into(),
                edge,
                vec![seen(300), under(edge + EDGE), seen(300)]
            )
        );
        assert_eq!(rows[2], ("vga".into(), edge + EDGE, vec![seen(300)]));
    }

    #[test]
    fn among_equal_priorities_the_winner_covers_the_others() {
        let mut old = tree_row(1, "old", "ram", 0..0x1_0000);
        old.rank = 1;
        let map = map(
            vec![
                tree_row(0, "system", "container", 0..0x1_0000),
                tree_row(1, "new", "mmio", 0..0x1000),
                old,
            ],
            vec![
                flat_row("new", 0, 0..0x1000),
                flat_row("old", 0x1000, 0x1000..0x1_0000),
            ],
        );
        let rows = stacked(&map);
        let names: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(names, ["system", "old", "new"]);
    }

    #[test]
    fn regions_of_the_same_name_are_distinct() {
        let mut map = map(
            vec![
                tree_row(0, "system", "container", 0..0x4000),
                tree_row(1, "ram", "ram", 0..0x1000),
                tree_row(1, "ram", "ram", 0x1000..0x4000),
            ],
            vec![
                flat_row("ram", 0, 0..0x1000),
                flat_row("ram", 0, 0x1000..0x4000),
            ],
        );
        map.flat[0].tree_row = Some(1);
        map.flat[1].tree_row = Some(2);
        let rows = stacked(&map);
        let seen = |row: &(String, i32, Vec<Reach>)| row.2.iter().all(|reach| reach.seen);
        assert!(seen(&rows[1]) && seen(&rows[2]), "{rows:?}");
    }

    #[test]
    fn the_target_of_an_alias_is_seen_in_the_alias() {
        let mut off = tree_row(1, "other", "alias", 0x1000..0x2000);
        off.enabled = false;
        let map = map(
            vec![
                tree_row(0, "system", "container", 0..0x4000),
                tree_row(1, "window", "alias", 0x1000..0x2000),
                off,
                tree_row(0, "ram", "ram", 0..0x4000),
            ],
            vec![flat_row("ram", 0x1000, 0x1000..0x2000)],
        );
        let rows = stacked(&map);
        let names: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(names, ["system", "other", "window"]);
        assert!(rows[2].2[0].seen);
        assert!(!rows[1].2[0].seen);
    }

    #[test]
    fn a_thousand_regions_in_one_place_are_not_all_drawn() {
        let mut tree = vec![tree_row(0, "system", "container", 0..0x4000)];
        tree.extend((0..1000).map(|n| tree_row(1, &format!("r{n}"), "ram", 0..0x1000)));
        let map = map(tree, vec![flat_row("r999", 0, 0..0x1000)]);
        let stretches = Stretches::of(&map);
        let flat = stretches.place(&map.flat);
        let stack = Stack::of(&map, &stretches, &flat, 300);
        assert_eq!(stack.sheets.len() + stack.left_out, 1001);
        assert!(stack.sheets.len() < 10);
        assert!(
            stack
                .sheets
                .iter()
                .any(|sheet| sheet.rows[0].name == "r999")
        );
        assert!(stack.sheets.iter().all(|sheet| sheet.left <= 300 - TOPMOST));
    }
}
