// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that uses only the diffs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use memory_model::{DirtyClients, FlatRange, Listener, ListenerError, Update};

use super::attached::Attached;

/// Follows a view by its diffs alone, and undoes them on an abort.
#[derive(Debug)]
pub struct Follower {
    pub runs: Mutex<Vec<FlatRange<usize>>>,
    pub logging: Mutex<DirtyClients>,
    pub attached: Mutex<Attached>,
    pub refuses: Arc<AtomicBool>,
}

impl Listener<usize> for Follower {
    fn name(&self) -> &str {
        "follower"
    }

    fn prepare(&self, update: &Update<'_, usize>) -> Result<(), ListenerError> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err("refused".into());
        }
        let mut runs = self.runs.lock().unwrap();
        assert!(runs.iter().eq(update.old.ranges()), "the view it had");
        let mut take = |run: &FlatRange<usize>| {
            let position = runs.iter().position(|r| r == run).expect("it was there");
            runs.remove(position)
        };
        let diff = update.diff;
        let logging = update.global_logging;
        let had = core::mem::replace(&mut *self.logging.lock().unwrap(), logging.after);
        assert_eq!(had, logging.before);
        let differs = !diff.is_empty() || !update.attachments.is_empty();
        assert!(logging.changes() || differs, "nothing differs");
        self.attached.lock().unwrap().follow(update, false);
        let removed: Vec<_> = diff.removed.iter().map(&mut take).collect();
        for (old, new) in &diff.changed {
            take(old);
            assert!(old.same_bytes(new) && old != new, "{old:?} > {new:?}");
        }
        for run in &diff.added {
            assert!(!removed.iter().any(|r| r.same_bytes(run)), "{run:?} stays");
        }
        let changed = diff.changed.iter().map(|(_, new)| new);
        runs.extend(diff.added.iter().chain(changed).cloned());
        runs.sort_by_key(|run| run.range());
        assert!(runs.iter().eq(update.new.ranges()), "the view it gets");
        Ok(())
    }

    fn abort(&self, update: &Update<'_, usize>) -> Result<(), ListenerError> {
        *self.logging.lock().unwrap() = update.global_logging.before;
        self.attached.lock().unwrap().follow(update, true);
        *self.runs.lock().unwrap() = update.old.ranges().cloned().collect();
        Ok(())
    }
}
