// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listeners that join and leave, and spaces that are removed and added.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use memory_model::{
    CommitError, DirtyClients, NoSuchSpace, PageState, RemoveListenerError, RemoveSpaceError,
    SpaceId, StateError,
};

use super::follower::Follower;
use super::ops::Pick;
use super::twins::Twins;

/// A listener or space that joins or leaves.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// A listener joins a space with some priority, and may refuse.
    Join(usize, i32, bool),
    /// A listener leaves, and may refuse.
    Leave(Pick, bool),
    /// A space is removed with its listeners, and another one is added.
    Renew(usize),
}

/// More followers would be slow.
const MOST: usize = 6;

impl Twins {
    /// Makes a listener or a space join or leave.
    pub fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Join(s, priority, refuses) if self.followers.len() < MOST => {
                self.join(s, priority, refuses);
            }
            Turn::Leave(pick, refuses) if !self.followers.is_empty() => {
                let index = usize::from(pick) % self.followers.len();
                self.leave(index, refuses);
            }
            Turn::Renew(s) => self.renew(s),
            Turn::Join(..) | Turn::Leave(..) => {}
        }
    }

    /// Makes the followers of priority 1 refuse transactions, too.
    pub fn join(&mut self, s: usize, priority: i32, refuses: bool) {
        let space = self.spaces[s];
        let follower = Arc::new(Follower {
            runs: Mutex::default(),
            logging: Mutex::default(),
            attached: Mutex::default(),
            refuses: match priority {
                1 => self.refuses.clone(),
                _ => Arc::default(),
            },
        });
        let asked = refuses && self.shows(space);
        let listener = follower.clone();
        let joined = refusing(&follower.refuses, refuses, || {
            self.model.add_listener(space, priority, listener)
        });
        assert_eq!(joined.is_err(), asked);
        if joined.is_ok() {
            self.followers.push((space, follower));
        }
    }

    fn leave(&mut self, index: usize, refuses: bool) {
        let (space, follower) = self.followers[index].clone();
        let s = self.spaces.iter().position(|s| *s == space).unwrap();
        let asked = refuses && self.shows(space);
        let left = refusing(&follower.refuses, refuses, || {
            self.model.remove_listener(space, &follower)
        });
        match left {
            Err(RemoveListenerError::Commit(CommitError::Accepted { range, .. })) => {
                assert!(self.accepted[s].contains(&range.start()));
            }
            Err(RemoveListenerError::Commit(CommitError::Refused { .. })) => {
                assert!(asked && self.accepted[s].is_empty());
            }
            Ok(()) => {
                assert!(!asked && self.accepted[s].is_empty());
                assert!(follower.runs.lock().unwrap().is_empty());
                assert!(follower.attached.lock().unwrap().is_empty());
                let logging = *follower.logging.lock().unwrap();
                assert_eq!(logging, DirtyClients::NONE);
                self.followers.remove(index);
                let again = self.model.remove_listener(space, &follower);
                let gone = matches!(again, Err(RemoveListenerError::NotFollowing { .. }));
                assert!(gone);
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn renew(&mut self, s: usize) {
        let space = self.spaces[s];
        let (reader, shown) = (self.model.reader(space), self.model.view(space).len());
        while let Some(index) = self.followers.iter().position(|f| f.0 == space) {
            let refused = self.model.remove_space(space);
            assert!(matches!(refused, Err(RemoveSpaceError::InUse { .. })));
            self.leave(index, false);
            if !self.accepted[s].is_empty() {
                return;
            }
        }
        match self.model.remove_space(space) {
            Ok(()) => assert!(self.accepted[s].is_empty()),
            Err(RemoveSpaceError::Commit(CommitError::Accepted { range, .. })) => {
                assert!(self.accepted[s].contains(&range.start()));
                assert_eq!(reader.view().len(), shown);
                return;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(reader.view().is_empty());
        let all = memory_model::AddrRange::ALL;
        let none = Err(StateError::NoSuchSpace(NoSuchSpace(space)));
        let shared = PageState::Shared;
        assert_eq!(self.model.set_page_state(space, all, shared), none);

        let root = self.painted.nodes[self.painted.roots[s]].id;
        let new = self.model.add_space("s", root).unwrap();
        assert!(self.spaces.iter().all(|earlier| *earlier < new));
        self.spaces[s] = new;
        for priority in [0, 1] {
            self.join(s, priority, false);
        }
    }

    /// Whether a listener that joins or leaves is notified.
    fn shows(&self, space: SpaceId) -> bool {
        !self.model.view(space).is_empty() || self.painted.logging != DirtyClients::NONE
    }

    /// Whether a follower of the space refuses.
    pub fn refuses_in(&self, s: usize) -> bool {
        let mut there = self.followers.iter().filter(|f| f.0 == self.spaces[s]);
        there.any(|(_, follower)| Arc::ptr_eq(&follower.refuses, &self.refuses))
    }
}

fn refusing<T>(flag: &AtomicBool, refuses: bool, act: impl FnOnce() -> T) -> T {
    flag.store(refuses, Ordering::Relaxed);
    let result = act();
    flag.store(false, Ordering::Relaxed);
    result
}
