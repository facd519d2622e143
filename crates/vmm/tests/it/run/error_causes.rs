// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors of listeners in one line.

use memory_model::CommitError;
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
