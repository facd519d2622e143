// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds the target of each alias. A dump contains only the target's name.
//!
//! QEMU prints a `memory-region:` block for each target of an alias, in the
//! order in which it first visits such an alias. If several regions share a
//! name, the order of the aliases distinguishes them:
//!
//! 1. The target's name is the alias's target name, and both print the same
//!    type.
//! 2. The first alias of a name shows the first block of that name.
//! 3. The regions visible through an alias decide, as `windows` describes.
//! 4. The n-th alias called A with a target called T shows the n-th T, if that
//!    block was visited already or is the next one to visit. (A PCI bridge has
//!    one alias of each name; the next bridge has the next T.)
//! 5. Otherwise the alias shows the T that was visited last.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::identity::Identity;
use super::windows::assigned::Suits;
use super::windows::fits::filled;
use super::windows::{Trees, Window};
use crate::error::Fault;
use crate::parse::dump::{Drawn, Dump};
use crate::parse::line::cut;
use crate::region_type::RegionType;

/// What an alias states about its target: name and type.
type Key<'a> = (&'a str, RegionType);

/// An alias, once for all its drawings.
struct Alias<'a> {
    index: usize,
    /// The first drawing.
    drawn: &'a Drawn,
    key: Key<'a>,
    /// Its position among the aliases with the same name and key, from 0.
    nth: usize,
    /// A number for its name and key.
    class: usize,
}

/// Returns the target of each canonical region that is an alias.
pub(crate) fn targets(dump: &Dump, identity: &Identity) -> Result<Vec<Option<usize>>, Fault> {
    let mut blocks = Blocks::of(dump);
    let aliases = aliases(dump, identity);
    let (windows, window_of) = windows(&aliases, &blocks);
    let trees = Trees::of(dump, identity);
    let mut settled = HashMap::new();
    for (&key, windows) in &windows {
        settled.insert(key, filled(&trees, windows));
    }

    let mut found = vec![None; dump.regions.len()];
    for (number, alias) in aliases.iter().enumerate() {
        let window = window_of.get(&number).zip(settled.get_mut(&alias.key));
        let root = match window {
            None => blocks.choose(alias, None),
            Some((&at, (known, assigned))) => known[at].or_else(|| {
                let window = &windows[&alias.key][at];
                let root = blocks.choose(alias, Some(&|root| assigned.suits(window, root)));
                root.inspect(|&root| assigned.assign(window, root))
            }),
        };
        let root = root.ok_or_else(|| no_target(alias))?;
        blocks.visit(root);
        found[alias.index] = Some(identity.canonical(root));
    }
    Ok(found)
}

/// The most pairs of an alias and a candidate target that are compared. 256 PCI
/// buses have fewer. Beyond this limit, only the order of the dump decides.
const MAX_PAIRS: usize = 1 << 18;
/// The most pairs of an alias and a child of a candidate target that are
/// compared.
const MAX_COMPARED: usize = 1 << 22;

/// Returns the aliases that rule 3 applies to, by key, and the index of each in
/// that list by the number of the alias.
fn windows<'a>(
    aliases: &[Alias<'a>],
    blocks: &Blocks<'a>,
) -> (HashMap<Key<'a>, Vec<Window>>, HashMap<usize, usize>) {
    let mut members: HashMap<usize, usize> = HashMap::new();
    for alias in aliases {
        *members.entry(alias.class).or_default() += 1;
    }
    let (mut windows, mut window_of) = (HashMap::new(), HashMap::new());
    let (mut pairs, mut compared) = (0, 0);
    for (number, alias) in aliases.iter().enumerate() {
        let targets = blocks.named(&alias.key);
        if targets.len() > 1 && members[&alias.class] <= targets.len() {
            let children = |&root: &usize| blocks.dump.regions[root].children.len();
            pairs += targets.len();
            compared += targets.iter().map(children).sum::<usize>();
            let windows: &mut Vec<Window> = windows.entry(alias.key).or_default();
            window_of.insert(number, windows.len());
            windows.push(Window {
                alias: alias.index,
                class: alias.class,
                targets: targets.to_vec(),
            });
        }
        if pairs > MAX_PAIRS || compared > MAX_COMPARED {
            return Default::default();
        }
    }
    (windows, window_of)
}

