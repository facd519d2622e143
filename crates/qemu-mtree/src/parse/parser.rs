// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the lines of a dump into trees.

use std::collections::HashSet;

use super::dump::{Alias, Drawn, Dump, Spaces};
use super::line::{self, HEADINGS, Name, RegionLine, cut};
use super::other_output::{FLAT, OWNED, is_flat, is_monitor, is_owned};
use super::paste::Paste;
use crate::error::Fault;

/// The most regions. The largest real dumps have some hundreds.
const MAX_REGIONS: usize = 16_384;
/// The most address spaces. Real dumps have some dozens.
const MAX_SPACES: usize = 16_384;
/// The longest line of a region or heading, in bytes. Real lines have about 150. Later
/// steps copy names many times.
const MAX_LINE: usize = 1000;
/// The most levels. Real dumps have about ten.
const MAX_DEPTH: usize = 128;

/// The heading of a tree.
enum Heading<'a> {
    Spaces(Vec<String>),
    Target(&'a str),
}

struct Parser<'a> {
    dump: Dump,
    /// The heading of a tree whose root has not been read yet, and its line.
    heading: Option<(usize, Heading<'a>)>,
    /// The path from the root of the current tree to its last region: index and
    /// start address of each.
    path: Vec<(usize, u64)>,
    /// The empty line or monitor line that ended the last tree, until the next
    /// heading.
    gap: Option<(usize, &'static str)>,
    /// Aliases whose name and target's name are not split yet.
    unsplit: Vec<(usize, &'a str)>,
    /// The number of address spaces, of which several can have one root.
    spaces: usize,
}

/// Parses a dump.
pub(crate) fn parse(text: &str) -> Result<Dump, Fault> {
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
        spaces: 0,
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

/// Refuses what a terminal would act on when the names are printed.
fn check_names(line: &str) -> Result<(), String> {
    match line.find(char::is_control) {
        Some(at) => Err(format!("a control character at byte {at}; expected none")),
        None => Ok(()),
    }
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
        if line.len() > MAX_LINE {
            let what = format!("{} bytes; expected at most {MAX_LINE}", line.len());
            return Err(fault(what));
        }
        if self.heading(number, line).map_err(fault)? {
            return check_names(line).map_err(fault);
        }
        let region = line::region(line).map_err(fault)?;
        check_names(line).map_err(fault)?;
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

    /// Handles an empty line or a line of the monitor, which ends a tree.
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

    /// Stores the line if it is the heading of a tree, and returns whether it
    /// is.
    fn heading(&mut self, number: usize, line: &'a str) -> Result<bool, String> {
        if let Some(name) = line.strip_prefix(HEADINGS[0]) {
            self.path.clear();
            self.spaces += 1;
            if self.spaces > MAX_SPACES {
                return Err(format!("more than {MAX_SPACES} address spaces"));
            }
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
        if parent.is_some_and(|(parent, _)| self.dump.regions[parent].alias.is_some()) {
            return Err(
                "a region in an alias; expected none. Without -D, 'info mtree' leaves out disabled \
                 regions, but not what is in them: print 'info mtree -D'"
                    .into(),
            );
        }
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
                // The heading contains the alias's name. Without a heading,
                // `split_names` finds it later.
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

    /// Splits an alias's name from its target's name, at the last ` @` that a
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
