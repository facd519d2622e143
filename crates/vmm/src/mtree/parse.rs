// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From text to the trees that it draws, without knowing what they mean.

use std::collections::HashSet;

use super::error::Fault;
use super::line::{self, Name, RegionLine, Type, cut};
use super::paste::Paste;

/// The most bytes of text that are read.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// The most lines of regions; the largest real dumps have some hundreds.
const MAX_REGIONS: usize = 16_384;
/// The deepest level; real dumps have about ten.
const MAX_DEPTH: usize = 128;

/// A region as one line draws it. The same region is drawn several times: in
/// every address space that reaches it, and once more for being an alias's
/// target.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) kind: Type,
    /// Offset in the parent; of a root: in the region it lies in, or 0.
    pub(super) address: u64,
    /// 1 to 2^64. QEMU prints a size of 0 like one of 1.
    pub(super) size: u128,
    pub(super) priority: i32,
    pub(super) nonvolatile: bool,
    pub(super) disabled: bool,
    pub(super) alias: Option<Alias>,
    pub(super) parent: Option<usize>,
    pub(super) children: Vec<usize>,
}

/// What an alias says of its target.
#[derive(Debug)]
pub(super) struct Alias {
    pub(super) target: String,
    pub(super) offset: u64,
}

/// The address spaces that share one root.
#[derive(Debug)]
pub(super) struct Spaces {
    pub(super) names: Vec<String>,
    pub(super) root: usize,
}

/// A whole dump: regions in the order of their lines, so that a region and
/// all below it are one contiguous run.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) regions: Vec<Drawn>,
    pub(super) spaces: Vec<Spaces>,
    /// The roots of the `memory-region:` blocks: what aliases show.
    pub(super) targets: Vec<usize>,
}

/// What the line in front of a tree begins with.
pub(super) const HEADINGS: [&str; 2] = ["address-space: ", "memory-region: "];

/// What a tree is the tree of.
enum Heading<'a> {
    Spaces(Vec<String>),
    Target(&'a str),
}

