// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which region each alias shows, though a dump gives only its name.
//!
//! QEMU prints a `memory-region:` block for each region that some alias shows,
//! in the order in which it first met such an alias. So where several regions
//! share a name, the order of the aliases tells them apart:
//!
//! 1. The target has the alias's target name and prints as the same type.
//! 2. The first alias of a name shows the first block of that name.
//! 3. The n-th alias called A that shows a region called T shows the n-th T,
//!    if that one's block was met already, or is the next one to be met. (A
//!    PCI bridge is one alias of each name; the next bridge has the next T.)
//! 4. Otherwise it shows the latest T that was met.

use std::collections::HashMap;

use super::error::Fault;
use super::identity::Identity;
use super::line::{Type, cut};
use super::parse::Dump;

/// The blocks of one name and type.
#[derive(Default)]
struct Targets {
    /// In the order of the blocks.
    roots: Vec<usize>,
    /// How many of them some alias met already.
    met: usize,
}

/// The target of each region that is an alias and stands for itself.
pub(super) fn targets(dump: &Dump, identity: &Identity) -> Result<Vec<Option<usize>>, Fault> {
    type Key<'a> = (&'a str, Type);
    let mut known: HashMap<Key<'_>, Targets> = HashMap::new();
    for &root in &dump.targets {
        let region = &dump.regions[root];
        let key = (&*region.name, region.kind);
        known.entry(key).or_default().roots.push(root);
    }
    // Which block is met next, among all.
    let mut next_met = 0;
    let mut seen: HashMap<(&str, Key<'_>), usize> = HashMap::new();
    let mut found = vec![None; dump.regions.len()];
    for (index, region) in dump.regions.iter().enumerate() {
        let Some(alias) = &region.alias else { continue };
        let index = identity.same(index);
        if found[index].is_some() {
            continue;
        }
        let key = (&*alias.target, region.kind);
        let no_target = || {
            let what = format!(
                "alias '{}' of type {}; expected a 'memory-region:' block of '{}' with that type",
                cut(&region.name),
                region.kind.word(),
                cut(&alias.target)
            );
            Fault::new(region.line, what)
        };
        let targets = known.get_mut(&key).ok_or_else(no_target)?;
        let nth = seen.entry((&*region.name, key)).or_insert(0);
        let fresh = targets.roots.get(targets.met).copied();
        let is_next = fresh.is_some() && fresh == dump.targets.get(next_met).copied();
        let root = if *nth < targets.met {
            targets.roots[*nth]
        } else if let Some(fresh) = fresh.filter(|_| targets.met == 0 || is_next) {
            targets.met += 1;
            next_met += usize::from(is_next);
            fresh
        } else {
            let latest = targets.met.checked_sub(1);
            *latest
                .and_then(|latest| targets.roots.get(latest))
                .ok_or_else(no_target)?
        };
        *nth += 1;
        found[index] = Some(identity.same(root));
    }
    Ok(found)
}
