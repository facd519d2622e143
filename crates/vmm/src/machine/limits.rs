// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Limits on what a machine file may expand to, repetitions included. A file of a
//! few bytes can stand for gigabytes of names, values and regions. With these
//! limits, reading, showing and running any file takes bounded memory and time.

/// How large a file may be, in bytes.
pub(super) const MAX_FILE: u64 = 4 << 20;

/// How many tables and arrays a file may have: the reader of TOML takes more
/// than a kilobyte for each, before it looks at what they are.
pub(super) const MAX_TABLES: u64 = 150_000;

/// How many dots a key may have: the reader of TOML has this limit too, but its
/// error has no line.
pub(super) const MAX_DOTS: u64 = 40;

/// How many values a file may have, for the same reason.
pub(super) const MAX_VALUES: u64 = 800_000;

/// How many regions a machine may have.
pub(super) const MAX_REGIONS: usize = 20_000;

/// How many steps a machine may have.
pub(super) const MAX_STEPS: usize = 100_000;

/// How long a name may be, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// How deep regions may be nested.
pub(super) const MAX_DEPTH: usize = 100;

/// How many regions an address space may show, counting each as often as
/// aliases show it.
pub(super) const MAX_SHOWN: u64 = 100_000;

/// How many initial values the regions may have together. Each may use a page of
/// its own.
pub(super) const MAX_INIT: u64 = 20_000;

/// How many private and shared ranges the BARs may have together.
pub(super) const MAX_SPANS: u64 = 20_000;

/// How many pieces the BARs may be cut into together.
pub(super) const MAX_PIECES: u64 = 60_000;

/// How many pages of memory the steps may touch.
pub(super) const MAX_PAGES: u64 = 50_000;

/// How many pages the steps `convert` and `accept` may name, together: 64 GiB of
/// memory. KVM stores the state of each page by itself, in 9 bytes or more, and a
/// conversion cannot be interrupted.
pub(super) const MAX_CONVERTED: u64 = 1 << 24;

/// How often the steps may try to read what they expect, together.
pub(super) const MAX_TRIES: u64 = 1_000_000;

/// Counts something up to a limit.
pub(super) struct Budget {
    limit: u64,
    used: u64,
    what: &'static str,
}

impl Budget {
    /// At most `limit` of `what`.
    pub(super) fn new(limit: u64, what: &'static str) -> Self {
        Self {
            limit,
            used: 0,
            what,
        }
    }

    /// Counts `more`, or returns the text of the limit that does not allow it.
    pub(super) fn take(&mut self, more: u64) -> Result<(), String> {
        self.used = self.used.saturating_add(more);
        match self.used <= self.limit {
            true => Ok(()),
            false => {
                let Self { limit, what, .. } = self;
                Err(format!("there are more than {limit} {what}"))
            }
        }
    }
}

/// What is wrong with a name, if anything.
pub(super) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() || name.contains(char::is_control) {
        return Some("a name is not empty and has no control characters".into());
    }
    if name.len() > MAX_NAME {
        let len = name.len();
        return Some(format!(
            "a name has at most {MAX_NAME} bytes; this one has {len}"
        ));
    }
    None
}