struct Parser<'a> {
    dump: Dump,
    /// The heading, and the line that it is on, of a tree not yet begun.
    heading: Option<(usize, Heading<'a>)>,
    /// From the root of the current tree to its last region: index and where
    /// it starts.
    path: Vec<(usize, u64)>,
    /// The empty line, or the monitor's line, that ended the last tree if no
    /// heading has followed yet.
    gap: Option<(usize, &'static str)>,
    /// Aliases whose two names are not told apart yet.
    unsplit: Vec<(usize, &'a str)>,
}

/// Whether a line is none of a dump but the monitor's: what it greets with, or
/// its prompt with an echo of the command.
fn is_monitor(line: &str) -> bool {
    line.starts_with("(qemu)") || (line.starts_with("QEMU ") && line.contains(" monitor"))
}

/// What QEMU prints for `info mtree -f`, which has no trees.
const FLAT: &str = "this is `info mtree -f`, already flat; print `info mtree -D`";

/// Whether a line is one of a flat view's heading, quoted or not.
fn is_flat(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t', '>', '|']);
    let starts = ["FlatView #", "AS \"", "Root memory region: "];
    // With -d too.
    starts.iter().any(|start| line.starts_with(start)) || line == "Dispatch"
}

/// What QEMU prints for `info mtree -o`: names and owners cannot be distinguished.
const OWNED: &str = "this is `info mtree -o`, which also prints owners; print `info mtree -D`";

/// Whether a region's line ends with its owner.
fn is_owned(line: &str) -> bool {
    let has = |what: &str| line.contains(what);
    has(" (prio ") && line.ends_with('}') && (has(" owner:{") || has(" parent:{"))
}

/// The last line of a dump, unless it is the empty line or the prompt that QEMU
/// prints after the last tree.
pub(super) fn open_end(text: &str) -> Option<usize> {
    let last = text.lines().next_back()?;
    let line = last.trim_matches([' ', '\t', '>', '|', '\r']);
    let is_ended = line.is_empty() || is_monitor(line);
    (!is_ended).then(|| text.lines().count())
}

/// Reads a dump.
pub(super) fn parse(text: &str) -> Result<Dump, Fault> {
    let mut parser = Parser {
        dump: Dump {
            regions: Vec::new(),
            spaces: Vec::new(),
            targets: Vec::new(),
        },
        heading: None,
        path: Vec::new(),
        gap: None,
        unsplit: Vec::new(),
    };
    let paste = Paste::of(text);
    let mut number = 0;
    for line in text.lines() {
        number += 1;
        let line = paste.line(line).ok_or_else(|| {
            let what = format!("expected '{}' in front, as in other lines", paste.prefix);
            Fault::new(number, what)
        })?;
        parser.line(number, line)?;
    }
    parser.end(number.max(1))
}

impl<'a> Parser<'a> {
    fn line(&mut self, number: usize, line: &'a str) -> Result<(), Fault> {
        let fault = |what: String| Fault::new(number, what);
        if line.is_empty() || is_monitor(line) {
            return self.gap(number, line).map_err(fault);
        }
        if is_flat(line) {
            return Err(fault(FLAT.into()));
        }
        if is_owned(line) {
            return Err(fault(OWNED.into()));
        }
        if self.heading(number, line).map_err(fault)? {
            return Ok(());
        }
        let region = line::region(line).map_err(fault)?;
        match self.gap {
            Some((gap, what)) if region.depth > 0 && self.is_between_trees() => {
                let what = format!(
                    "{what} inside a tree; expected none, or the heading and root of another tree \
                     after it"
                );
                Err(Fault::new(gap, what))
            }
            _ => self.region(number, region).map_err(fault),
        }
    }

    fn is_between_trees(&self) -> bool {
        self.path.is_empty() && self.heading.is_none()
    }

    /// An empty line, or one of the monitor's: ends a tree.
    fn gap(&mut self, number: usize, line: &str) -> Result<(), String> {
        let what = match line.is_empty() {
            true => "empty line",
            false => "prompt",
        };
        if self.heading.is_some() {
            return Err(format!(
                "{what}; expected the region that the heading is of"
            ));
        }
        if HEADINGS.iter().any(|word| line.contains(word)) || line.contains(" (prio ") {
            return Err(format!("{what} in front of a line of the dump; remove it"));
        }
        if !self.path.is_empty() {
            self.gap = Some((number, what));
            self.path.clear();
        }
        Ok(())
    }

    /// Whether the line is the heading of a tree, of which it takes note.
    fn heading(&mut self, number: usize, line: &'a str) -> Result<bool, String> {
        if let Some(name) = line.strip_prefix(HEADINGS[0]) {
            self.path.clear();
            return match &mut self.heading {
                // QEMU prints all address spaces first.
                None if !self.dump.targets.is_empty() => {
                    Err("address-space after a memory-region; expected one dump only".into())
                }
                None => {
                    self.heading = Some((number, Heading::Spaces(vec![name.to_string()])));
                    Ok(true)
                }
                Some((_, Heading::Spaces(names))) => {
                    names.push(name.to_string());
                    Ok(true)
                }
                Some((_, Heading::Target(_))) => {
                    Err("address-space; expected the region of the memory-region before".into())
                }
            };
        }
        if let Some(name) = line.strip_prefix(HEADINGS[1]) {
            self.path.clear();
            if self.heading.is_some() {
                return Err("memory-region; expected the region of the heading before".into());
            }
            self.heading = Some((number, Heading::Target(name)));
            return Ok(true);
        }
        Ok(false)
    }

    fn region(&mut self, number: usize, line: RegionLine<'a>) -> Result<(), String> {
        let index = self.dump.regions.len();
        if index == MAX_REGIONS {
            return Err(format!("more than {MAX_REGIONS} regions"));
        }
        if line.depth >= MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} levels"));
        }
        if self.heading.is_some() && line.depth > 0 {
            return Err("expected the tree's root, with two spaces before it".into());
        }
        if self.heading.is_none() && (self.path.is_empty() || line.depth == 0) {
            return Err(
                "expected 'address-space: NAME' or 'memory-region: NAME' before a root".into(),
            );
        }
        if line.depth > self.path.len() {
            let most = 2 * (self.path.len() + 1);
            let spaces = 2 * (line.depth + 1);
            return Err(format!("{spaces} spaces; expected at most {most} here"));
        }
        self.path.truncate(line.depth);
        let parent = self.path.last().copied();
        let from = parent.map_or(0, |(_, start)| start);
        if !line.wrapped && line.start < from {
            return Err(format!(
                "starts at {:#x}; expected no address before its parent's, {from:#x}",
                line.start
            ));
        }
        if !line.wrapped && line.last < line.start {
            return Err(format!(
                "ends at {:#x}; expected no address before its start, {:#x}",
                line.last, line.start
            ));
        }
        let length = line.last.wrapping_sub(line.start);
        let heading = self.heading.take();
        let (name, alias) = match line.name {
            Name::Region(name) => (name.to_string(), None),
            Name::Alias {
                names,
                offset,
                last,
            } => {
                if last.wrapping_sub(offset) != length {
                    return Err(format!(
                        "shows {offset:#x} to {last:#x} of its target; expected as many bytes \
                         as the alias has"
                    ));
                }
                // The heading of an alias says its name; else it is found out later.
                let (name, target) = match &heading {
                    Some((_, Heading::Target(wanted))) => names
                        .strip_prefix(wanted)
                        .and_then(|rest| rest.strip_prefix(" @"))
                        .map_or((names, ""), |target| (*wanted, target)),
                    _ => {
                        self.unsplit.push((index, names));
                        ("", "")
                    }
                };
                let (name, target) = (name.to_string(), target.to_string());
                (name, Some(Alias { target, offset }))
            }
        };
        match heading {
            Some((_, Heading::Spaces(names))) => {
                self.dump.spaces.push(Spaces { names, root: index });
            }
            Some((_, Heading::Target(wanted))) if wanted != name => {
                return Err(format!(
                    "region '{}'; expected '{}' as the heading says",
                    cut(&name),
                    cut(wanted)
                ));
            }
            Some((_, Heading::Target(_))) => self.dump.targets.push(index),
            None => {}
        }
        if let Some((parent, _)) = parent {
            self.dump.regions[parent].children.push(index);
        }
        self.path.push((index, line.start));
        self.dump.regions.push(Drawn {
            line: number,
            name,
            kind: line.kind,
            address: line.start.wrapping_sub(from),
            size: u128::from(length) + 1,
            priority: line.priority,
            nonvolatile: line.nonvolatile,
            disabled: line.disabled,
            alias,
            parent: parent.map(|(index, _)| index),
            children: Vec::new(),
        });
        Ok(())
    }

    fn end(mut self, last_line: usize) -> Result<Dump, Fault> {
        if let Some((line, _)) = self.heading {
            return Err(Fault::new(line, "nothing follows; expected a region"));
        }
        if self.dump.spaces.is_empty() {
            let what = "no address space; expected the output of QEMU's 'info mtree -D'";
            return Err(Fault::new(last_line, what));
        }
        self.split_names()?;
        Ok(self.dump)
    }

    /// Tells an alias's name from its target's: at the last ` @` after which a
    /// known target's name follows.
    fn split_names(&mut self) -> Result<(), Fault> {
        let targets = self.dump.targets.iter();
        let known: HashSet<String> = targets
            .map(|&root| self.dump.regions[root].name.clone())
            .collect();
        for &(index, names) in &self.unsplit {
            let region = &mut self.dump.regions[index];
            let mut splits = names.rmatch_indices(" @");
            let split = splits.find(|(at, _)| known.contains(&names[at + 2..]));
            let Some((at, _)) = split else {
                let what = format!(
                    "alias '{}'; expected a 'memory-region:' block with its target's name",
                    cut(names)
                );
                return Err(Fault::new(region.line, what));
            };
            region.name = names[..at].to_string();
            if let Some(alias) = &mut region.alias {
                alias.target = names[at + 2..].to_string();
            }
        }
        Ok(())
    }
}