/// Returns all aliases in the order of their first drawings.
fn aliases<'a>(dump: &'a Dump, identity: &Identity) -> Vec<Alias<'a>> {
    let mut seen = HashSet::new();
    let mut classes = HashMap::new();
    let mut members: Vec<usize> = Vec::new();
    let mut aliases = Vec::new();
    for (index, drawn) in dump.regions.iter().enumerate() {
        let Some(alias) = &drawn.alias else { continue };
        let index = identity.canonical(index);
        if !seen.insert(index) {
            continue;
        }
        let key = (&*alias.target, drawn.kind);
        let class = *classes.entry((&*drawn.name, key)).or_insert(members.len());
        if class == members.len() {
            members.push(0);
        }
        aliases.push(Alias {
            index,
            drawn,
            key,
            nth: members[class],
            class,
        });
        members[class] += 1;
    }
    aliases
}

fn no_target(alias: &Alias<'_>) -> Fault {
    let what = format!(
        "alias '{}' of type {}; expected a 'memory-region:' block of '{}' with that type",
        cut(&alias.drawn.name),
        alias.drawn.kind.word(),
        cut(alias.key.0)
    );
    Fault::new(alias.drawn.line, what)
}

/// The blocks, and which of them were visited.
struct Blocks<'a> {
    dump: &'a Dump,
    by_key: HashMap<Key<'a>, Named>,
    visited: HashSet<usize>,
    /// The index of the first block that was not visited.
    next: usize,
}

/// The blocks of one name and type.
#[derive(Default)]
struct Named {
    roots: Vec<usize>,
    /// The number of visited roots before the first unvisited one.
    fresh: usize,
    /// The visited root that is last in the order of the dump.
    latest: Option<usize>,
}

impl<'a> Blocks<'a> {
    fn of(dump: &'a Dump) -> Self {
        let mut by_key: HashMap<Key<'_>, Named> = HashMap::new();
        for &root in &dump.targets {
            let key = key(&dump.regions[root]);
            by_key.entry(key).or_default().roots.push(root);
        }
        Self {
            dump,
            by_key,
            visited: HashSet::new(),
            next: 0,
        }
    }

    fn named(&self, key: &Key<'a>) -> &[usize] {
        self.by_key.get(key).map_or(&[], |named| &named.roots)
    }

    fn visit(&mut self, root: usize) {
        self.visited.insert(root);
        let is_visited =
            |root: Option<&usize>| root.is_some_and(|root| self.visited.contains(root));
        while is_visited(self.dump.targets.get(self.next)) {
            self.next += 1;
        }
        if let Some(named) = self.by_key.get_mut(&key(&self.dump.regions[root])) {
            while is_visited(named.roots.get(named.fresh)) {
                named.fresh += 1;
            }
            // Blocks are numbered in the order of the dump.
            named.latest = named.latest.max(Some(root));
        }
    }

    /// Returns the target of an alias by rules 4 and 5. With `suits`, returns
    /// the first by these rules among the targets that suit the alias best.
    fn choose(&self, alias: &Alias<'_>, suits: Option<&dyn Fn(usize) -> Suits>) -> Option<usize> {
        let named = self.by_key.get(&alias.key)?;
        let is_visited = |root: &usize| self.visited.contains(root);
        let fresh = named.roots.get(named.fresh).copied();
        let is_next = fresh.is_some() && fresh == self.dump.targets.get(self.next).copied();
        let fresh = fresh.filter(|_| named.latest.is_none() || is_next);
        let at_nth = named.roots.get(alias.nth).copied().filter(is_visited);
        let by_order = at_nth.or(fresh).or(named.latest);
        let Some(suits) = suits else { return by_order };
        let visited = named.roots.iter().copied().filter(is_visited);
        let all = by_order.into_iter().chain(visited).chain(fresh);
        let all = all.chain(named.roots.iter().copied());
        all.min_by_key(|&root| Reverse(suits(root)))
    }
}

fn key(region: &Drawn) -> Key<'_> {
    (&region.name, region.kind)
}
