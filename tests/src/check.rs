// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What tests say where something is not as it should be.

use std::fmt;

/// An error in words, behind where it happened.
pub(crate) fn at<E: fmt::Display>(what: impl fmt::Display) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// That two things are the same.
pub(crate) fn same<T: PartialEq + fmt::Debug>(what: &str, found: T, due: T) -> Result<(), String> {
    match found == due {
        true => Ok(()),
        false => Err(format!("{what}: {found:x?}, not {due:x?}")),
    }
}
