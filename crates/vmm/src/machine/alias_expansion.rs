// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counts the regions that the address space shows: aliases of aliases multiply.

use super::spec::{Kind, Region};

/// For each region, how many regions are visited to show it: itself, the regions
/// in it and, for an alias, its target, each as often as it is met. `pieces` are
/// the parts that each region is cut into. The count is a lower bound where
/// regions show themselves, which the region tree refuses.
pub(super) fn shown(regions: &[Region], pieces: &[u64]) -> Vec<u64> {
    let inside = inside(regions);
    let mut shown = vec![None; regions.len()];
    let mut begun = vec![false; regions.len()];
    // The regions that a region shows are counted before the region itself.
    let mut stack = vec![0];
    while let Some(&index) = stack.last() {
        if !std::mem::replace(&mut begun[index], true) {
            stack.extend(inside[index].iter().filter(|&&next| !begun[next]));
            continue;
        }
        stack.pop();
        if shown[index].is_none() {
            let counts = inside[index].iter().filter_map(|&next| shown[next]);
            shown[index] = Some(counts.fold(1 + pieces[index], u64::saturating_add));
        }
    }
    shown.into_iter().map(|count| count.unwrap_or(0)).collect()
}

/// The regions that each one shows directly.
fn inside(regions: &[Region]) -> Vec<Vec<usize>> {
    let mut inside = vec![Vec::new(); regions.len()];
    for (index, region) in regions.iter().enumerate() {
        if let Some(place) = region.place {
            inside[place.parent].push(index);
        }
        if let Kind::Alias { target, .. } = region.kind {
            inside[index].push(target);
        }
    }
    inside
}
