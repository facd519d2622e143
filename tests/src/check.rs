// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Assertions that return a message.

use std::fmt;

/// Prefixes an error with the place where it happened.
pub(crate) fn at<E: fmt::Display>(what: impl fmt::Display) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Requires that `found` equals `due`.
pub(crate) fn same<T: PartialEq + fmt::Debug>(what: &str, found: T, due: T) -> Result<(), String> {
    match found == due {
        true => Ok(()),
        false => Err(format!("{what}: {found:x?}, not {due:x?}")),
    }
}
