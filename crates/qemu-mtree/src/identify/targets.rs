// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which region each alias shows, though a dump gives only its name.
//!
//! QEMU prints a `memory-region:` block for each region that some alias shows,
//! in the order in which it first met such an alias. So where several regions
//! share a name, the order of the aliases tells them apart:
//!
//! 1. The target has the alias's target name and prints as the same type.
//! 2. The first alias of a name shows the first block of that name.
//! 3. What is seen through an alias decides, as `windows` says.
//! 4. The n-th alias called A that shows a region called T shows the n-th T,
//!    if that one's block was met already, or is the next one to be met. (A
//!    PCI bridge is one alias of each name; the next bridge has the next T.)
//! 5. Otherwise it shows the latest T that was met.

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

/// What is known of a target: its name and type.
type Key<'a> = (&'a str, RegionType);

/// An alias that stands for itself, or else for all drawings of it.
struct Alias<'a> {
    index: usize,
    /// Where it is drawn first.
    drawn: &'a Drawn,
    key: Key<'a>,
    /// Which of the aliases with its name and key it is, from 0.
    nth: usize,
    /// Its name and key, as a number.
    class: usize,
}

/// The target of each region that is an alias and stands for itself.
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
        blocks.meet(root);
        found[alias.index] = Some(identity.same(root));
    }
    Ok(found)
}

/// The most pairs of an alias and what it may show that are compared; 256 PCI
/// buses come to less. Beyond it, the order of the dump decides alone.
const MAX_PAIRS: usize = 1 << 18;
/// The same for aliases and the regions that lie in what they may show.
const MAX_COMPARED: usize = 1 << 22;

/// The aliases that rule 3 is about, by what they show; and for the number of
/// each, which of these it is.
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

/// All aliases, in the order in which they are first drawn.
fn aliases<'a>(dump: &'a Dump, identity: &Identity) -> Vec<Alias<'a>> {
    let mut seen = HashSet::new();
    let mut classes = HashMap::new();
    let mut members: Vec<usize> = Vec::new();
    let mut aliases = Vec::new();
    for (index, drawn) in dump.regions.iter().enumerate() {
        let Some(alias) = &drawn.alias else { continue };
        let index = identity.same(index);
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

/// The blocks, and which of them were met already.
struct Blocks<'a> {
    dump: &'a Dump,
    by_key: HashMap<Key<'a>, Named>,
    met: HashSet<usize>,
    /// The first block that was not met, among all.
    next: usize,
}

/// The blocks of one name and type.
#[derive(Default)]
struct Named {
    roots: Vec<usize>,
    /// How many were met before the first that was not.
    fresh: usize,
    /// The last in their order that was.
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
            met: HashSet::new(),
            next: 0,
        }
    }

    fn named(&self, key: &Key<'a>) -> &[usize] {
        self.by_key.get(key).map_or(&[], |named| &named.roots)
    }

    fn meet(&mut self, root: usize) {
        self.met.insert(root);
        let is_met = |root: Option<&usize>| root.is_some_and(|root| self.met.contains(root));
        while is_met(self.dump.targets.get(self.next)) {
            self.next += 1;
        }
        if let Some(named) = self.by_key.get_mut(&key(&self.dump.regions[root])) {
            while is_met(named.roots.get(named.fresh)) {
                named.fresh += 1;
            }
            // Blocks are numbered in their order.
            named.latest = named.latest.max(Some(root));
        }
    }

    /// The target of an alias by rules 4 and 5; if `suits` is known, the first
    /// by these rules of those that suit it best.
    fn choose(&self, alias: &Alias<'_>, suits: Option<&dyn Fn(usize) -> Suits>) -> Option<usize> {
        let named = self.by_key.get(&alias.key)?;
        let is_met = |root: &usize| self.met.contains(root);
        let fresh = named.roots.get(named.fresh).copied();
        let is_next = fresh.is_some() && fresh == self.dump.targets.get(self.next).copied();
        let fresh = fresh.filter(|_| named.latest.is_none() || is_next);
        let at_nth = named.roots.get(alias.nth).copied().filter(is_met);
        let by_order = at_nth.or(fresh).or(named.latest);
        let Some(suits) = suits else { return by_order };
        let met = named.roots.iter().copied().filter(is_met);
        let all = by_order.into_iter().chain(met).chain(fresh);
        let all = all.chain(named.roots.iter().copied());
        all.min_by_key(|&root| Reverse(suits(root)))
    }
}

fn key(region: &Drawn) -> Key<'_> {
    (&region.name, region.kind)
}
