// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the user should know and the guest does not notice. A guest may cause any
//! number of these, so only the first ones are kept.

use std::sync::{Arc, Mutex, PoisonError};

/// The most notes that are kept.
const MOST: usize = 32;

/// Notes. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    inner: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    notes: Vec<String>,
    dropped: u64,
}

impl Notes {
    /// Adds a note.
    pub fn add(&self, note: String) {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.notes.len() {
            MOST => kept.dropped += 1,
            _ => kept.notes.push(note),
        }
    }

    /// The notes so far; the last one says how many were dropped.
    pub fn list(&self) -> Vec<String> {
        let kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = (kept.dropped > 0).then(|| format!("and {} more", kept.dropped));
        kept.notes.iter().cloned().chain(dropped).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_causes_many_notes_fills_no_memory() {
        let notes = Notes::default();
        for number in 0..1000 {
            notes.add(format!("{number}"));
        }
        let list = notes.list();
        assert_eq!((list[0].as_str(), list.len()), ("0", MOST + 1));
        assert_eq!(list[MOST], "and 968 more");
    }
}
