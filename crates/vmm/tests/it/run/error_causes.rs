// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors and their causes in one line.

use memory_model::CommitError;
use vmm::board::{BoardError, RegionError};
use vmm::guest::GuestError;
use vmm::run::RunError;
use vmm::with_causes;

#[derive(Debug, thiserror::Error)]
#[error("slot 3 could not be created")]
struct Outer(#[source] std::fmt::Error);

#[test]
fn a_listeners_error_is_printed_once_and_so_is_its_cause() {
    let error = CommitError::Refused {
        listener: "KVM memslots".into(),
        source: Box::new(Outer(std::fmt::Error)),
        not_undone: Vec::new(),
    };
    let why = "listener 'KVM memslots' refused the change: slot 3 could not be created";
    assert_eq!(error.to_string(), why);
    let cause = std::fmt::Error;
    assert_eq!(with_causes(&error), format!("{why}: {cause}"));
}

#[test]
fn the_cause_of_a_region_or_guest_that_cannot_be_made_is_printed_once() {
    let memory = std::io::Error::other("no memory");
    let region = BoardError::Region {
        region: "ram".into(),
        source: RegionError::Host(memory),
    };
    let why = "region 'ram': its memory cannot be allocated: no memory";
    assert_eq!(with_causes(&RunError::Board(region)), why);
    let guest = RunError::Guest(GuestError::Stopped("shutdown".into()));
    let why = "the guest cannot be started: the vCPU stopped: shutdown";
    assert_eq!(with_causes(&guest), why);
}
